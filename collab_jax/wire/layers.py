"""Layers of a message: a head with the fields' models, and a body."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from collab_jax import message as messages
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import (
  field_coder,
  fixed,
  range_coder,
)

VERSION = 1
VERSION_BITS = 3

_SPARE_BIT = 'head: a spare bit is set'

# Head, and body as the parts that follow each other.
Packed = tuple[bytes, Sequence[bytes | np.ndarray]]
HeadAndBody = tuple[bytes, np.ndarray]  # Head, and body uint8[size].


@runtime_checkable
class Layer(Protocol):
  """Format of the fields that are sent together."""

  @property
  def head(self) -> int:
    """Number of bytes of a head."""
    ...

  @property
  def body(self) -> int | None:
    """Number of bytes of a body; None if bodies differ."""
    ...

  def pack(self, rows: Mapping[str, np.ndarray], count: int) -> list[Packed]:
    """Packs rows that `fields.flat` returned into B heads and bodies."""
    ...

  def unpack(self, received: Sequence[HeadAndBody]) -> declared.Message:
    """Unpacks arrays with an axis B; FormatError if one is damaged."""
    ...

  def sizes(
    self, received: HeadAndBody, message: declared.Message
  ) -> dict[str, int]:
    """Returns the bytes of a body by field, given its message (B = 1)."""
    ...


class FixedLayer:
  """Layer of the coding 'fixed'; see `coding.fixed`."""

  def __init__(self, fields: declared.Fields, first: bool):
    """Binds the fields; only the first layer has a version."""
    self._fields = fields
    self._head = bytes([VERSION << 8 - VERSION_BITS]) if first else b''
    self.head = len(self._head)
    self._sizes = fixed.sizes(fields)
    self.body = sum(self._sizes.values())

  def pack(self, rows: Mapping[str, np.ndarray], count: int) -> list[Packed]:
    """Packs all bodies at once."""
    columns = fixed.pack(rows, self._fields)
    return [(self._head, [c[i] for c in columns]) for i in range(count)]

  def unpack(self, received: Sequence[HeadAndBody]) -> declared.Message:
    """Unpacks all bodies at once."""
    if any(head != self._head for head, _ in received):
      raise declared.FormatError(_SPARE_BIT)
    return fixed.unpack([body for _, body in received], self._fields)

  def sizes(
    self, received: HeadAndBody, message: declared.Message
  ) -> dict[str, int]:
    """Returns the sizes that all bodies have."""
    del received, message
    return self._sizes


class BestLayer:
  """Layer of the coding 'best': a stream of range coding, then raw bytes.

  The head has the number of each field's model, two bits for symbols and one
  for values, the highest bit first, after the version and padded with zeros.
  Fields that cannot vary have none.
  """

  def __init__(
    self,
    fields: declared.Fields,
    priors: Mapping[str, np.ndarray],
    first: bool,
  ):
    """Binds the fields; only the first layer has a version."""
    self._fields = fields
    self._coders = field_coder.make(fields, priors)
    self._version = VERSION_BITS if first else 0
    bits = sum(c.flag_bits for c in self._coders.values())
    self.head = -(-(bits + self._version) // 8)
    self.body = None

  def pack(self, rows: Mapping[str, np.ndarray], count: int) -> list[Packed]:
    """Packs message by message."""
    return [
      self._pack({name: rows[name][i] for name in self._coders})
      for i in range(count)
    ]

  def plans(
    self, row: Mapping[str, np.ndarray]
  ) -> dict[str, field_coder.EncodingPlan]:
    """Chooses a model for each field of one message."""
    plans = {}
    for name, coder in self._coders.items():
      coder = _resized(coder, row)
      plans[name] = coder.plan(row[name][: coder.count])
    return plans

  def _pack(self, row):
    plans = self.plans(row)
    writer = range_coder.Writer()
    head = VERSION if self._version else 0
    left = 8 * self.head - self._version
    for name, plan in plans.items():
      plan.write(writer)
      head = head << self._coders[name].flag_bits | plan.model
      left -= self._coders[name].flag_bits
    raw = (plan.raw for plan in plans.values())
    return (head << left).to_bytes(self.head, 'big'), [writer.finish(), *raw]

  def unpack(self, received: Sequence[HeadAndBody]) -> declared.Message:
    """Unpacks message by message."""
    rows = [self._unpack(*pair) for pair in received]
    message = {}
    for name, field in self._fields.items():
      if name in self._coders and rows:
        values = np.stack([row[name] for row in rows])
      else:  # Not sent, because it cannot vary.
        dtype = np.int32
        if isinstance(field, messages.Values):
          dtype = declared.DTYPES[field.dtype]
        values = np.zeros((len(rows), declared.count(field)), dtype)
      message[name] = values.reshape(len(rows), *field.shape)
    return message

  def _unpack(self, head, body):
    models, raw = self._models(head)
    at = len(body) - sum(raw.values())
    if at < 0:
      raise declared.FormatError(
        f'body: got {len(body)} bytes, expected at least {sum(raw.values())}'
      )
    if at and not (self._coders and body[at - 1]):
      raise declared.FormatError('body: the coded symbols end in a spare byte')
    reader, row = range_coder.Reader(body[:at].tobytes()), {}
    for name, coder in self._coders.items():
      end = at + raw[name]
      resized = _resized(coder, row)
      values = resized.read(reader, models[name], body[at:end])
      padding = coder.count - resized.count
      row[name] = np.pad(values, (0, padding)) if padding else values
      at = end
    return row

  def _models(self, head):
    """Reads the model of each field; returns them and the raw bytes of each."""
    value = int.from_bytes(head, 'big')
    left = 8 * len(head) - self._version
    models, raw = {}, {}
    for name, coder in self._coders.items():
      left -= coder.flag_bits
      models[name] = value >> left & ((1 << coder.flag_bits) - 1)
      if models[name] not in coder.models:
        raise declared.FormatError(
          f'field {name!r}: got the model {models[name]}, expected one of'
          f' {sorted(coder.models)}'
        )
      raw[name] = coder.raw_size(models[name])
    if value & ((1 << left) - 1):
      raise declared.FormatError(_SPARE_BIT)
    return models, raw

  def sizes(
    self, received: HeadAndBody, message: declared.Message
  ) -> dict[str, int]:
    """Divides the stream in proportion to the symbols' information."""
    head, body = received
    models, raw = self._models(head)
    rows = {
      name: declared.flat(name, message[name], c.field)[0]
      for name, c in self._coders.items()
    }
    bits = []
    for name, coder in self._coders.items():
      coder = _resized(coder, rows)
      bits.append(coder.bits(rows[name][: coder.count], models[name]))
    coded = len(body) - sum(raw.values())
    ends = np.cumsum([0.0, *bits])
    ends = np.rint(coded * ends / (ends[-1] or 1)).astype(int)
    ends[-1] = coded
    shares = dict(zip(self._coders, np.diff(ends).tolist(), strict=True))
    return {n: raw.get(n, 0) + shares.get(n, 0) for n in self._fields}


def _resized(
  coder: field_coder.FieldCoder, row: Mapping[str, np.ndarray]
) -> field_coder.FieldCoder:
  """Returns the coder of as many rows as a message has."""
  if isinstance(coder, field_coder.RowsCoder):
    return coder.resized(row.get(coder.field.rows))
  return coder
