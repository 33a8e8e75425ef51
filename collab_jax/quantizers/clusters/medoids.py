"""k-medoids: vectors of the image itself that represent all others."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import geometry, vmap
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class Medoids(clustering.Clustering):
  """Sends k of the vectors, and for every vector which of them replaces it.

      Medoids(k=8)

  Facility location: the vectors are chosen one by one, each so that the sum of
  all distances to the nearest chosen one falls the most. That is a submodular
  cover, hence at least 63% of the best gain. All n gains of a step are one
  reduction of the n x n distances, so that lazy evaluation would save nothing.
  Then medoids and clusters are updated in turn: the medoid of a cluster is the
  member of least total distance to the others.

  O(n^2 d) once, then O(k n^2) for the choice and O(n^2) an iteration.

  Attributes:
    k: Number of clusters, at most n.
    iters: Largest number of updates after the greedy choice.
    power: Exponent of the distances: 1 is k-medoids proper; below 1 distant
      vectors count less.
    centroids: Quantizer of the medoids.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: Nemhauser, Wolsey and Fisher 1978 (the greedy choice); Kaufman and
  Rousseeuw 1990 (k-medoids, of which it is the BUILD step); Park and Jun 2009
  (the updates).
  """

  k: int
  iters: int = 10
  power: int | float = 1
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  dynamic_k: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('iters', self.iters, 0)
    _validate.number('power', self.power, 0.1, 2.0)

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the nearest medoid of each vector, and the medoids."""
    del key
    assignments, chosen = medoids(
      x, self.k, self.iters, float(self.power), self.num_used
    )
    return assignments, x[chosen].astype(jnp.float32)


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames=('k', 'iters', 'power'))
def medoids(
  x: Float[Array, 'n d'],
  k: int,
  iters: int,
  power: float = 1.0,
  num_used: Int[Array, ''] | None = None,
) -> tuple[Int[Array, ' n'], Int[Array, ' k']]:
  """Chooses the k vectors that are nearest to all others in total.

  Args:
    x: Finite vectors.
    k: Number of medoids, at most n.
    iters: Largest number of updates after the greedy choice.
    power: As of `Medoids`.
    num_used: How many of the k are chosen; None for all.

  Returns:
    The nearest medoid of each vector, a medoid's being itself; and the indices
    of the medoids. Ties: the lowest index.
  """
  solve = functools.partial(_solve, k=k, iters=iters, power=power)
  count = k if num_used is None else num_used
  return vmap.map_or_vmap(solve)(x, jnp.asarray(count, jnp.int32))


def _solve(x, num_used, *, k, iters, power):
  gaps = geometry.distances(x.astype(jnp.float32)) ** (power / 2)
  n = len(gaps)

  def choose(i, state):
    nearest, free, chosen = state
    totals = jnp.sum(jnp.minimum(nearest[:, None], gaps), axis=0)
    index = jnp.argmin(jnp.where(free, totals, jnp.inf)).astype(jnp.int32)
    nearest = jnp.minimum(nearest, gaps[index])
    return nearest, free.at[index].set(False), chosen.at[i].set(index)

  # With the largest gap of all, the first choice is the medoid of all.
  start = jnp.full(n, jnp.max(gaps)), jnp.ones(n, bool), jnp.zeros(k, jnp.int32)
  chosen = jax.lax.fori_loop(0, num_used, choose, start)[2]
  used = jnp.arange(k) < num_used

  def assign(chosen):
    # A medoid stays with itself, whatever equals it.
    is_medoid = jnp.arange(n) == chosen[:, None]
    distances = jnp.where(is_medoid, -1, gaps[chosen])
    return geometry.first_min(jnp.where(used[:, None], distances, jnp.inf))[0]

  def running(state):
    updates, _, _, moved = state
    return (updates < iters) & moved

  def update(state):
    updates, chosen, members, _ = state
    same = members[:, None] == members
    totals = jnp.sum(jnp.where(same, gaps, 0), axis=0)
    of_cluster = members == jnp.arange(k)[:, None]
    totals = jnp.where(of_cluster, totals, jnp.inf)
    new = jnp.argmin(totals, axis=1).astype(jnp.int32)
    return updates + 1, new, assign(new), jnp.any(new != chosen)

  state = (jnp.int32(0), chosen, assign(chosen), jnp.bool_(True))
  _, chosen, members, _ = jax.lax.while_loop(running, update, state)
  return members.astype(jnp.int32), chosen
