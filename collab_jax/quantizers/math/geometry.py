"""Distances between the vectors of one image, from their Gram matrix."""

from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

# Rows that are averaged to locate the data. Any point near them serves, see
# `centred`; the mean of all rows would cost as much as a third of the Gram.
_SAMPLE = 16


class Centred(NamedTuple):
  """Vectors moved and scaled: x = points * scale + offset.

  Attributes:
    points: The vectors about the origin, of order 1.
    offset: A point in the midst of the vectors.
    scale: A power of two, so that scaling rounds nothing.
  """

  points: Float[Array, 'n d']
  offset: Float[Array, ' d']
  scale: Float[Array, '']


def centred(x: Float[Array, 'n d']) -> Centred:
  """Moves vectors to the origin, so that their Gram matrix is accurate.

  |a - b|^2 = |a|^2 - 2 a.b + |b|^2 cancels when the vectors are long compared
  with the distances between them. Distances do not change when the same
  point is taken from all vectors; the mean of a few of them takes away what
  all have in common. The scale keeps squares within float32 for data as
  small as 1e-30 or as large as 1e30.

  Args:
    x: Finite vectors.

  Returns:
    The points, and offset and scale to recover x.
  """
  x = x.astype(jnp.float32)
  n = x.shape[0]
  rows = x[:: -(-n // _SAMPLE)]
  # Halves first: the sum of a few large float32 would overflow.
  offset = jnp.sum(rows / rows.shape[0], axis=0)
  reach = jnp.maximum(
    jnp.max(jnp.abs(offset)), jnp.max(jnp.abs(rows / 2 - offset / 2))
  )
  _, exponent = jnp.frexp(reach)
  exponent = jnp.clip(exponent, -100, 100)
  scale = jnp.ldexp(jnp.float32(1), exponent)
  points = (x - offset) * jnp.ldexp(jnp.float32(1), -exponent)
  return Centred(jnp.clip(points, -1e15, 1e15), offset, scale)


def gram(points: Float[Array, 'n d']) -> Float[Array, 'n n']:
  """Returns all inner products, in full float32 on every device.

  A CPU computes one of the two equal off-diagonal quarters.
  """

  def product(a, b):
    return jnp.einsum('nd,md->nm', a, b, precision='highest')

  def quarters(points):
    half = points.shape[0] // 2
    a, b = points[:half], points[half:]
    cross = product(a, b)
    return jnp.block([[product(a, a), cross], [cross.T, product(b, b)]])

  return jax.lax.platform_dependent(
    points, cpu=quarters, default=lambda points: product(points, points)
  )


def distances(x: Float[Array, 'n d']) -> Float[Array, 'n n']:
  """Returns all squared distances, in units of the data's own scale.

  Args:
    x: Finite vectors.
  """
  products = gram(centred(x).points)
  norms = jnp.diagonal(products)
  gaps = jnp.maximum(norms[:, None] + norms - 2 * products, 0)
  # Each half is rounded differently.
  return (gaps + gaps.T) / 2 * (1 - jnp.eye(len(gaps), dtype=jnp.float32))


def farthest(
  distances: Callable[[Int[Array, '']], Float[Array, ' n']],
  first: Int[Array, ''],
  n: int,
  k: int,
) -> Int[Array, ' k']:
  """Chooses vectors, each the farthest from its nearest chosen one.

  Args:
    distances: Function of an index to the distances of all vectors from that
      one; below 0 counts as 0.
    first: Index of the first vector to choose.
    n: Number of vectors.
    k: Number of vectors to choose, at most n.

  Returns:
    Indices in the order in which they are chosen. Ties: the lowest.
  """

  def step(state, _):
    nearest, chosen = state
    nearest = jnp.minimum(nearest, jnp.maximum(distances(chosen), 0))
    # Below zero once chosen, so that equal vectors are not chosen twice.
    nearest = nearest.at[chosen].set(-1)
    return (nearest, jnp.argmax(nearest)), chosen

  start = (jnp.full(n, jnp.inf, jnp.float32), first)
  return jax.lax.scan(step, start, length=k)[1]


def first_min(
  values: Real[Array, 'k n'],
) -> tuple[Int[Array, ' n'], Real[Array, ' n']]:
  """Returns the row of each column's least value, and the value.

  Ties go to the lowest row. Two plain reductions: XLA vectorizes them on a
  CPU, which it does not do with `argmin`.
  """
  least = jnp.min(values, axis=0)
  rows = jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
  hit = jnp.where(values <= least, rows, values.shape[0] - 1)
  return jnp.min(hit, axis=0), least


def side(n: int) -> int:
  """Returns the side of the square grid of n vectors.

  Args:
    n: Number of vectors.

  Raises:
    ValueError: If n is not a square.
  """
  root = math.isqrt(n)
  if root * root != n:
    raise ValueError(
      f'n: got {n} vectors, expected a square grid; the next squares are'
      f' {root**2} and {(root + 1) ** 2}'
    )
  return root


def grid_width(n: int) -> int:
  """Returns the side of the square grid of n vectors; n if it is no square.

  Vectors that form no square grid are taken for a line.

  Args:
    n: Number of vectors.
  """
  root = math.isqrt(n)
  return root if root * root == n else n
