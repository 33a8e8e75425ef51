"""Fixed coding: fields one after another, symbols in whole bits.

Symbols take ceil(log2(alphabet)) bits each, the highest bit first, and end on
a whole byte; values are little-endian. So all messages are equally long, and
many of them are packed at once.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from collab_jax import message as messages
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import bits


def sizes(fields: declared.Fields) -> dict[str, int]:
  """Returns the bytes that each field takes.

  Args:
    fields: Fields that pass `fields.check`.
  """
  return {name: size(field) for name, field in fields.items()}


def size(field: messages.Field) -> int:
  """Returns the bytes that one field takes."""
  if isinstance(field, messages.Symbols):
    return bits.size(declared.count(field), field.alphabet)
  return declared.count(field) * declared.DTYPES[field.dtype].itemsize


def pack(
  rows: Mapping[str, np.ndarray], fields: declared.Fields
) -> list[np.ndarray]:
  """Packs the fields of B images; a value's bytes are not copied.

  Args:
    rows: Arrays that `fields.flat` returned, by name.
    fields: The fields to pack.

  Returns:
    For each field uint8[B size], of contiguous rows: a message's bytes are its
    row of each.
  """
  columns = []
  for name, field in fields.items():
    values = rows[name]
    if isinstance(field, messages.Symbols):
      columns.append(bits.pack(values, field.alphabet))
    else:
      columns.append(values.view(np.uint8).reshape(len(values), size(field)))
  return columns


def unpack(
  data: Sequence[np.ndarray], fields: declared.Fields
) -> declared.Message:
  """Unpacks the fields of B images.

  Args:
    data: B times uint8[sum of the sizes].
    fields: The fields that were given to `pack`.

  Returns:
    One array per field, with an axis B in front: int32 for symbols, the
    declared type for values.

  Raises:
    FormatError: A symbol lies beyond its alphabet, a padding bit is set, or a
      number is not finite.
  """
  message, start = {}, 0
  for name, field in fields.items():
    end = start + size(field)
    # The one copy, which is aligned and writable.
    column = np.empty((len(data), end - start), np.uint8)
    if data:
      np.concatenate([row[start:end] for row in data], out=column.reshape(-1))
    message[name] = _unpack(name, column, field)
    start = end
  return message


def _unpack(name, column, field):
  if isinstance(field, messages.Values):
    return declared.numbers(name, column, field)
  count = declared.count(field)
  symbols = bits.unpack(column, count, field.alphabet)
  wide = bits.width(field.alphabet)
  spare = -count * wide % 8
  if spare and (column[:, -1] & ((1 << spare) - 1)).any():
    raise declared.FormatError(f'field {name!r}: a padding bit is set')
  # Every pattern of bits is a symbol if the alphabet is a power of two.
  if field.alphabet != 1 << wide and symbols.size:
    bad = np.flatnonzero((symbols >= field.alphabet).any(axis=1))
    if bad.size:
      raise declared.FormatError(
        f'field {name!r} of message {bad[0]}: got the symbol'
        f' {symbols[bad[0]].max()}, expected [0, {field.alphabet})'
      )
  return symbols.reshape(len(column), *field.shape)
