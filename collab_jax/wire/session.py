"""Session of messages: fields and coding that both ends agreed on."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.wire import checksum, framing, layers, session_json
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import static


class Session:
  """Turns messages into bytes and back.

  ```python
  session = wire.Session({'indices': messages.Symbols(8, (256,))})
  data = session.pack({'indices': np.zeros(256, int)})
  session.unpack(data)['indices']
  ```

  Both ends build it from the same fields, frequencies and spec, so that a
  message carries neither shapes nor names: one byte of version and models, a
  check that depends on all that was agreed, and the fields. Layers come one
  after the other, coarse to fine, each with its own check.

  Attributes:
    fields: Fields of a message, by name.
    priors: Frequencies of symbols, by field.
    spec: Other agreed facts as plain values, for instance the quantizer and
      the fingerprints of model and codebooks.
    coding: 'best' codes each field with the model that is smallest for it;
      'fixed' gives all messages one length, and packs many at once.
    digest: SHA-256 of all these, in hexadecimal.
    layers: Number of layers of a whole message.
  """

  def __init__(
    self,
    fields: declared.Fields,
    priors: Mapping[str, np.ndarray] | None = None,
    spec: Mapping[str, Any] | None = None,
    coding: str = 'best',
  ):
    """Checks the agreement and derives its digest.

    Args:
      fields: Fields that `Quantizer.fields` returned.
      priors: Frequencies that `Quantizer.priors` returned.
      spec: Plain values that must be the same on both ends.
      coding: 'best' or 'fixed'.

    Raises:
      ValueError: An argument is not as described.
    """
    session_json.check_coding(coding)
    declared.check(fields)
    self.fields = dict(fields)
    self.priors = static.check(priors or {}, self.fields)
    self.spec = dict(spec or {})
    self.coding = coding
    self._described = session_json.describe(
      self.fields, self.priors, self.spec, coding
    )
    self._digest = session_json.digest(self._described)
    self.digest = self._digest.hex()
    self.layers = 1 + max(field.layer for field in fields.values())
    self._layers: list[layers.Layer] = []
    for i in range(self.layers):
      of_layer = {n: f for n, f in self.fields.items() if f.layer == i}
      if coding == 'fixed':
        self._layers.append(layers.FixedLayer(of_layer, i == 0))
      else:
        self._layers.append(layers.BestLayer(of_layer, self.priors, i == 0))

  def pack(self, message: Mapping[str, np.ndarray]) -> bytes:
    """Turns the message of one image into bytes.

    Args:
      message: One array per field, on the host.

    Returns:
      The bytes.

    Raises:
      ValueError: The message is not as declared: names, shapes, types,
        symbols beyond the alphabet, numbers that are not finite.
    """
    return self.pack_batch(
      {k: np.asarray(v)[None] for k, v in message.items()}
    )[0]

  def unpack(self, data: bytes) -> declared.Message:
    """Turns bytes back into the message of one image.

    Args:
      data: Bytes that `pack` returned, their first layers, or any others.

    Returns:
      One array per field of the layers in the data: int32 for symbols, the
      declared type for values. `present` returns the layers.

    Raises:
      FormatError: The bytes are damaged, cut inside a layer, or of another
        session.
      TypeError: The data are no bytes.
    """
    batch = self.unpack_batch([data])
    return {n: v.reshape(v.shape[1:]) for n, v in batch.items()}

  def pack_batch(self, message: Mapping[str, np.ndarray]) -> list[bytes]:
    """Turns the messages of B images into bytes, as `pack` does for each.

    Args:
      message: One array per field, with an axis B in front.

    Returns:
      B messages.

    Raises:
      ValueError: As `pack`, or if the arrays differ in B.
    """
    if message.keys() != self.fields.keys():
      raise _validate.error(
        'message: fields', sorted(message), f'{sorted(self.fields)}'
      )
    # Numbers first: if they are not finite, symbols may be anything.
    fields = sorted(
      self.fields.items(), key=lambda f: isinstance(f[1], messages.Symbols)
    )
    rows = {
      name: declared.flat(name, np.asarray(message[name]), field)
      for name, field in fields
    }
    counts = {len(column) for column in rows.values()}
    if len(counts) > 1:
      raise _validate.error(
        'message: images by field', sorted(counts), 'the same number in all'
      )
    wrong = declared.nonzero_beyond_count(rows, self.fields)
    if wrong:
      raise ValueError(f'{wrong}, expected zeros')
    count = counts.pop()
    crcs: list[int] = [checksum.crc32c(self._digest)] * count
    parts: list[list[Any]] = [[] for _ in range(count)]
    for i, layer in enumerate(self._layers):
      for image, (head, body) in enumerate(layer.pack(rows, count)):
        length = framing.length(self._layers, i, sum(map(len, body)))
        crc = checksum.crc32c(length, head, *body, start=crcs[image])
        parts[image] += [length, head, checksum.to_bytes(crc), *body]
        crcs[image] = crc
    return [b''.join(message) for message in parts]

  def unpack_batch(self, data: Sequence[bytes]) -> declared.Message:
    """Turns B messages back into arrays with an axis B in front.

    Args:
      data: Messages of this session, all with the same layers.

    Returns:
      One array per field, as `unpack`.

    Raises:
      FormatError: As `unpack`; its text has the index of the message.
    """
    frames = [framing.split(self._layers, row, i) for i, row in enumerate(data)]
    counts = {len(parts) for parts in frames} or {self.layers}
    if len(counts) > 1:
      raise declared.FormatError(
        f'messages: got {sorted(counts)} of {self.layers} layers, expected the'
        ' same layers in a batch; unpack them one by one, or cut them alike'
      )
    count = counts.pop()
    crcs, message = [checksum.crc32c(self._digest)] * len(frames), {}
    for i in range(count):
      parts = [row[i] for row in frames]
      crcs = self._check_layer(i, parts, crcs)
      message |= self._layers[i].unpack([(p.head, p.body) for p in parts])
    wrong = declared.nonzero_beyond_count(message, self.fields)
    if wrong:
      raise declared.FormatError(f'{wrong}, expected zeros')
    return {name: message[name] for name in self.fields if name in message}

  @property
  def length(self) -> int | None:
    """Number of bytes of a whole message; None if messages differ."""
    bodies = [layer.body for layer in self._layers]
    if None in bodies:
      return None
    heads = sum(layer.head + checksum.SIZE for layer in self._layers)
    return heads + sum(body or 0 for body in bodies)

  def present(self, message: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the layers of a message that `unpack` returned."""
    return tuple(sorted({self.fields[name].layer for name in message}))

  def split(self, data: bytes) -> list[bytes]:
    """Cuts a message into its layers; the first few, joined, are a message.

    Args:
      data: A message, or its first layers; only lengths are checked.

    Raises:
      FormatError: The message ends inside a layer.
    """
    return [
      b''.join((*part[:3], part.body.data))
      for part in framing.split(self._layers, data)
    ]

  def sizes(self, data: bytes) -> dict[str, int]:
    """Returns the bytes of a message by field; they add up to its length.

    The coded fields of a layer share one stream of bytes, which is divided in
    proportion to their information, to the nearest byte.

    Args:
      data: A message.

    Returns:
      Bytes of 'header' (versions, models, lengths and checksums) and of each
      field.

    Raises:
      FormatError: The data are no message; of the coding 'fixed' only lengths
        are checked.
    """
    frames = framing.split(self._layers, data)
    # Sizes of 'fixed' messages follow from the fields.
    message = {} if self.coding == 'fixed' else self.unpack_batch([data])
    sizes = {'header': 0}
    for layer, part in zip(self._layers, frames, strict=False):
      sizes['header'] += len(part.length + part.head + part.check)
      sizes |= layer.sizes((part.head, part.body), message)
    return sizes

  def to_json(self, priors: bool = False) -> str:
    """Returns the session for the other end to compare.

    Args:
      priors: Whether to write the frequencies, not only their SHA-256, so
        that `from_json` needs nothing else.
    """
    described = self._described
    if priors:
      described = session_json.with_tables(described, self.priors)
    return json.dumps({**described, 'digest': self.digest})

  @classmethod
  def from_json(
    cls,
    text: str | bytes,
    priors: Mapping[str, np.ndarray] | None = None,
    limit: int = 1 << 28,
  ) -> 'Session':
    """Builds the session that another end described.

    Args:
      text: JSON that its `to_json` returned, or any other text.
      priors: The frequencies, unless the text holds them.
      limit: The most bytes that a message's arrays may take, and the most
        that all tables in the text may, at 8 bytes a frequency.

    Returns:
      A session with the same digest.

    Raises:
      FormatError: The text describes no session, one with other frequencies,
        or one of messages or tables beyond the limit.
    """
    read = session_json.parse(text, limit)
    try:
      session = cls(
        read['fields'],
        {**read['priors'], **(priors or {})},
        read['spec'],
        read['coding'],
      )
    except (TypeError, ValueError) as error:
      raise declared.FormatError(f'session JSON: {error}') from error
    differ = session_json.differences(session._described, read['described'])
    if read['digest'] not in (None, session.digest):
      differ.append(f'digest: here {session.digest}, there {read["digest"]}')
    if differ:
      raise declared.FormatError('sessions differ: ' + '; '.join(differ))
    return session

  def differences(self, other: 'Session | str | bytes') -> list[str]:
    """Returns the differences between two sessions, a line each.

    Args:
      other: A session, or its JSON.

    Raises:
      FormatError: The text is no JSON of a session.
    """
    if isinstance(other, Session):
      described = other._described
    else:
      described = session_json.parse(other)['described']
    return session_json.differences(self._described, described)

  def __repr__(self) -> str:
    """Shows the fields, the coding and the start of the digest."""
    return (
      f'Session({list(self.fields)}, coding={self.coding!r}, '
      f'digest={self.digest[:8]}...)'
    )

  def _check_layer(self, layer, parts, crcs):
    """Checks version and CRC of a layer; returns the CRCs up to its end."""
    if layer == 0:
      for i, part in enumerate(parts):
        version = part.head[0] >> 8 - layers.VERSION_BITS
        if version != layers.VERSION:
          raise declared.FormatError(
            f'message {i}: got version {version}, expected {layers.VERSION}'
          )
    crcs = [
      checksum.crc32c(part.length, part.head, part.body, start=crc)
      for crc, part in zip(crcs, parts, strict=True)
    ]
    for i, (crc, part) in enumerate(zip(crcs, parts, strict=True)):
      if checksum.to_bytes(crc) != part.check:
        raise declared.FormatError(
          f'message {i}: the check of layer {layer} fails: it is damaged, or'
          f' of another session than {self!r}; compare them by `differences`'
        )
    return crcs
