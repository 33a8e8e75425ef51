"""Density peak clustering: centres are dense and far from denser vectors."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import geometry, weighted
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class DpcKnn(clustering.Clustering):
  """Sends the means of k clusters around density peaks.

      DpcKnn(k=16)

  The density of a vector is exp(-its mean squared distance to its nearest
  `neighbours`); its separation is the distance to the nearest vector of higher
  density. The k vectors of the greatest product become centres, and every
  vector joins the nearest centre.

  O(n^2 d), and a search for the nearest neighbours.

  Attributes:
    k: Number of clusters, at most n.
    neighbours: Number of nearest vectors that make a density, the vector itself
      included.
    weight: Exponent of the density by which members count in the mean; 0 is the
      average pooling of TOFC.
    centroids: Quantizer of the means.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: Du et al. 2016 (DPC-KNN) as in TCFormer, arXiv 2204.08680, and TOFC,
  arXiv 2503.12926. Distances are divided by sqrt(d) as there, and by the
  vectors' root mean square, so that the scale of features does not matter.
  """

  k: int
  neighbours: int = 5
  weight: int | float = 0
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  dynamic_k: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('neighbours', self.neighbours, 1, 2**16)
    _validate.number('weight', self.weight, 0.0, 100.0)

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the nearest peak of each vector, and the clusters' means."""
    del key
    members, density = peaks(x, self.k, self.neighbours, self.num_used)
    weights = jnp.maximum(density, 1e-6) ** self.weight
    return members, weighted.means(x, weights, members, self.k)


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames=('k', 'neighbours'))
def peaks(
  x: Float[Array, 'n d'],
  k: int,
  neighbours: int,
  num_used: Int[Array, ''] | None = None,
) -> tuple[Int[Array, ' n'], Float[Array, ' n']]:
  """Finds density peaks.

  Args:
    x: Finite vectors.
    k: Number of peaks, at most n.
    neighbours: As of `DpcKnn`; n if there are fewer.
    num_used: How many of the k are chosen; None for all.

  Returns:
    The nearest peak of each vector, and the vectors' densities. Ties: the
    lowest index.
  """
  gaps = geometry.distances(x.astype(jnp.float32))
  n = len(gaps)
  # The mean squared distance of two vectors is twice their variance.
  mean = jnp.mean(gaps) / 2
  gaps = gaps / jnp.where(mean > 0, mean, 1)
  nearest = -jax.lax.top_k(-gaps, min(neighbours, n))[0]
  density = jnp.exp(-jnp.mean(nearest, axis=1))
  # Among equal densities the first counts as the higher one.
  every = jnp.arange(n)
  higher = (density > density[:, None]) | (
    (density == density[:, None]) & (every < every[:, None])
  )
  away = jnp.sqrt(gaps)
  apart = jnp.min(jnp.where(higher, away, jnp.inf), axis=1)
  apart = jnp.where(jnp.isinf(apart), jnp.max(away), apart)
  chosen = jax.lax.top_k(density * apart, k)[1]
  is_peak = every == chosen[:, None]
  distances = jnp.where(is_peak, -1, gaps[chosen])
  if num_used is not None:
    used = jnp.arange(k) < num_used
    distances = jnp.where(used[:, None], distances, jnp.inf)
  members = geometry.first_min(distances)[0]
  return members.astype(jnp.int32), density
