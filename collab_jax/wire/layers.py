"""One layer of a message: its head, which tells models, and its body."""

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

Packed = tuple[bytes, bytes]


@runtime_checkable
class Layer(Protocol):
  """Fields that are sent together."""

  @property
  def head(self) -> int:
    """Bytes of a head."""
    ...

  @property
  def body(self) -> int | None:
    """Bytes of every body; None if they differ."""
    ...

  def pack(self, rows: Mapping[str, np.ndarray], count: int) -> list[Packed]:
    """Packs what `fields.flat` returned for B images: heads and bodies."""
    ...

  def unpack(self, packed: Sequence[Packed]) -> declared.Message:
    """Gives back arrays with an axis B; FormatError if one is damaged."""
    ...

  def sizes(self, packed: Packed, message: declared.Message) -> dict[str, int]:
    """Bytes of one body by field, which holds this message (B = 1)."""
    ...


class FixedLayer:
  """A layer of the coding 'fixed'; see `plain`."""

  def __init__(self, fields: declared.Fields, first: bool):
    """Binds the fields; only the first layer has a version."""
    self._fields = fields
    self._head = bytes([VERSION << 8 - VERSION_BITS]) if first else b''
    self.head = len(self._head)
    self._sizes = fixed.sizes(fields)
    self.body = sum(self._sizes.values())

  def pack(self, rows: Mapping[str, np.ndarray], count: int) -> list[Packed]:
    """Packs all bodies at once."""
    table = fixed.pack(rows, self._fields)
    return [(self._head, row.tobytes()) for row in table[:count]]

  def unpack(self, packed: Sequence[Packed]) -> declared.Message:
    """Unpacks all bodies at once."""
    if any(head != self._head for head, _ in packed):
      raise declared.FormatError('A spare bit of a head is set.')
    table = np.frombuffer(b''.join(body for _, body in packed), np.uint8)
    return fixed.unpack(table.reshape(len(packed), self.body), self._fields)

  def sizes(self, packed: Packed, message: declared.Message) -> dict[str, int]:
    """All bodies have the same."""
    del packed, message
    return self._sizes


class BestLayer:
  """A layer of the coding 'best': one stream of bytes, then bytes as they are.

  The head has the number of each field's model, two bits for symbols and one
  for values, the highest bit first, after the version and with zeros behind.
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
    """Packs one message after the other."""
    return [
      self._pack({name: rows[name][i] for name in self._coders})
      for i in range(count)
    ]

  def plans(
    self, row: Mapping[str, np.ndarray]
  ) -> dict[str, field_coder.EncodingPlan]:
    """Chooses a model for each field of one message."""
    found = {}
    for name, one in self._coders.items():
      one = _sized(one, row)
      found[name] = one.plan(row[name][: one.count])
    return found

  def _pack(self, row):
    plans = self.plans(row)
    writer = range_coder.Writer()
    head = VERSION if self._version else 0
    left = 8 * self.head - self._version
    for name, plan in plans.items():
      plan.write(writer)
      head = head << self._coders[name].flag_bits | plan.model
      left -= self._coders[name].flag_bits
    raw = b''.join(plan.raw for plan in plans.values())
    return (head << left).to_bytes(self.head, 'big'), writer.finish() + raw

  def unpack(self, packed: Sequence[Packed]) -> declared.Message:
    """Unpacks one message after the other."""
    rows = [self._unpack(*pair) for pair in packed]
    message = {}
    for name, field in self._fields.items():
      if name in self._coders and rows:
        values = np.stack([row[name] for row in rows])
      else:  # Nothing of it was sent, because it is known.
        dtype = np.int32
        if isinstance(field, messages.Values):
          dtype = declared.DTYPES[field.dtype]
        values = np.zeros((len(rows), declared.count(field)), dtype)
      message[name] = values.reshape(len(rows), *field.shape)
    return message

  def _unpack(self, head, body):
    chosen, raw = self._models(head)
    at = len(body) - sum(raw.values())
    if at < 0:
      raise declared.FormatError(
        f'A body has {len(body)} bytes, expected {sum(raw.values())} or more.'
      )
    if at and not (self._coders and body[at - 1]):
      raise declared.FormatError('The coded symbols have a byte too many.')
    reader, row = range_coder.Reader(body[:at]), {}
    for name, one in self._coders.items():
      end = at + raw[name]
      own = _sized(one, row)
      read = own.read(reader, chosen[name], body[at:end])
      more = one.count - own.count
      row[name] = np.pad(read, (0, more)) if more else read
      at = end
    return row

  def _models(self, head):
    """The model of each field, and how many bytes it sends as they are."""
    value = int.from_bytes(head, 'big')
    left = 8 * len(head) - self._version
    chosen, raw = {}, {}
    for name, one in self._coders.items():
      left -= one.flag_bits
      chosen[name] = value >> left & ((1 << one.flag_bits) - 1)
      if chosen[name] not in one.known:
        raise declared.FormatError(
          f'Field {name!r} has the model {chosen[name]}, expected one of '
          f'{sorted(one.known)}.'
        )
      raw[name] = one.raw_size(chosen[name])
    if value & ((1 << left) - 1):
      raise declared.FormatError('A spare bit of a head is set.')
    return chosen, raw

  def sizes(self, packed: Packed, message: declared.Message) -> dict[str, int]:
    """Shares the stream by what the symbols' probabilities amount to."""
    head, body = packed
    chosen, raw = self._models(head)
    rows = {
      name: declared.flat(name, message[name], c.field)[0]
      for name, c in self._coders.items()
    }
    bits = []
    for name, one in self._coders.items():
      one = _sized(one, rows)
      bits.append(one.bits(rows[name][: one.count], chosen[name]))
    coded = len(body) - sum(raw.values())
    ends = np.cumsum([0.0, *bits])
    ends = np.rint(coded * ends / (ends[-1] or 1)).astype(int)
    ends[-1] = coded
    shares = dict(zip(self._coders, np.diff(ends).tolist(), strict=True))
    return {n: raw.get(n, 0) + shares.get(n, 0) for n in self._fields}


def _sized(
  one: field_coder.FieldCoder, row: Mapping[str, np.ndarray]
) -> field_coder.FieldCoder:
  """The coder of the rows that one message has."""
  if isinstance(one, field_coder.RowsCoder):
    return one.of(row.get(one.field.rows))
  return one
