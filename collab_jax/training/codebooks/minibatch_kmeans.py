"""k-means for millions of vectors that lie in a file."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np

from collab_jax.quantizers.vectors import vq

# Vectors drawn for the start, for each code.
_SAMPLE = 16

# Candidates for each code.
_TRIES = 8

# Rows, by slice or by increasing indices, to f32[rows, width].
Read = Callable[[slice | np.ndarray], jax.Array | np.ndarray]


class KMeansResult(NamedTuple):
  """Codes as k-means leaves them.

  Attributes:
    codes: The means of the vectors nearest to each.
    counts: Number of vectors nearest to each.
    error: Mean squared distance of a vector from its code.
  """

  codes: Float[np.ndarray, 'size width']
  counts: Int[np.ndarray, ' size']
  error: float


class _PassSums(NamedTuple):
  """Sums over a part of the vectors, and the farthest of them."""

  sums: jax.Array
  counts: jax.Array
  error: jax.Array
  far: jax.Array
  gaps: jax.Array


@functools.partial(jax.jit, static_argnames='size')
def plus_plus(
  x: Float[Array, 'n width'], key: Key[Array, ''], size: int
) -> Float[Array, 'size width']:
  """Draws initial codes by greedy k-means++.

  Each step draws a few vectors in proportion to their squared distance from
  the nearest code so far, and keeps the one that lowers the sum of these
  distances most.

  Args:
    x: Vectors.
    key: Random key.
    size: Number of codes.

  Source: Arthur and Vassilvitskii 2007, section 8, as scikit-learn has it.
  """
  tries = min(_TRIES, len(x))
  squares = jnp.sum(x * x, axis=1)

  def step(gaps, key):
    noise = jax.random.gumbel(key, gaps.shape)
    candidates = jax.lax.top_k(jnp.log(gaps) + noise, tries)[1]
    cross = jnp.einsum('tw,nw->tn', x[candidates], x, precision='highest')
    distances = squares[candidates, None] - 2 * cross + squares
    left = jnp.clip(distances, 1e-30, gaps)
    best = jnp.argmin(jnp.sum(left, axis=1))
    return left[best], x[candidates[best]]

  first = jnp.full(len(x), 1e30)
  return jax.lax.scan(step, first, jax.random.split(key, size))[1]


@jax.jit
def _nearest(codes, x):
  assigned = vq.nearest(x, codes)
  return assigned, jnp.sum((x - codes[assigned]) ** 2, axis=1)


@jax.jit
def _minibatch_step(codes, counts, x):
  """Moves each code to its running mean, as mini-batch k-means does."""
  assigned, _ = _nearest(codes, x)
  new = jnp.zeros(len(codes)).at[assigned].add(1)
  sums = jnp.zeros_like(codes).at[assigned].add(x)
  counts = counts + new
  moved = (sums - new[:, None] * codes) / jnp.maximum(counts, 1)[:, None]
  return codes + moved, counts


@jax.jit
def _add_chunk(codes, state, x, real):
  """Adds a chunk to a pass; rows that are not real only fill it up."""
  assigned, gaps = _nearest(codes, x)
  ones = real.astype(jnp.float32)
  far = jnp.concatenate([state.far, x])
  farthest = jnp.concatenate([state.gaps, jnp.where(real, gaps, -1)])
  farthest, rows = jax.lax.top_k(farthest, len(codes))
  return _PassSums(
    state.sums.at[assigned].add(x * ones[:, None]),
    state.counts.at[assigned].add(ones),
    state.error + jnp.sum(gaps * ones),
    far[rows],
    farthest,
  )


def _pass(read, count, codes, chunk):
  """Adds up all vectors, a chunk at a time, in float64 between chunks."""
  size, width = codes.shape
  sums, counts, error = np.zeros((size, width)), np.zeros(size), 0.0
  far, gaps = jnp.zeros((size, width)), jnp.full(size, -1.0)
  for start in range(0, count, chunk):
    rows = np.asarray(read(slice(start, min(start + chunk, count))))
    real = np.arange(chunk) < len(rows)
    rows = np.pad(rows, ((0, chunk - len(rows)), (0, 0)))
    zero = _PassSums(
      jnp.zeros((size, width)), jnp.zeros(size), jnp.zeros(()), far, gaps
    )
    state = _add_chunk(codes, zero, rows, real)
    far, gaps = state.far, state.gaps
    sums += np.asarray(state.sums)
    counts += np.asarray(state.counts)
    error += float(state.error)
  return sums, counts, error / count, np.asarray(far)


def kmeans(
  read: Read,
  count: int,
  size: int,
  key: Key[Array, ''],
  *,
  steps: int = 200,
  batch: int = 8192,
  passes: int = 10,
) -> KMeansResult:
  """Clusters vectors: k-means++ on a sample, mini-batches, whole passes.

  A code that no vector is nearest to takes one of the farthest vectors. No
  more than a batch is in memory at a time; the same key gives the same codes.

  Args:
    read: Returns rows of the vectors.
    count: Number of vectors, at least `size`.
    size: Number of codes.
    key: Random key.
    steps: Mini-batches, for a start close to the end.
    batch: Vectors in a mini-batch, and at a time in a pass.
    passes: Passes over all vectors, each an iteration of Lloyd's algorithm.

  Returns:
    The codes.

  Raises:
    ValueError: There are fewer vectors than codes.

  Source: Sculley 2010 (mini-batches), Lloyd 1982; checked against
  scikit-learn's KMeans.
  """
  if count < size:
    raise ValueError(
      f'got {count} vectors for {size} codes, expected at least as many; raise'
      ' limit or lower size'
    )
  batch = min(batch, count)
  start_key, draw_key, batch_key = jax.random.split(key, 3)
  sample = _rows(start_key, count, min(count, _SAMPLE * size))
  codes = plus_plus(jnp.asarray(read(sample)), draw_key, size)
  seen = jnp.zeros(size)
  for i in range(steps):
    rows = _rows(jax.random.fold_in(batch_key, i), count, batch)
    codes, seen = _minibatch_step(codes, seen, jnp.asarray(read(rows)))
  for _ in range(passes):
    sums, counts, _, far = _pass(read, count, codes, batch)
    means = sums / np.maximum(counts, 1)[:, None]
    dead = np.flatnonzero(counts == 0)
    means[dead] = far[: len(dead)]
    codes = jnp.asarray(means, jnp.float32)
  _, counts, error, _ = _pass(read, count, codes, batch)
  return KMeansResult(np.asarray(codes), counts.astype(np.int64), error)


def _rows(key, count, rows):
  """Draws increasing indices; a row may come twice."""
  if rows == count:
    return np.arange(count)
  return np.sort(np.asarray(jax.random.randint(key, (rows,), 0, count)))
