"""k-means of vectors and their positions: spatially compact clusters."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import geometry, lloyd
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class Spatial(clustering.Clustering):
  """Sends the means of k clusters of vectors with their positions appended.

      Spatial(k=8, weight=0.1)

  The rows and columns of the grid are scaled so that together they have
  `weight` times the variance of all numbers of the vectors. Compact clusters
  have short contours, and contours are what the assignments' bytes go into.

  As `kmeans` of d + 2 numbers.

  Attributes:
    k: Number of clusters, at most n.
    weight: Variance of the positions, in that of the vectors.
    iters: Largest number of iterations; it stops earlier once converged.
    centroids: Quantizer of the centroids.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: Achanta et al. 2012 (SLIC: colours and positions), without its
  windows. The vectors must form a square grid.
  """

  k: int
  weight: int | float = 0.1
  iters: int = 50
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  draws: ClassVar[bool] = True
  dynamic_k: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('iters', self.iters, 0)
    _validate.number('weight', self.weight, 0.0, 100.0)

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the clusters of vectors and positions, and the vectors' means."""
    n = x.shape[0]
    points = geometry.centred(x.astype(jnp.float32)).points
    variance = jnp.sum(jnp.var(points, axis=0))
    width = geometry.side(n)
    positions = jnp.stack(jnp.divmod(jnp.arange(n), width), axis=1)
    # The variance of the numbers 0..w-1 is (w^2 - 1) / 12.
    spread = max(width**2 - 1, 1) / 6
    scale = jnp.sqrt(self.weight * variance / spread)
    joint = jnp.concatenate([points, scale * positions], axis=1)
    assignments = lloyd.plus_plus(
      joint, key, self.k, self.iters, num_used=self.num_used
    ).assignments
    return assignments, lloyd.means(x, assignments, self.k)

  def inner_shape(self, n: int, d: int) -> tuple[int, int]:
    """Returns k and d; n must be a square."""
    geometry.side(n)
    return super().inner_shape(n, d)
