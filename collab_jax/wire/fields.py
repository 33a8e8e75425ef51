"""Declared fields of a message, and the checks of their arrays."""

from collections.abc import Mapping
import math

import ml_dtypes
import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.wire.coding import bits

Fields = Mapping[str, messages.Field]
Message = dict[str, np.ndarray]

DTYPES = {
  'float16': np.dtype('<f2'),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
  'float32': np.dtype('<f4'),
}
# Sign left out, the bits of infinity: whatever is not less is not finite.
_INFINITY = {'float16': 0x7C00, 'bfloat16': 0x7F80, 'float32': 0x7F800000}

# So that NumPy can hold any number of messages that memory can.
_MAX_AXES = 32
_MAX_AXIS = (1 << 31) - 1
_MAX_SIZE = 1 << 40  # Of a field, axes of 0 left out.
_MAX_LAYERS = 255
_MAX_ALPHABET = 1 << bits.MAX_WIDTH


class FormatError(ValueError):
  """Raised for bytes that are no message of the expected kind."""


def check(fields: Fields) -> None:
  """Raises ValueError unless messages of these fields can be packed.

  Args:
    fields: Fields that `Quantizer.fields` returned.
  """
  if not fields:
    raise ValueError('fields: got none, expected at least one')
  for name, field in fields.items():
    label, shape = f'field {name!r}', field.shape
    if not all(_validate.is_integer(n) and n >= 0 for n in shape):
      raise _validate.error(f'{label}: shape', shape, 'integers of at least 0')
    if not _is_small(shape):
      raise ValueError(
        f'{label}: shape: got {len(shape)} axes, {shape[:_MAX_AXES]}, expected'
        f' at most {_MAX_AXES} of at most {_MAX_AXIS}, and at most {_MAX_SIZE}'
        ' elements, not counting axes of 0'
      )
    _validate.integer(f'{label}: layer', field.layer, 0)
    if isinstance(field, messages.Values):
      _validate.choice(f'{label}: dtype', field.dtype, DTYPES)
      continue
    _validate.integer(f'{label}: alphabet', field.alphabet, 1, _MAX_ALPHABET)
    if field.rows:
      _check_rows(name, fields)
  layers = {field.layer for field in fields.values()}
  if len(layers) > _MAX_LAYERS:
    raise ValueError(
      f'fields: got {len(layers)} layers, expected at most {_MAX_LAYERS}'
    )
  if layers != set(range(len(layers))):
    raise _validate.error('fields: layers', sorted(layers), '0, 1, 2, ...')


def _check_rows(name, fields):
  """Raises ValueError unless `rows` names a field that counts the rows."""
  field, before = fields[name], [*fields][: [*fields].index(name)]
  counter = fields.get(field.rows) if field.rows in before else None
  label = f'field {name!r}: rows'
  if not isinstance(counter, messages.Symbols) or counter.rows:
    raise _validate.error(label, field.rows, 'a field of symbols before it')
  if not field.shape or counter.layer != field.layer or not count(counter):
    raise ValueError(
      f'{label}: got shapes {field.shape} and {counter.shape}, layers'
      f' {field.layer} and {counter.layer}, expected an axis of rows, and'
      f' symbols in {field.rows!r} in the same layer'
    )
  if counter.alphabet > field.shape[0]:
    raise ValueError(
      f'{label}: got {field.shape[0]}, expected at least the'
      f' {counter.alphabet} symbols of {field.rows!r}'
    )


def nonzero_beyond_count(
  message: Mapping[str, np.ndarray], fields: Fields
) -> str:
  """Looks for symbols beyond the number of rows that another field counts.

  Args:
    message: Fields of B images, flat or not, of some of the layers.
    fields: All fields.

  Returns:
    The first such symbols in words; '' if there are none.
  """
  for name, field in fields.items():
    if isinstance(field, messages.Symbols) and field.rows in message:
      counter = message[field.rows]
      last = counter.max(axis=tuple(range(1, counter.ndim)), initial=0)
      row_size = count(field) // field.shape[0]
      table = message[name].reshape(len(last), field.shape[0], row_size)
      behind = np.arange(field.shape[0]) > last[:, None]
      wrong = np.flatnonzero((behind[..., None] & (table != 0)).any((1, 2)))
      if wrong.size:
        return (
          f'field {name!r} of image {wrong[0]}: got symbols behind row'
          f' {last[wrong[0]]}, the last one by {field.rows!r}'
        )
  return ''


def count(field: messages.Field) -> int:
  """Returns how many symbols or numbers a field holds."""
  return math.prod(field.shape)


def flat(name: str, array: np.ndarray, field: messages.Field) -> np.ndarray:
  """Checks one field of B images.

  Args:
    name: Name of the field.
    array: Its values, with an axis B in front.
    field: Its declaration.

  Returns:
    [B count]: integers within the alphabet, or finite numbers of the type, of
    contiguous rows.

  Raises:
    ValueError: The array is not as declared.
  """
  if array.ndim == 0 or array.shape[1:] != field.shape:
    raise ValueError(
      f'field {name!r}: got shape {array.shape}, expected {("B", *field.shape)}'
    )
  rows = array.reshape(len(array), count(field))
  if isinstance(field, messages.Symbols):
    if rows.dtype.kind not in 'iu':
      raise ValueError(f'field {name!r}: got {rows.dtype}, expected integers')
    if rows.size and (rows.min() < 0 or rows.max() >= field.alphabet):
      raise ValueError(
        f'field {name!r}: got symbols from {rows.min()} to {rows.max()},'
        f' expected [0, {field.alphabet})'
      )
    return rows
  dtype = DTYPES[field.dtype]
  if rows.dtype != dtype:
    raise ValueError(f'field {name!r}: got {rows.dtype}, expected {dtype}')
  if rows.strides[1] != rows.itemsize:  # Rows may lie apart.
    rows = np.ascontiguousarray(rows)
  infinite = _infinite(rows, field.dtype)
  if infinite.size:
    raise ValueError(
      f'field {name!r} of image {infinite[0]}: got numbers that are not finite'
    )
  return rows


def numbers(name: str, data: np.ndarray, field: messages.Values) -> np.ndarray:
  """Turns the bytes of one field of B images into its numbers.

  Args:
    name: Name of the field.
    data: uint8[B size], contiguous; the result shares its memory.
    field: Its declaration.

  Returns:
    [B *shape] of the declared type.

  Raises:
    FormatError: A number is not finite.
  """
  values = data.view(DTYPES[field.dtype])
  infinite = _infinite(values, field.dtype)
  if infinite.size:
    raise FormatError(
      f'field {name!r} of message {infinite[0]}: got numbers that are not'
      ' finite'
    )
  return values.reshape(len(data), *field.shape)


def _is_small(shape):
  return (
    len(shape) <= _MAX_AXES
    and max(shape, default=0) <= _MAX_AXIS
    and math.prod(n or 1 for n in shape) <= _MAX_SIZE
  )


def _infinite(values, dtype):
  """Returns the rows of [B count] that hold an infinity or NaN."""
  top = _INFINITY[dtype]
  raw = values.view(f'<u{values.itemsize}')
  sign = 1 << 8 * values.itemsize - 1
  # Two reductions at the speed of memory: as signed integers negative numbers
  # are the smallest, as unsigned ones the largest.
  largest = raw.view(f'<i{values.itemsize}').max(initial=0)
  if largest < top and raw.max(initial=0) < sign | top:
    return np.zeros(0, np.intp)
  magnitude = raw & ((1 << top.bit_length()) - 1)
  return np.flatnonzero((magnitude >= top).any(axis=1))
