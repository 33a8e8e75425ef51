"""Vectors in a float format, not quantized further."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base

DTYPES = ('float16', 'bfloat16', 'float32')


@dataclasses.dataclass(frozen=True)
class Identity(base.Quantizer):
  """Sends every vector in a float format.

      Identity(dtype='bfloat16')

  Numbers beyond the format's range become its largest number, so that the
  rebuilt vectors are finite.

  Attributes:
    dtype: 'float16', 'bfloat16' or 'float32'.
  """

  dtype: str = 'float16'

  row_wise: ClassVar[bool] = True

  def __post_init__(self):
    _validate.choice('dtype', self.dtype, DTYPES)

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': the vectors, rounded to the format}."""
    del params, key
    top = float(jnp.finfo(self.dtype).max)
    return {'x': jnp.clip(x, -top, top).astype(self.dtype)}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, in float32."""
    del params
    return base.full_grid(message['x'])

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n x d numbers."""
    return {'x': messages.Values(self.dtype, (n, d))}


# Default inner quantizer.
FLOAT16 = Identity()
