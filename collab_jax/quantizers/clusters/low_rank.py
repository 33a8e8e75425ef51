"""More clusters than vectors: centroids as mixtures of a few vectors."""

from collections.abc import Collection
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import agglomerative
from collab_jax.quantizers.math import (
  jacobi,
  relabel,
)
from collab_jax.quantizers.vectors import identity

# Singular values, in parts of the largest: the root of float32's precision.
_SMALLEST = 3.5e-4


@dataclasses.dataclass(frozen=True)
class LowRank:
  """Sends k vectors, and how more than k centroids are mixed from them.

  The picture is first cut into k + more clusters by merging. Their centroids
  span few directions, so that k vectors and a small table of coefficients
  stand for all of them: the best approximation of rank k, in which a cluster
  of c members counts (c^weight)^2. At weight 1/2 that is the squared error
  over the grid, in which small things drown; at 0 all clusters count alike.

  Attributes:
    k: Number of vectors sent, at most n.
    more: How many clusters there are beyond k, at most n in all.
    weight: How much clusters' sizes count, from 0 to 1.
    smooth: As of `merge.Merge`: above 0 the assignments take fewer bytes.
    reach: Coefficients are rounded to -reach..reach, in parts of the largest
      of their vector.
    basis: What quantizes the k vectors.

  Source: Eckart and Young 1936, by the eigenvectors of the centroids' Gram
  matrix; clusters as in `merge`. Complexity: that of merging, and a matrix of
  (k + more)^2 to diagonalize.
  """

  k: int
  more: int = 1
  weight: int | float = 0.25
  smooth: int | float = 0.0
  reach: int = 63
  basis: base.Quantizer = identity.FLOAT16

  def __post_init__(self):
    base.check_k(self.k)
    _validate.integer('more', self.more, 0, 2**16)
    _validate.number('weight', self.weight, 0.0, 1.0)
    _validate.number('smooth', self.smooth, 0.0, 100.0)
    _validate.integer('reach', self.reach, 1, 2**15)

  @property
  def receiver(self) -> 'LowRank':
    """The same for all ways to find clusters and vectors."""
    return LowRank(
      self.k, self.more, reach=self.reach, basis=base.receiver(self.basis)
    )

  @property
  def uses_key(self) -> bool:
    """Only what quantizes the vectors may draw."""
    return self.basis.uses_key

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the parameters of `basis`."""
    base.check_k_of_n(self.k, n)
    return base.nest('basis', self.basis.init_params(key, self.k, d))

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the assignments, the coefficients and the vectors' message."""
    clusters = agglomerative.Agglomerative(
      self._clusters(len(x)), smooth=self.smooth
    )
    found = clusters.cluster(x, key)
    assignments, means = relabel.relabel_by_first_use(*found)
    counts = jnp.bincount(assignments, length=len(means))
    mix, vectors = factors(means, counts**self.weight, self.k)
    inner = self.basis.quantize(base.unnest('basis', params), vectors, key)
    return {
      'assignments': assignments,
      'mix': jnp.rint(mix * self.reach).astype(jnp.int32) + self.reach,
      **base.prefix('basis', inner),
    }

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector replaced by a mixture."""
    vectors = self.basis.dequantize(
      base.unnest('basis', params), base.unprefix('basis', message)
    ).x
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

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'assignments' of n symbols, 'mix', and the vectors' fields."""
    base.check_k_of_n(self.k, n)
    clusters = self._clusters(n)
    return {
      'assignments': messages.Symbols(clusters, (n,)),
      'mix': messages.Symbols(2 * self.reach + 1, (clusters, self.k)),
      **base.prefix('basis', self.basis.fields(self.k, d)),
    }

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns the frequencies of the vectors' symbols."""
    inner = base.priors(self.basis, base.unnest('basis', params))
    return base.prefix('basis', inner)

  def sent(self, n: int) -> int:
    """Returns k: neither assignments nor coefficients are vectors."""
    base.check_k_of_n(self.k, n)
    return self.k

  def _clusters(self, n):
    return min(self.k + self.more, n)


def factors(
  means: Float[Array, 'm d'], weights: Float[Array, ' m'], k: int
) -> tuple[Float[Array, 'm k'], Float[Array, 'k d']]:
  """Returns the best weighted approximation of rank k, as two factors.

  Args:
    means: Finite vectors.
    weights: How much an error of each counts, before it is squared.
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
  # The singular values. What is left of smaller ones in the Gram matrix, in
  # which they are squared, is rounding, and no direction.
  norms = jnp.linalg.norm(basis, axis=1, keepdims=True)
  sound = norms > _SMALLEST * norms.max()
  basis = jnp.where(sound, basis / jnp.where(sound, norms, 1), 0)
  mix = jnp.matmul(means / scale, basis.T, precision='highest')
  at = jnp.abs(mix).argmax(axis=0)
  largest = jnp.take_along_axis(mix, at[None], axis=0)[0]
  there = jnp.abs(largest) > 1e-20
  mix = jnp.where(there, mix / jnp.where(there, largest, 1), 0)
  return mix, basis * (largest * scale)[:, None]
