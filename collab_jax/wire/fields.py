"""What the fields of a message may be, and the checks of their arrays."""

from collections.abc import Mapping
import math

import ml_dtypes
import numpy as np

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


class FormatError(ValueError):
  """Bytes that are no message of the expected kind."""


def check(fields: Fields) -> None:
  """Raises ValueError unless all of these can be sent.

  Args:
    fields: What `Quantizer.fields` returned.
  """
  if not fields:
    raise ValueError('A message needs at least one field.')
  for name, field in fields.items():
    shape, layer = field.shape, field.layer
    if not all(_is_size(n) for n in shape):
      raise ValueError(f'Field {name!r}: expected a static shape, got {shape}.')
    if not _is_small(shape):
      raise ValueError(
        f'Field {name!r}: a shape has at most {_MAX_AXES} axes of at most '
        f'{_MAX_AXIS}, and at most {_MAX_SIZE} elements, axes of 0 left out; '
        f'got {len(shape)} axes: {shape[:_MAX_AXES]}.'
      )
    if not _is_size(layer):
      raise ValueError(f'Field {name!r}: a layer is 0 or above, got {layer}.')
    if isinstance(field, messages.Symbols):
      alphabet = field.alphabet
      if not (_is_size(alphabet) and 1 <= alphabet <= 1 << bits.MAX_WIDTH):
        raise ValueError(
          f'Field {name!r}: an alphabet has 1 to 2**{bits.MAX_WIDTH} symbols, '
          f'got {alphabet}.'
        )
      if field.rows:
        _check_rows(name, fields)
    elif field.dtype not in DTYPES:
      raise ValueError(
        f'Field {name!r}: dtype must be one of {sorted(DTYPES)}, got '
        f'{field.dtype!r}.'
      )
  layers = {field.layer for field in fields.values()}
  if len(layers) > _MAX_LAYERS:
    raise ValueError(
      f'A message has at most {_MAX_LAYERS} layers, got {len(layers)}.'
    )
  if layers != set(range(len(layers))):
    raise ValueError(
      f'The layers of a message are numbered from 0, got {sorted(layers)}.'
    )


def _check_rows(name, fields):
  """Raises ValueError unless another field can say how many rows there are."""
  field, before = fields[name], [*fields][: [*fields].index(name)]
  other = fields.get(field.rows) if field.rows in before else None
  if not isinstance(other, messages.Symbols) or other.rows:
    raise ValueError(
      f'Field {name!r}: rows are told by a field of symbols before it, got '
      f'{field.rows!r}.'
    )
  if not field.shape or other.layer != field.layer or not count(other):
    raise ValueError(
      f'Field {name!r}: expected an axis of rows, and symbols in {field.rows!r}'
      f' in the same layer; got shapes {field.shape} and {other.shape}, layers '
      f'{field.layer} and {other.layer}.'
    )
  if other.alphabet > field.shape[0]:
    raise ValueError(
      f'Field {name!r}: got {field.shape[0]} rows, expected at least the '
      f'{other.alphabet} symbols of {field.rows!r}.'
    )


def nonzero_beyond_count(
  message: Mapping[str, np.ndarray], fields: Fields
) -> str:
  """Says where symbols lie behind the last row that another field tells.

  Args:
    message: Fields of B images, maybe flat; of some layers.
    fields: All that there are.

  Returns:
    What lies there; '' where all is as it must be.
  """
  for name, field in fields.items():
    if isinstance(field, messages.Symbols) and field.rows in message:
      others = message[field.rows]
      last = others.max(axis=tuple(range(1, others.ndim)), initial=0)
      each = count(field) // field.shape[0]
      table = message[name].reshape(len(last), field.shape[0], each)
      behind = np.arange(field.shape[0]) > last[:, None]
      wrong = np.flatnonzero((behind[..., None] & (table != 0)).any((1, 2)))
      if wrong.size:
        return (
          f'Field {name!r} of image {wrong[0]} has symbols behind row '
          f'{last[wrong[0]]}, the last one by {field.rows!r}'
        )
  return ''


def count(field: messages.Field) -> int:
  """Returns how many symbols or numbers a field holds."""
  return math.prod(field.shape)


def flat(name: str, array: np.ndarray, field: messages.Field) -> np.ndarray:
  """Checks one field of B images.

  Args:
    name: Of the field.
    array: With an axis B in front.
    field: How it was declared.

  Returns:
    [B count]: integers within the alphabet, or finite numbers of the type.

  Raises:
    ValueError: If it is not as declared.
  """
  if array.ndim == 0 or array.shape[1:] != field.shape:
    raise ValueError(
      f'Field {name!r}: expected shape {field.shape} per image, got '
      f'{array.shape[1:]}.'
    )
  rows = array.reshape(len(array), count(field))
  if isinstance(field, messages.Symbols):
    if rows.dtype.kind not in 'iu':
      raise ValueError(f'Field {name!r}: expected integers: {rows.dtype}.')
    if rows.size and (rows.min() < 0 or rows.max() >= field.alphabet):
      raise ValueError(
        f'Field {name!r}: symbols must lie in [0, {field.alphabet}), got '
        f'{rows.min()} to {rows.max()}.'
      )
    return rows
  dtype = DTYPES[field.dtype]
  if rows.dtype != dtype:
    raise ValueError(f'Field {name!r}: expected {dtype}, got {rows.dtype}.')
  rows = np.ascontiguousarray(rows)
  infinite = _infinite(rows, field.dtype)
  if infinite.size:
    raise ValueError(
      f'Field {name!r} of image {infinite[0]} holds numbers that are not '
      'finite.'
    )
  return rows


def numbers(name: str, data: np.ndarray, field: messages.Values) -> np.ndarray:
  """Turns the bytes of one field of B images into its numbers.

  Args:
    name: Of the field.
    data: uint8[B size], contiguous; the result shares its memory.
    field: How it was declared.

  Returns:
    [B *shape] of the declared type.

  Raises:
    FormatError: If a number is not finite.
  """
  values = data.view(DTYPES[field.dtype])
  infinite = _infinite(values, field.dtype)
  if infinite.size:
    raise FormatError(
      f'Field {name!r} of message {infinite[0]} holds numbers that are not '
      'finite.'
    )
  return values.reshape(len(data), *field.shape)


def _is_size(value):
  return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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
  magnitude = raw & ((1 << top.bit_length()) - 1)
  return np.flatnonzero((magnitude >= top).any(axis=1))
