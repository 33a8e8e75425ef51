"""Uniform scalar quantization between a lowest and a highest value."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base, pretrained
from collab_jax.quantizers.vectors import symbol_tables

SCALES = ('vector', 'dimension', 'book')


@dataclasses.dataclass(frozen=True)
class Scalar(base.Quantizer):
  """Rounds every number to one of 2^bits levels, equally far apart.

      Scalar(bits=4)

  The levels reach from the lowest to the highest value

  - 'vector': of each vector, and are sent with it (4 bytes);
  - 'dimension': of each of the d numbers over the vectors, and are sent (4
    bytes a number);
  - 'book': of each of the d numbers over the training data; nothing is sent,
    and numbers outside become the last level.

  Attributes:
    bits: Bits of each number, 2 to 8.
    scales: 'vector', 'dimension' or 'book'.
    book: Parameter file of kind 'linear' for scales='book', or 'random' for
      numbers of a normal distribution.
  """

  row_wise: ClassVar[bool] = True
  reads_quantiles: ClassVar[bool] = True

  bits: int = 4
  scales: str = 'vector'
  book: str = 'tiny/centroids'

  def __post_init__(self):
    _validate.integer('bits', self.bits, 2, 8)
    _validate.choice('scales', self.scales, SCALES)
    pretrained.check_name(self.book)

  @property
  def uses_book(self) -> bool:
    """Whether `book` is read."""
    return self.scales == 'book'

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the trained levels and their frequencies; else nothing."""
    del key, n
    if not self.uses_book:
      return {}
    values = symbol_tables.points(self.book, d)
    low = values.min(axis=1, keepdims=True)
    step = (values.max(axis=1, keepdims=True) - low) / self._top
    near = np.round((values - low) / np.where(step > 0, step, 1))
    return {
      'low': jnp.asarray(low[:, 0], jnp.float32),
      'step': jnp.asarray(step[:, 0], jnp.float32),
      'frequencies': jnp.asarray(
        symbol_tables.frequencies(near.astype(np.int64), self._top + 1)
      ),
    }

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': levels}, and 'low' and 'step' where they are sent."""
    del key
    if self.scales == 'book':
      low, step = params['low'], params['step']
      return {'x': self._levels(x, low, step)}
    axis = 1 if self.scales == 'vector' else 0
    low = _down(jnp.min(x, axis=axis, keepdims=True))
    # Halves first: the difference of the largest float32 would overflow.
    reach = (jnp.max(x, axis=axis, keepdims=True) / 2 - low / 2) * 2
    step = _up(reach / self._top)
    symbols = self._levels(x, low.astype(x.dtype), step.astype(x.dtype))
    return {
      'x': symbols,
      'low': jnp.squeeze(low, axis),
      'step': jnp.squeeze(step, axis),
    }

  def _levels(self, x, low, step):
    level = jnp.round((x - low) / jnp.where(step > 0, step, 1))
    return jnp.clip(level, 0, self._top).astype(jnp.int32)

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each number its level's value."""
    if self.scales == 'book':
      low, step = params['low'], params['step']
    else:
      axis = 1 if self.scales == 'vector' else 0
      low, step = (
        jnp.expand_dims(message[name].astype(jnp.float32), axis)
        for name in ('low', 'step')
      )
    return base.full_grid(low + step * message['x'].astype(jnp.float32))

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'x' of n x d levels, and 'low' and 'step' if they are sent."""
    fields: dict[str, messages.Field] = {
      'x': messages.Symbols(self._top + 1, (n, d))
    }
    if self.scales != 'book':
      rows = n if self.scales == 'vector' else d
      for name in ('low', 'step'):
        fields[name] = messages.Values('bfloat16', (rows,))
    return fields

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns the frequencies of the trained levels."""
    return {'x': params['frequencies']} if self.scales == 'book' else {}

  @property
  def _top(self) -> int:
    return 2**self.bits - 1


def _down(x):
  """Rounds to bfloat16, which has the range of float32, towards -infinity."""
  return _next(x, jnp.greater, -jnp.inf)


def _up(x):
  """Rounds to bfloat16 towards +infinity."""
  return _next(x, jnp.less, jnp.inf)


def _next(x, is_wrong_side, towards):
  top = float(jnp.finfo(jnp.bfloat16).max)
  nearest = jnp.clip(x, -top, top).astype(jnp.bfloat16)
  towards = jnp.full(nearest.shape, towards, jnp.bfloat16)
  moved = jnp.nextafter(nearest, towards)
  wrong = is_wrong_side(nearest.astype(x.dtype), x)
  rounded = jnp.where(wrong, moved, nearest)
  return jnp.clip(rounded, -top, top).astype(jnp.bfloat16)
