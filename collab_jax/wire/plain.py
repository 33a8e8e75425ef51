"""The plain format: the fields one after another, nothing else.

Symbols take ceil(log2(alphabet)) bits each, the highest bit first, and end on
a whole byte; values are little-endian. Shapes and types are those of the
fields, which both ends know, so a message has no header and a fixed length.
"""

from collections.abc import Mapping, Sequence
import math

import ml_dtypes
import numpy as np

from collab_jax import message as messages
from collab_jax.wire import bits

_DTYPES = {
  'float16': np.dtype('<f2'),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
  'float32': np.dtype('<f4'),
}
# Sign left out, the bits of infinity: whatever is not less is not finite.
_INFINITY = {'float16': 0x7C00, 'bfloat16': 0x7F80, 'float32': 0x7F800000}

Fields = Mapping[str, messages.Field]
Message = dict[str, np.ndarray]


class FormatError(ValueError):
  """Bytes that are no message of the expected kind."""


def sizes(fields: Fields) -> dict[str, int]:
  """Returns the bytes that each field takes; their sum is the message's.

  Args:
    fields: What `Quantizer.fields` returned.

  Raises:
    ValueError: If a field is neither symbols nor values of a known type.
  """
  return {name: _size(name, field) for name, field in fields.items()}


def pack(message: Mapping[str, np.ndarray], fields: Fields) -> bytes:
  """Turns the message of one image into bytes.

  Args:
    message: One array per field, on the host.
    fields: What `Quantizer.fields` returned.

  Returns:
    sum(sizes(fields).values()) bytes.

  Raises:
    ValueError: If the message is not as declared: names, shapes, types,
      symbols beyond the alphabet, numbers that are not finite.
  """
  return pack_batch(
    {k: np.asarray(v)[None] for k, v in message.items()}, fields
  )[0]


def unpack(data: bytes, fields: Fields) -> Message:
  """Turns bytes back into the message of one image.

  Args:
    data: What `pack` returned, or anything.
    fields: What `Quantizer.fields` returned.

  Returns:
    One array per field: int32 for symbols, the declared type for values.

  Raises:
    FormatError: If the length is wrong, a symbol lies beyond its alphabet, a
      padding bit is set or a number is not finite.
  """
  batch = unpack_batch([data], fields)
  return {
    name: values.reshape(values.shape[1:]) for name, values in batch.items()
  }


def pack_batch(
  message: Mapping[str, np.ndarray], fields: Fields
) -> list[bytes]:
  """Turns the messages of B images into bytes, as `pack` does for each.

  Args:
    message: One array per field, with an axis B in front.
    fields: What `Quantizer.fields` returned, without that axis.

  Returns:
    B messages.

  Raises:
    ValueError: As `pack`, or if the arrays differ in B.
  """
  if message.keys() != fields.keys():
    raise ValueError(
      f'A message must hold the fields {sorted(fields)}, got {sorted(message)}.'
    )
  columns = [
    _encode(name, np.asarray(message[name]), field)
    for name, field in fields.items()
  ]
  rows = {len(column) for column in columns}
  if len(rows) > 1:
    raise ValueError(f'The fields hold different numbers of images: {rows}.')
  if not columns:
    raise ValueError('A message needs at least one field.')
  table = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
  return [row.tobytes() for row in table]


def unpack_batch(data: Sequence[bytes], fields: Fields) -> Message:
  """Turns B messages back into arrays with an axis B in front.

  Args:
    data: Messages of the same fields.
    fields: What `Quantizer.fields` returned.

  Returns:
    One array per field, as `unpack`.

  Raises:
    FormatError: As `unpack`; the message tells which of the B is wrong.
  """
  parts = sizes(fields)
  total = sum(parts.values())
  for i, row in enumerate(data):
    if len(row) != total:
      raise FormatError(
        f'Message {i} has {len(row)} bytes, expected {total}: {parts}.'
      )
  table = np.frombuffer(b''.join(data), np.uint8).reshape(len(data), total)
  message, start = {}, 0
  for name, field in fields.items():
    column = table[:, start : start + parts[name]]
    message[name] = _decode(name, column, field)
    start += parts[name]
  return message


