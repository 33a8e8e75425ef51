"""Agglomerative clustering: what stands out keeps a centroid of its own."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import geometry, lloyd, potts, vmap
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class Agglomerative(clustering.Clustering):
  """Sends the means of k clusters that are left when the nearest two merge.

      Agglomerative(k=8)

  k-means spends centroids in proportion to squared error, hence on large
  areas with some texture. Merging the two nearest means leaves small things
  that differ from all else alone until the end, and needs no random start.

  The distance between clusters of c and e vectors with means a and b is
  `|a - b|^2 (c e / (c + e))^weight`: at weight 0 the distance of the means, at
  1 what the squared error grows by (Ward's rule).

  Attributes:
    k: Number of clusters, at most n.
    weight: Exponent of the clusters' sizes, from 0 to 1.
    iters: Largest number of iterations of Lloyd's algorithm after that.
    smooth: Weight of an equal neighbour on the grid in a final smoothing, in
      mean squared errors; above 0 the assignments take fewer bytes.
    centroids: Quantizer of the centroids.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: Lance and Williams 1967 (the update of the distances); Ward 1963.
  Checked against SciPy's `centroid` and `ward`.
  """

  k: int
  weight: int | float = 0.25
  iters: int = 0
  smooth: int | float = 0.0
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  dynamic_k: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('iters', self.iters, 0)
    _validate.number('weight', self.weight, 0.0, 1.0)
    _validate.number('smooth', self.smooth, 0.0, 100.0)

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the clusters that are left, by their first vectors."""
    del key
    assignments = merge(x, self.k, float(self.weight), self.num_used)
    means = lloyd.means(x, assignments, self.k)
    if self.iters:
      clusters = lloyd.lloyd(x, means, self.iters, num_used=self.num_used)
      assignments, means = clusters.assignments, clusters.centroids
    if self.smooth:
      assignments = potts.smooth(
        x, assignments, self.k, self.smooth, self.num_used
      )
      means = lloyd.means(x, assignments, self.k)
    return assignments, means


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames=('k', 'weight'))
def merge(
  x: Float[Array, 'n d'],
  k: int,
  weight: int | float = 0.25,
  num_used: Int[Array, ''] | None = None,
) -> Int[Array, ' n']:
  """Merges vectors, the nearest two at a time, until k clusters are left.

  Args:
    x: Finite vectors.
    k: Number of clusters, at most n.
    weight: As of `Agglomerative`.
    num_used: How many of the k clusters are left; None for all.

  Returns:
    The cluster of each vector; clusters are numbered by their first vector.
    Of equal distances those of the lowest numbers come first.

  Raises:
    ValueError: If k > n.
  """
  base.check_k_of_n(k, x.shape[0])
  merge_image = functools.partial(_merge, k=k, weight=weight)
  count = k if num_used is None else num_used
  return vmap.map_or_vmap(merge_image)(x, jnp.asarray(count, jnp.int32))


def _merge(x, num_used, *, k, weight):
  data = geometry.centred(x.astype(jnp.float32))
  gram = geometry.gram(data.points)
  norms = jnp.diagonal(gram)
  n = len(gram)
  gaps = jnp.maximum(norms[:, None] + norms - 2 * gram, 0)
  state = _singles(jnp.where(jnp.eye(n, dtype=bool), jnp.inf, gaps), weight)
  owner = jnp.arange(n, dtype=jnp.int32)
  slots = n

  def step(_, state):
    slots, owner = state
    return join(slots, owner, weight)

  while slots > k:
    # Most of the slots are empty then; the others are packed together.
    left = max(k, slots // 4)
    state, owner = jax.lax.fori_loop(0, slots - left, step, (state, owner))
    kept = jnp.nonzero(state.counts > 0, size=left)[0]
    owner = _ranks(state)[owner]
    state = state.take(kept)
    slots = left
  state, owner = jax.lax.fori_loop(0, k - num_used, step, (state, owner))
  return _ranks(state)[owner]


def _ranks(slots):
  """Returns how many slots before each are not empty."""
  return (jnp.cumsum(slots.counts > 0) - 1).astype(jnp.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Slots:
  """Clusters in slots: an empty one has no members and is far from all.

  Attributes:
    gaps: |a - b|^2 of the means; inf on the diagonal and where one is empty.
    costs: The gaps, weighted by the counts.
    counts: Members, 0 of an empty slot.
  """

  gaps: jax.Array
  costs: jax.Array
  counts: jax.Array

  def take(self, kept: Int[Array, ' m']) -> 'Slots':
    """Returns the slots of these numbers."""
    return Slots(
      self.gaps[kept][:, kept], self.costs[kept][:, kept], self.counts[kept]
    )


def _singles(gaps, weight):
  """Returns a cluster for each vector."""
  return Slots(gaps, gaps * 0.5**weight, jnp.ones(len(gaps), jnp.float32))


def join(
  slots: Slots, owner: Int[Array, ' n'], weight: int | float
) -> tuple[Slots, Int[Array, ' n']]:
  """Joins the nearest two clusters in the lower of their slots.

  Args:
    slots: At least two that are not empty.
    owner: The slot of each vector.
    weight: As of `Agglomerative`.
  """
  least = jnp.min(slots.costs, axis=0)
  low = jnp.argmin(least)
  # The row of the first column with the least cost; it is the higher one.
  high = jnp.argmin(slots.costs[low])
  c, e = slots.counts[low], slots.counts[high]
  share = c / (c + e)
  row = (
    share * slots.gaps[low]
    + (1 - share) * slots.gaps[high]
    - share * (1 - share) * slots.gaps[low, high]
  )
  counts = slots.counts.at[low].set(c + e).at[high].set(0)
  others = (counts > 0).at[low].set(False)
  row = jnp.where(others, jnp.maximum(row, 0), jnp.inf)
  size = counts * (c + e) / (counts + c + e)
  cost = jnp.where(others, row * size**weight, jnp.inf)
  gaps, costs = (
    _put(_put(table, low, new), high, jnp.full_like(new, jnp.inf))
    for table, new in ((slots.gaps, row), (slots.costs, cost))
  )
  owner = jnp.where(owner == high, low, owner).astype(jnp.int32)
  return Slots(gaps, costs, counts), owner


def _put(table, index, new):
  """Sets a row and the same column."""
  zero = jnp.zeros_like(index)
  update = jax.lax.dynamic_update_slice
  return update(
    update(table, new[None], (index, zero)), new[:, None], (zero, index)
  )
