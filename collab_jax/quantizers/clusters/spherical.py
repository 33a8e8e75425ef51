"""Spherical k-means: clusters of directions."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import lloyd, weighted
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class Spherical(clustering.Clustering):
  """Sends the means of k clusters of directions.

      Spherical(k=8)

  A vector belongs to the cluster with whose sum of unit vectors it has the
  largest cosine, whatever its length. The means of the vectors themselves are
  sent, whose lengths matter to the decoder.

  O(n^2 d) once, then O(n^2) an iteration.

  Attributes:
    k: Number of clusters, at most n.
    iters: Largest number of iterations; it stops earlier once converged.
    centroids: Quantizer of the centroids.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: Dhillon and Modha 2001; the start is that of k-means++ on the sphere.
  """

  k: int
  iters: int = 50
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  draws: ClassVar[bool] = True
  dynamic_k: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('iters', self.iters, 0)

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the clusters of directions, and the means of their vectors."""
    n = x.shape[0]
    noise = jax.random.gumbel(key, (self.k * n,)).reshape(self.k, n)
    points = weighted.unit(x.astype(jnp.float32))
    assignments = weighted.cluster(
      points,
      jnp.ones(n, jnp.float32),
      noise,
      self.iters,
      cosine=True,
      num_used=self.num_used,
    )
    return assignments, lloyd.means(x, assignments, self.k)
