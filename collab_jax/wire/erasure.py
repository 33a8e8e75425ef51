"""Erasure codes: any `needed` of `count` blocks give all of them back.

Reed-Solomon over GF(256), systematic: the first blocks are the data, the others
mix them with a Cauchy matrix, every square part of which can be inverted.

Source: Blomer et al. 1995, 'An XOR-based erasure-resilient coding scheme'.
"""

from collections.abc import Sequence
import functools
import math

from jaxtyping import UInt8
import numpy as np

# Blocks of a message: the elements of the field.
MAX_BLOCKS = 256
_POLYNOMIAL = 0x11D  # x^8 + x^4 + x^3 + x^2 + 1; x generates the field.


def encode(
  data: UInt8[np.ndarray, 'needed size'], count: int
) -> UInt8[np.ndarray, 'count size']:
  """Appends blocks to the data.

  Args:
    data: The blocks that will be needed, at least one.
    count: Number of blocks to return, needed to 256.

  Returns:
    The data, then count - needed blocks that mix them.

  Raises:
    ValueError: There are fewer or more blocks than that.
  """
  needed = len(data)
  if not 1 <= needed <= count <= MAX_BLOCKS:
    raise ValueError(
      f'got {needed} blocks to make {count} of, expected at least one, no more'
      f' than that, and {MAX_BLOCKS} at most'
    )
  return np.concatenate([data, _times(_cauchy(needed, count), data)])


def decode(
  blocks: UInt8[np.ndarray, 'received size'],
  places: Sequence[int],
  needed: int,
) -> UInt8[np.ndarray, 'needed size']:
  """Solves for the blocks of data.

  Args:
    blocks: Received blocks, a subset of those that `encode` returned.
    places: Index of each in what `encode` returned; distinct, in [0, 256).
    needed: Number of blocks of data.

  Returns:
    The data.

  Raises:
    ValueError: There are fewer blocks than needed.
  """
  if len(places) < needed:
    raise ValueError(f'got {len(places)} blocks, expected at least {needed}')
  # Data as they are come first: with all of them there is nothing to solve.
  order = np.argsort(places, kind='stable')[:needed]
  places = [places[i] for i in order]
  blocks = blocks[order]
  data = np.zeros((needed, blocks.shape[1]), np.uint8)
  known = [p for p in places if p < needed]
  data[known] = blocks[: len(known)]
  if len(known) == needed:
    return data
  missing = np.setdiff1d(np.arange(needed), known)
  mix = _cauchy(needed, MAX_BLOCKS)[[p - needed for p in places[len(known) :]]]
  # Take the known blocks out of the mixed ones, which leaves the missing.
  mixed = blocks[len(known) :] ^ _times(mix[:, known], data[known])
  data[missing] = _solve(mix[:, missing], mixed)
  return data


def needed(count: int, loss: float | int, failure: float | int) -> int:
  """Returns the most blocks of data that `count` blocks carry safely.

  Args:
    count: Blocks sent, each lost independently.
    loss: Probability that a block is lost.
    failure: Largest probability that too few arrive.

  Returns:
    The number; 0 where even one block of data is not safe enough.
  """
  too_few = 0.0  # The probability that at most `arrived` blocks arrive.
  for arrived in range(count):
    ways = math.comb(count, arrived)
    too_few += ways * (1 - loss) ** arrived * loss ** (count - arrived)
    if too_few > failure:
      return arrived
  return count


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
  """Makes powers of x, twice around, and logarithms; log 0 is past them."""
  powers = np.zeros(1101, np.uint8)
  logs = np.full(256, 550, np.int64)
  value = 1
  for n in range(255):
    powers[n] = powers[n + 255] = value
    logs[value] = n
    value <<= 1
    if value > 255:
      value ^= _POLYNOMIAL
  return powers, logs


def _multiply(a, b):
  powers, logs = _tables()
  return powers[logs[a] + logs[b]]


def _inverse(a):
  powers, logs = _tables()
  return powers[255 - logs[a]]


def _times(matrix, data):
  """Multiplies matrices."""
  out = np.zeros((len(matrix), data.shape[1]), np.uint8)
  for column, row in zip(matrix.T, data, strict=True):
    out ^= _multiply(column[:, None], row[None])
  return out


@functools.cache
def _cauchy(needed: int, count: int) -> np.ndarray:
  """Makes 1 / (x_i + y_j) for the mixed blocks i and the data j."""
  x = np.arange(needed, count)[:, None]
  return _inverse(x ^ np.arange(needed)[None])


def _solve(matrix, right):
  """Solves by Gauss-Jordan elimination; the matrix is invertible."""
  matrix, right = matrix.copy(), right.copy()
  for n in range(len(matrix)):
    pivot = n + int(np.flatnonzero(matrix[n:, n])[0])
    for table in (matrix, right):
      table[[n, pivot]] = table[[pivot, n]]
    scale = _inverse(matrix[n, n])
    matrix[n], right[n] = (
      _multiply(matrix[n], scale),
      _multiply(right[n], scale),
    )
    factors = matrix[:, n].copy()
    factors[n] = 0
    matrix ^= _multiply(factors[:, None], matrix[n][None])
    right ^= _multiply(factors[:, None], right[n][None])
  return right
