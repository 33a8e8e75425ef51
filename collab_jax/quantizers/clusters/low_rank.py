"""Low-rank approximation of more centroids than vectors are sent."""

from collections.abc import Collection
import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import agglomerative
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import jacobi
from collab_jax.quantizers.vectors import identity

# Singular values, in parts of the largest: the root of float32's precision.
_SMALLEST = 3.5e-4


@dataclasses.dataclass(frozen=True)
class LowRank(base.Composite):
  """Sends k vectors, and coefficients that mix more than k centroids from them.

      LowRank(k=8, more=4)

  The image is first cut into k + more clusters by merging. Their centroids
  span few directions, so that k vectors and a small table of coefficients
  stand for all of them: the best approximation of rank k, in which a cluster
  of c members counts (c^weight)^2. At weight 1/2 that is the squared error
  over the grid, in which small things drown; at 0 all clusters count alike.

  Attributes:
    k: Number of vectors sent, at most n.
    more: Number of clusters beyond k; there are at most n in all.
    weight: Exponent of the clusters' sizes, from 0 to 1.
    smooth: As of `Agglomerative`: above 0 the assignments take fewer bytes.
    reach: Coefficients are rounded to -reach..reach, in parts of the largest
      of their vector.
    basis: Quantizer of the k vectors.

  Source: Eckart and Young 1936, by the eigenvectors of the centroids' Gram
  matrix; clusters as in `Agglomerative`. Complexity: that of merging, and a
  matrix of (k + more)^2 to diagonalize.
  """

  inner_field = 'basis'

  k: int
  more: int = 1
  weight: int | float = 0.25
  smooth: int | float = 0.0
  reach: int = 63
  basis: base.QuantizerLike = identity.FLOAT16

  def __post_init__(self):
    base.check_k(self.k)
    _validate.integer('more', self.more, 0, 2**16)
    _validate.number('weight', self.weight, 0.0, 1.0)
    _validate.number('smooth', self.smooth, 0.0, 100.0)
    _validate.integer('reach', self.reach, 1, 2**15)

  @property
  def receiver(self) -> 'LowRank':
    """Quantizer that is equal for all ways to find clusters and vectors."""
    return LowRank(
      self.k, self.more, reach=self.reach, basis=self.inner.receiver
    )

  def inner_shape(self, n: int, d: int) -> tuple[int, int]:
    """Returns k and d."""
    base.check_k_of_n(self.k, n)
    return self.k, d

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'assignments' of n symbols, 'mix', and the vectors' fields."""
    inner = super().fields(n, d)
    clusters = self._clusters(n)
    return {
      'assignments': messages.Symbols(clusters, (n,)),
      'mix': messages.Symbols(2 * self.reach + 1, (clusters, self.k)),
      **inner,
    }

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the assignments, the coefficients and the vectors' message."""
    clusters = agglomerative.Agglomerative(
      self._clusters(len(x)), smooth=self.smooth
    )
    assignments, means = clustering.relabel_by_first_use(
      *clusters.cluster(x, key)
    )
    counts = jnp.bincount(assignments, length=len(means))
    mix, vectors = factors(means, counts**self.weight, self.k)
    return {
      'assignments': assignments,
      'mix': jnp.rint(mix * self.reach).astype(jnp.int32) + self.reach,
      **self.quantize_inner(params, vectors, key),
    }

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector replaced by a mixture."""
    vectors = self.dequantize_inner(params, message).x
    mix = (message['mix'] - self.reach).astype(jnp.float32) / self.reach
    means = jnp.matmul(mix, vectors, precision='highest')
    # A sum of finite numbers, each of float16's range at the most, is finite;
    # one of float32's may not be.
    means = jnp.nan_to_num(means)
    return base.full_grid(means[message['assignments'].astype(jnp.int32)])

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Leaves lost vectors out of all mixtures."""
    del rows
    mix = jnp.where(received, message['mix'], self.reach)
    return {**message, 'mix': mix.astype(jnp.int32)}

  def _clusters(self, n):
    return min(self.k + self.more, n)


def factors(
  means: Float[Array, 'm d'], weights: Float[Array, ' m'], k: int
) -> tuple[Float[Array, 'm k'], Float[Array, 'k d']]:
  """Returns the best weighted approximation of rank k, as two factors.

  Args:
    means: Finite vectors.
    weights: Weight of the error of each, before it is squared.
    k: The rank, at most m.

  Returns:
    Coefficients, the largest of each column 1 in magnitude and positive, and
    the vectors that they multiply; both zero where the rank is lower, or a
    singular value is below 3.5e-4 of the largest.
  """
  scale = jnp.maximum(jnp.abs(means).max(), 1e-37)
  rows = means / scale * weights[:, None]
  gram = jnp.matmul(rows, rows.T, precision='highest')
  trace = jnp.trace(gram)
  axes = jacobi.largest(gram / jnp.where(trace > 0, trace, 1), k)
  basis = jnp.matmul(axes.T, rows, precision='highest')
  # The singular values. The Gram matrix holds their squares, so that smaller
  # ones are lost in rounding and give no direction.
  norms = jnp.linalg.norm(basis, axis=1, keepdims=True)
  significant = norms > _SMALLEST * norms.max()
  basis = jnp.where(significant, basis / jnp.where(significant, norms, 1), 0)
  mix = jnp.matmul(means / scale, basis.T, precision='highest')
  at = jnp.abs(mix).argmax(axis=0)
  largest = jnp.take_along_axis(mix, at[None], axis=0)[0]
  nonzero = jnp.abs(largest) > 1e-20
  mix = jnp.where(nonzero, mix / jnp.where(nonzero, largest, 1), 0)
  return mix, basis * (largest * scale)[:, None]
