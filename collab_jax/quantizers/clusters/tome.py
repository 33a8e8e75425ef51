"""Token merging (ToMe): the most alike pairs of alternate vectors merge."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import lloyd, weighted
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class ToMe(clustering.Clustering):
  """Sends the means of k clusters that bipartite matching leaves.

      ToMe(k=16)

  In each round the vectors are split alternately into two sets. Each vector
  of the first is matched with the one of the second of the largest cosine, and
  the best matches merge, to the mean weighted by sizes. A round takes away half
  of the vectors, until k are left: a few matrix products instead of the n - k
  steps of `merge`, which always merges the best pair.

  O(n^2 d / 4) for the first round, a quarter for each further halving.

  Attributes:
    k: Number of clusters, at most n.
    centroids: Quantizer of the means.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: Bolya et al. 2023, arXiv 2210.09461, without the layers between the
  rounds; cosines of the vectors themselves in place of those of the keys.
  """

  k: int
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the clusters that are left, and their means."""
    del key
    assignments = match(x, self.k)
    return assignments, lloyd.means(x, assignments, self.k)


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames='k')
def match(x: Float[Array, 'n d'], k: int) -> Int[Array, ' n']:
  """Merges in rounds until k clusters are left.

  Args:
    x: Finite vectors.
    k: Number of clusters, at most n.

  Returns:
    The cluster of each vector, in [0, k).
  """
  base.check_k_of_n(k, x.shape[0])
  points = x.astype(jnp.float32)
  points = points / jnp.maximum(jnp.max(jnp.abs(points)), 1e-30)
  sizes = jnp.ones(len(points), jnp.float32)
  owner = jnp.arange(len(points), dtype=jnp.int32)
  while len(points) > k:
    n = len(points)
    # A compiler would fuse the rounds, and compute the first ones again and
    # again.
    points, sizes, moved = jax.lax.optimization_barrier(
      _round(points, sizes, min(n - k, n // 2))
    )
    owner = moved[owner]
  return owner


def _round(points, sizes, merged):
  """Merges some pairs; returns points, sizes, and each point's new index."""
  n = len(points)
  first, second = points[::2], points[1::2]
  cosines = jnp.einsum(
    'ad,bd->ab',
    weighted.unit(first),
    weighted.unit(second),
    precision='highest',
  )
  best = jnp.max(cosines, axis=1)
  partner = jnp.argmax(cosines, axis=1)
  order = jnp.argsort(-best, stable=True)
  kept = jnp.sort(order[merged:])
  index = (
    jnp.zeros(len(first), jnp.int32)
    .at[kept]
    .set(jnp.arange(len(kept), dtype=jnp.int32))
  )
  merges = jnp.zeros(len(first), bool).at[order[:merged]].set(True)
  index = jnp.where(merges, len(kept) + partner, index).astype(jnp.int32)
  second_index = len(kept) + jnp.arange(len(second), dtype=jnp.int32)
  moved = jnp.zeros(n, jnp.int32).at[::2].set(index).at[1::2].set(second_index)
  left = n - merged
  rows = lloyd.sums(moved, points * sizes[:, None], left)
  sizes = jnp.zeros(left, jnp.float32).at[moved].add(sizes)
  return rows / sizes[:, None], sizes, moved
