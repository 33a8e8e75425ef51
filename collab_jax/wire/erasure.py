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

# Blocks of one message, at most: the numbers of the field.
MOST = 256
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
  if not 1 <= needed <= count <= MOST:
    raise ValueError(
      f'got {needed} blocks to make {count} of, expected at least one, no more'
      f' than that, and {MOST} at most'
    )
  return np.concatenate([data, _times(_cauchy(needed, count), data)])


def decode(
  blocks: UInt8[np.ndarray, 'received size'],
  places: Sequence[int],
  needed: int,
) -> UInt8[np.ndarray, 'needed size']:
  """Returns the data.

  Args:
    blocks: Some of what `encode` returned.
    places: Which of them these are; different, in [0, 256).
    needed: Number of blocks of data.

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
  mix = _cauchy(needed, MOST)[[p - needed for p in places[len(known) :]]]
  # What the mixed blocks say of the missing data, after that of the known.
  rest = blocks[len(known) :] ^ _times(mix[:, known], data[known])
  data[missing] = _solve(mix[:, missing], rest)
  return data


def needed(count: int, loss: float | int, failure: float | int) -> int:
  """The most blocks of data that `count` blocks can carry safely.

  Args:
    count: Blocks sent, each lost independently.
    loss: Probability that a block is lost.
    failure: Largest probability that too few arrive.

  Returns:
    The number; 0 where even one block of data is not safe enough.
  """
  few = 0.0  # The probability that fewer than `best` + 1 blocks arrive.
  for best in range(count):
    ways = math.comb(count, best)
    few += ways * (1 - loss) ** best * loss ** (count - best)
    if few > failure:
      return best
  return count


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
  """Powers of x, twice around, and logarithms; log 0 is past all powers."""
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
  """A product of matrices."""
  out = np.zeros((len(matrix), data.shape[1]), np.uint8)
  for column, row in zip(matrix.T, data, strict=True):
    out ^= _multiply(column[:, None], row[None])
  return out


@functools.cache
def _cauchy(needed: int, count: int) -> np.ndarray:
  """1 / (x_i + y_j) for the mixed blocks i and the data j."""
  x = np.arange(needed, count)[:, None]
  return _inverse(x ^ np.arange(needed)[None])


def _solve(matrix, right):
  """Gauss and Jordan; the matrix can be inverted."""
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
