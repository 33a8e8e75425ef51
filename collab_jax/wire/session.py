"""Messages of one agreed kind as bytes: docs/wire.md says how."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

import numpy as np

from collab_jax import message as messages
from collab_jax.wire import checksum, framing, layers, session_json
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import static


class Session:
  """Turns messages into bytes and back, as both ends have agreed.

  Both ends build it from the same fields, frequencies and spec, so that a
  message carries neither shapes nor names: one byte of version and models, a
  check that depends on all that was agreed, and the fields. Layers come one
  after the other, coarse to fine, each with its own check.

  Attributes:
    fields: What a message holds, by name.
    priors: Frequencies of symbols, by field.
    spec: What else has been agreed: plain values, for instance the quantizer
      and the fingerprints of model and codebooks.
    coding: 'best' codes each field with the model that is smallest for it;
      'fixed' gives all messages one length, and packs many at once.
    digest: SHA-256 of all of this, in hexadecimal.
    layers: How many layers a whole message has.
  """

  def __init__(
    self,
    fields: declared.Fields,
    priors: Mapping[str, np.ndarray] | None = None,
    spec: Mapping[str, Any] | None = None,
    coding: str = 'best',
  ):
    """Agrees on a kind of messages.

    Args:
      fields: What `Quantizer.fields` returned.
      priors: What `Quantizer.priors` returned, if there is such a method.
      spec: Plain values that must be the same on both ends.
      coding: 'best' or 'fixed'.

    Raises:
      ValueError: One of them is not as described.
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
    every: list[dict[str, messages.Field]] = [{} for _ in range(self.layers)]
    for name, field in self.fields.items():
      every[field.layer][name] = field
    self._layers: list[layers.Layer] = []
    for i, of_layer in enumerate(every):
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
      data: What `pack` returned, its first whole layers, or anything.

    Returns:
      One array per field of the layers that are there: int32 for symbols, the
      declared type for values. `present` tells the layers.

    Raises:
      FormatError: The bytes are damaged, cut inside a layer, or of another
        session.
      TypeError: It is no bytes at all.
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
      raise ValueError(
        f'A message must hold the fields {sorted(self.fields)}, got '
        f'{sorted(message)}.'
      )
    rows = {
      name: declared.flat(name, np.asarray(message[name]), field)
      for name, field in self.fields.items()
    }
    counts = {len(column) for column in rows.values()}
    if len(counts) > 1:
      raise ValueError(
        f'The fields hold different numbers of images: {counts}.'
      )
    wrong = declared.nonzero_beyond_count(rows, self.fields)
    if wrong:
      raise ValueError(f'{wrong}, expected zeros.')
    count = counts.pop()
    crcs: list[int] = [checksum.crc32c(self._digest)] * count
    parts: list[list[bytes]] = [[] for _ in range(count)]
    for i, layer in enumerate(self._layers):
      for image, (head, body) in enumerate(layer.pack(rows, count)):
        length = framing.length(self._layers, i, body)
        crc = checksum.crc32c(length, head, body, start=crcs[image])
        parts[image] += [length, head, checksum.to_bytes(crc), body]
        crcs[image] = crc
    return [b''.join(message) for message in parts]

  def unpack_batch(self, data: Sequence[bytes]) -> declared.Message:
    """Turns B messages back into arrays with an axis B in front.

    Args:
      data: Messages of this session, all with the same layers.

    Returns:
      One array per field, as `unpack`.

    Raises:
      FormatError: As `unpack`; the message tells which of the B is wrong.
    """
    frames = [framing.split(self._layers, row, i) for i, row in enumerate(data)]
    counts = {len(parts) for parts in frames} or {self.layers}
    if len(counts) > 1:
      raise declared.FormatError(
        f'The messages of a batch need the same layers, got {sorted(counts)} '
        f'of {self.layers}: unpack them one by one, or cut them alike.'
      )
    count = counts.pop()
    crcs, found = [checksum.crc32c(self._digest)] * len(frames), {}
    for i in range(count):
      parts = [row[i] for row in frames]
      crcs = self._check_layer(i, parts, crcs)
      found |= self._layers[i].unpack([(p.head, p.body) for p in parts])
    wrong = declared.nonzero_beyond_count(found, self.fields)
    if wrong:
      raise declared.FormatError(f'{wrong}, expected zeros.')
    return {name: found[name] for name in self.fields if name in found}

  @property
  def length(self) -> int | None:
    """Bytes of every whole message; None if they differ."""
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
      data: A message, or its first whole layers. Nothing but lengths is
        checked.

    Raises:
      FormatError: The message ends inside a layer.
    """
    return [
      part.length + part.head + part.check + part.body
      for part in framing.split(self._layers, data)
    ]

  def sizes(self, data: bytes) -> dict[str, int]:
    """Returns the bytes of a message by field; they add up to its length.

    The coded fields of a layer share one stream of bytes. They are said to
    take what their symbols' probabilities amount to, to the nearest byte.

    Args:
      data: A message.

    Returns:
      'header' (versions, models, lengths and checks) and each field.

    Raises:
      FormatError: It is none; of the coding 'fixed' only lengths are checked.
    """
    frames = framing.split(self._layers, data)
    # What is always the same need not be decoded.
    message = {} if self.coding == 'fixed' else self.unpack_batch([data])
    sizes = {'header': 0}
    for layer, part in zip(self._layers, frames, strict=False):
      sizes['header'] += len(part.length + part.head + part.check)
      sizes |= layer.sizes((part.head, part.body), message)
    return sizes

  def to_json(self, priors: bool = False) -> str:
    """Returns the session for the other end to compare.

    Args:
      priors: Whether it holds the frequencies themselves, not their SHA-256
        only, so that `from_json` needs nothing else.
    """
    plain_ = self._described
    if priors:
      plain_ = session_json.with_tables(plain_, self.priors)
    return json.dumps({**plain_, 'digest': self.digest})

  @classmethod
  def from_json(
    cls,
    text: str | bytes,
    priors: Mapping[str, np.ndarray] | None = None,
    limit: int = 1 << 28,
  ) -> 'Session':
    """Builds the session that another end described.

    Args:
      text: What its `to_json` returned, or anything.
      priors: The frequencies, unless the text holds them.
      limit: The most bytes that a message's arrays may take, and the most
        that all tables in the text may, at 8 bytes a frequency.

    Returns:
      A session with the same digest.

    Raises:
      FormatError: It describes none, one with other frequencies, or one of
        larger messages or tables.
    """
    read = session_json.parse(text, limit)
    try:
      made = cls(
        read['fields'],
        {**read['priors'], **(priors or {})},
        read['spec'],
        read['coding'],
      )
    except (TypeError, ValueError) as error:
      raise declared.FormatError(
        f'The JSON describes no session: {error}'
      ) from error
    differ = session_json.differences(made._described, read['described'])
    if read['digest'] not in (None, made.digest):
      differ.append(f'digest: here {made.digest}, there {read["digest"]}')
    if differ:
      raise declared.FormatError('Other sessions: ' + '; '.join(differ))
    return made

  def differences(self, other: 'Session | str | bytes') -> list[str]:
    """Returns what differs between two sessions, a line each; none if nothing.

    Args:
      other: A session, or its JSON.

    Raises:
      FormatError: It is no JSON of a session.
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
            f'Message {i} has the version {version}, expected {layers.VERSION}.'
          )
    crcs = [
      checksum.crc32c(part.length, part.head, part.body, start=crc)
      for crc, part in zip(crcs, parts, strict=True)
    ]
    for i, (crc, part) in enumerate(zip(crcs, parts, strict=True)):
      if checksum.to_bytes(crc) != part.check:
        raise declared.FormatError(
          f'Message {i}: the check of layer {layer} fails. It is damaged, or '
          f'of another session than {self!r}; compare them by `differences`.'
        )
    return crcs
