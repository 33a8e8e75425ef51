"""k-means of weighted vectors, and of directions, on the Gram matrix.

With a weight w_i for each vector, S = A^T diag(w) G over the members A of each
cluster and the masses m = A^T w, x_i . mu_j = S_ji / m_j and |mu_j|^2 = sum_i
w_i A_ij S_ji / m_j^2; see `lloyd`. For directions, a vector goes to the cluster
of the largest cosine, S_ji / |S_j|, which needs no masses.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from collab_jax.quantizers.math import geometry, lloyd, vmap


def unit(x: Float[Array, 'n d']) -> Float[Array, 'n d']:
  """Returns the vectors at length 1; those of length 0 stay as they are."""
  # Squares of the largest and smallest float32 would leave its range.
  largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
  x = x / jnp.where(largest > 0, largest, 1)
  norms = jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True))
  return x / jnp.where(norms > 0, norms, 1)


def means(
  x: Float[Array, 'n d'],
  weights: Float[Array, ' n'],
  assignments: Int[Array, ' n'],
  k: int,
) -> Float[Array, 'k d']:
  """Returns the weighted mean of each cluster.

  Args:
    x: Finite vectors.
    weights: Positive; only their ratios within a cluster count.
    assignments: The cluster of each, in [0, k).
    k: Number of clusters.
  """
  data = geometry.centred(x.astype(jnp.float32))
  masses = jnp.zeros(k, jnp.float32).at[assignments].add(weights)
  shares = weights / masses[assignments]
  rows = lloyd.sums(assignments, data.points * shares[:, None], k)
  return rows * data.scale + data.offset


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames=('iters', 'cosine'))
def cluster(
  points: Float[Array, 'n d'],
  weights: Float[Array, ' n'],
  noise: Float[Array, 'k n'],
  iters: int,
  cosine: bool = False,
  num_used: Int[Array, ''] | None = None,
) -> Int[Array, ' n']:
  """Clusters weighted vectors by Lloyd's algorithm from a k-means++ start.

  The start draws vectors in proportion to weight times squared distance. Ties
  and clusters without vectors are as in `lloyd.lloyd`.

  Args:
    points: Finite vectors of order 1: `geometry.centred`, or `unit`.
    weights: Positive, of order 1.
    noise: Standard Gumbel noise, a row for each cluster.
    iters: Largest number of iterations, at least 0.
    cosine: Whether the points are of length 1 and only their angles count.
    num_used: How many of the k clusters are made; None for all.

  Returns:
    The cluster of each vector.
  """
  solve = functools.partial(_solve, iters=iters, cosine=cosine)
  count = len(noise) if num_used is None else num_used
  count = jnp.asarray(count, jnp.int32)
  return vmap.map_or_vmap(solve)(points, weights, noise, count)


def _solve(points, weights, noise, num_used, *, iters, cosine):
  k = noise.shape[0]
  used = jnp.arange(k) < num_used
  gram = geometry.gram(points)
  norms = jnp.diagonal(gram)
  start = lloyd.draw(gram, noise + jnp.log(weights), num_used)
  scores = norms[start, None] - 2 * gram[start]
  rows = weights[:, None] * gram

  def running(state):
    updates, *_, moved = state
    return (updates <= iters) & moved

  def step(state):
    updates, old, scores, _ = state
    scores = jnp.where(used[:, None], scores, jnp.inf)
    new, least = geometry.first_min(scores)
    members = lloyd.reseed(new, norms + least, used)[0]
    totals = lloyd.sums(members, rows, k)
    within = jnp.take_along_axis(totals, members[None], axis=0)[0]
    squares = jnp.zeros(k, jnp.float32).at[members].add(weights * within)
    masses = jnp.zeros(k, jnp.float32).at[members].add(weights)
    if cosine:
      lengths = jnp.sqrt(jnp.maximum(squares, 0))
      scores = -totals / jnp.where(lengths > 0, lengths, 1)[:, None]
    else:
      inverse = 1 / masses
      scores = (squares * inverse**2)[:, None]
      scores = scores - totals * (2 * inverse)[:, None]
    return updates + 1, members, scores, jnp.any(members != old)

  unassigned = jnp.full(len(gram), -1, jnp.int32)
  state = (jnp.int32(0), unassigned, scores, jnp.bool_(True))
  return jax.lax.while_loop(running, step, state)[1]