def _size(name, field):
  count = math.prod(field.shape)
  if isinstance(field, messages.Symbols):
    if not 1 <= field.alphabet <= 1 << bits.MAX_WIDTH:
      raise ValueError(
        f'Field {name!r}: an alphabet has 1 to 2**{bits.MAX_WIDTH} symbols, '
        f'got {field.alphabet}.'
      )
    return bits.size(count, field.alphabet)
  if field.dtype not in _DTYPES:
    raise ValueError(
      f'Field {name!r}: dtype must be one of {sorted(_DTYPES)}, got '
      f'{field.dtype!r}.'
    )
  return count * _DTYPES[field.dtype].itemsize


def _encode(name, array, field):
  """Returns the bytes of one field of B images, uint8[B size]."""
  size = _size(name, field)
  if array.shape[1:] != field.shape:
    raise ValueError(
      f'Field {name!r}: expected shape {field.shape} per image, got '
      f'{array.shape[1:]}.'
    )
  flat = array.reshape(len(array), math.prod(field.shape))
  if isinstance(field, messages.Symbols):
    if flat.dtype.kind not in 'iu':
      raise ValueError(f'Field {name!r}: expected integers: {flat.dtype}.')
    if flat.size and (flat.min() < 0 or flat.max() >= field.alphabet):
      raise ValueError(
        f'Field {name!r}: symbols must lie in [0, {field.alphabet}), got '
        f'{flat.min()} to {flat.max()}.'
      )
    return bits.pack(flat, field.alphabet)
  dtype = _DTYPES[field.dtype]
  if flat.dtype != dtype:
    raise ValueError(f'Field {name!r}: expected {dtype}, got {flat.dtype}.')
  raw = np.ascontiguousarray(flat)
  infinite = _infinite(raw, field.dtype)
  if infinite.size:
    raise ValueError(
      f'Field {name!r} of image {infinite[0]} holds numbers that are not '
      'finite.'
    )
  return raw.view(np.uint8).reshape(len(array), size)


def _decode(name, column, field):
  """Returns one field of B images from its bytes, uint8[B size]."""
  rows, count = len(column), math.prod(field.shape)
  if isinstance(field, messages.Symbols):
    symbols = bits.unpack(column, count, field.alphabet)
    wide = bits.width(field.alphabet)
    spare = -count * wide % 8
    if spare and (column[:, -1] & ((1 << spare) - 1)).any():
      raise FormatError(f'Field {name!r}: a padding bit is set.')
    # Every pattern of bits is a symbol if the alphabet is a power of two.
    if field.alphabet != 1 << wide and symbols.size:
      bad = np.flatnonzero((symbols >= field.alphabet).any(axis=1))
      if bad.size:
        raise FormatError(
          f'Field {name!r} of message {bad[0]}: symbol '
          f'{symbols[bad[0]].max()} lies beyond [0, {field.alphabet}).'
        )
    return symbols.reshape(rows, *field.shape)
  # A copy, which is aligned and writable.
  values = column.copy().view(_DTYPES[field.dtype])
  infinite = _infinite(values, field.dtype)
  if infinite.size:
    raise FormatError(
      f'Field {name!r} of message {infinite[0]} holds numbers that are not '
      'finite.'
    )
  return values.reshape(rows, *field.shape)


def _infinite(values, dtype):
  """Returns the rows of [B count] that hold an infinity or NaN."""
  top = _INFINITY[dtype]
  raw = values.view(f'<u{values.itemsize}')
  magnitude = raw & ((1 << top.bit_length()) - 1)
  return np.flatnonzero((magnitude >= top).any(axis=1))
