"""Average pooling over the cells of a coarser grid."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np

from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.math import geometry
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class AvgPool(base.Composite):
  """Sends the mean of each cell of a rows x columns grid, rows * columns = k.

      AvgPool(k=16)

  The grid is the squarest that k allows, not higher than wide: 64 is 8 x 8,
  8 is 2 x 4. Cells that do not divide the image evenly differ by one vector
  in height or width. The server repeats each mean over its cell.

  Attributes:
    k: Number of cells.
    n: Number of vectors of the image, a square; 256 is PaliGemma at 224 px. It
      cannot be read from the message.
    centroids: Quantizer of the means.

  Source: average pooling, a control that knows nothing of the image.
  """

  inner_field = 'centroids'

  k: int
  n: int = 256
  centroids: base.QuantizerLike = identity.FLOAT16

  def __post_init__(self):
    base.check_k(self.k)
    base.check_k_of_n(self.k, self.n)
    self.grid()

  def grid(self) -> tuple[int, int]:
    """Returns the rows and columns of cells.

    Raises:
      ValueError: If k cells form no rectangle that fits the image.
    """
    side = geometry.side(self.n)
    for rows in range(math.isqrt(self.k), 0, -1):
      columns, remainder = divmod(self.k, rows)
      if not remainder and columns <= side:
        return rows, columns
    products = {a * b for a in range(1, side + 1) for b in range(a, side + 1)}
    near = sorted(sorted(products), key=lambda p: abs(p - self.k))[:2]
    raise ValueError(
      f'k: got {self.k}, expected the cells of a grid within {side} x {side}'
      f' vectors; the nearest are {near[0]} and {near[1]}'
    )

  def inner_shape(self, n: int, d: int) -> tuple[int, int]:
    """Returns k and d."""
    if n != self.n:
      raise ValueError(
        f'n: got {n} vectors, expected {self.n}; use AvgPool(k={self.k}, n={n})'
      )
    return self.k, d

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the cell of each vector, and the mean of each cell."""
    del key
    self.inner_shape(*x.shape)
    cell = self._cell()
    weights = cell == np.arange(self.k)[:, None]
    weights = weights / weights.sum(axis=1, keepdims=True)
    means = jnp.einsum(
      'kn,nd->kd', weights.astype(np.float32), x, precision='highest'
    )
    return jnp.asarray(cell, jnp.int32), means

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the message of the means, row by row."""
    return self.quantize_inner(params, self.cluster(x, key)[1], key)

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector replaced by its cell's mean."""
    means = self.dequantize_inner(params, message).x
    return base.full_grid(means[self._cell()])

  def row_of(self, message: messages.Message) -> Int[Array, ' n']:
    """Returns which mean makes each token."""
    del message
    return jnp.asarray(self._cell(), jnp.int32)

  def _cell(self):
    """Returns the cell of each vector, i64[n]."""
    side = geometry.side(self.n)
    rows, columns = self.grid()
    along = np.arange(side)
    return (
      (along * rows // side)[:, None] * columns + along * columns // side
    ).ravel()
