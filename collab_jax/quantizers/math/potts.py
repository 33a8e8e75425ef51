"""Smoothing of assignments by a Potts model, so that they take fewer bytes."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from collab_jax.quantizers.math import geometry, lloyd

_SWEEPS = 3
# Smaller clusters are left alone: they are small objects that stood out.
_SMALL = 3


@functools.partial(jax.jit, static_argnames=('k', 'weight'))
def smooth(
  x: Float[Array, 'n d'],
  assignments: Int[Array, ' n'],
  k: int,
  weight: int | float,
  num_used: Int[Array, ''] | None = None,
) -> Int[Array, ' n']:
  """Moves vectors to clusters of their neighbours on the grid.

  A vector takes the cluster of least squared distance minus weight x the
  vectors' mean squared distance x how many of its four neighbours are in it:
  a Potts model, whose contours an index coder pays for. First the
  white fields of a chessboard move, then the black ones, three times over.
  Vectors of clusters with less than three stay where they are.

  Args:
    x: Finite vectors on a square grid, row by row.
    assignments: The cluster of each, in [0, k).
    k: Number of clusters.
    weight: Weight of an equal neighbour, at least 0.
    num_used: How many of the k clusters there are; None for all. No vector
      moves to one of the others.

  Returns:
    The new clusters.

  Raises:
    ValueError: If n is not a square.

  Source: Besag 1986 (iterated conditional modes).
  """
  n = x.shape[0]
  width = geometry.side(n)
  points = geometry.centred(x.astype(jnp.float32)).points
  means = lloyd.means(points, assignments, k)
  cross = jnp.einsum('kd,nd->kn', means, points, precision='highest')
  distances = jnp.sum(means**2, axis=1, keepdims=True) - 2 * cross
  to_mean = jnp.take_along_axis(distances, assignments[None], axis=0)
  if num_used is not None:
    unused = jnp.arange(k)[:, None] >= num_used
    distances = jnp.where(unused, jnp.inf, distances)
  unit = jnp.mean(jnp.maximum(to_mean + jnp.sum(points**2, axis=1), 0))
  white = np.add(*np.divmod(np.arange(n), width)) % 2 == 0

  def step(assignments, fields):
    hot = assignments == jnp.arange(k)[:, None]
    grid = jnp.pad(hot.reshape(k, width, width), ((0, 0), (1, 1), (1, 1)))
    grid = grid.astype(jnp.float32)
    agree = (
      grid[:, :-2, 1:-1]
      + grid[:, 2:, 1:-1]
      + grid[:, 1:-1, :-2]
      + grid[:, 1:-1, 2:]
    ).reshape(k, n)
    best = geometry.first_min(distances - weight * unit * agree)[0]
    counts = jnp.sum(hot, axis=1)
    moves = fields & (counts[assignments] >= _SMALL)
    return jnp.where(moves, best, assignments).astype(jnp.int32), None

  order = jnp.asarray(np.stack([white, ~white] * _SWEEPS))
  return jax.lax.scan(step, assignments, order)[0]
