"""Symbol frequencies and means for scalar quantizers.

A parameter file holds quantiles of every number of the vectors: values that are
equally likely. They represent the training data, so that tables of any step
follow from one file. All of it is computed once, in NumPy, by `init_params`.
"""

import statistics

from jaxtyping import Float, Int
import numpy as np

from collab_jax.quantizers import pretrained

# Largest sum of the frequencies of a row.
TOTAL = 2**16

# Number of quantiles of each number in a parameter file.
POINTS = 129


def points(book: str, d: int) -> Float[np.ndarray, 'd points']:
  """Returns equally likely values of each of d numbers.

  Args:
    book: Parameter file of kind 'linear', of which the first d numbers are
      taken; or 'random' for numbers of a normal distribution.
    d: Number of numbers.

  Raises:
    QuantizerParamsError: There is no such file, or it is for fewer numbers.
  """
  if book == pretrained.RANDOM:
    normal = statistics.NormalDist()
    row = [normal.inv_cdf((i + 0.5) / POINTS) for i in range(POINTS)]
    return np.tile(np.array(row), (d, 1))
  stored = pretrained.load(book, 'linear')
  quantiles = pretrained.array(stored, 'quantiles', (None, None))
  if len(quantiles) < d:
    raise pretrained.QuantizerParamsError(
      f'book {book!r} has the quantiles of {len(quantiles)} numbers, these'
      f' vectors have {d}; put pca(dims=...) before it, or train one for them'
      ' with experiments/train_codebook.py.'
    )
  return quantiles[:d].astype(np.float64)


def frequencies(
  symbols: Int[np.ndarray, 'rows points'], alphabet: int
) -> Int[np.ndarray, 'rows alphabet']:
  """Returns positive frequencies of sum `TOTAL`, smoothed for rare symbols.

  Args:
    symbols: Equally likely symbols of each row.
    alphabet: Size of the alphabet, at most `TOTAL`.
  """
  rows = np.arange(len(symbols))[:, None]
  counts = np.zeros((len(symbols), alphabet))
  np.add.at(counts, (rows, symbols), 1.0)
  return normalized(counts)


def normalized(
  counts: Float[np.ndarray, 'rows alphabet'] | Int[np.ndarray, 'rows alphabet'],
) -> Int[np.ndarray, 'rows alphabet']:
  """Returns positive integers of sum `TOTAL` in proportion to counts.

  Half a sample is spread over the neighbours of symbols that occur, and no
  symbol is rarer than 1.
  """
  counts = np.asarray(counts, np.float64)
  size = counts.shape[1]
  edges = np.pad(counts, ((0, 0), (1, 1)))
  near = edges[:, :-2] + edges[:, 2:]
  near = near / np.maximum(near.sum(axis=1, keepdims=True), 1)
  share = counts + 0.5 * near + 1e-9
  share = share / share.sum(axis=1, keepdims=True)
  rows = np.floor(share * (TOTAL - size)).astype(np.int64) + 1
  # The remainder of rounding goes to the most frequent symbol.
  best = rows.argmax(axis=1)
  rows[np.arange(len(rows)), best] += TOTAL - rows.sum(axis=1)
  return rows.astype(np.int32)


def means(
  values: Float[np.ndarray, 'rows points'],
  symbols: Int[np.ndarray, 'rows points'],
  middles: Float[np.ndarray, 'rows alphabet'],
) -> Float[np.ndarray, 'rows alphabet']:
  """Returns the mean value of each symbol, shrunk to its middle where rare.

  Args:
    values: Equally likely values.
    symbols: The symbol of each.
    middles: Value of a symbol without data; counts as half a value.
  """
  rows = np.arange(len(symbols))[:, None]
  sums, counts = 0.5 * middles, np.full(middles.shape, 0.5)
  np.add.at(sums, (rows, symbols), values)
  np.add.at(counts, (rows, symbols), 1.0)
  return sums / counts


def bits(
  rows: Int[np.ndarray, 'rows alphabet'],
) -> Float[np.ndarray, 'rows alphabet']:
  """Returns the ideal length of each symbol's code.

  Rounded, so that all machines choose the same symbol.
  """
  return np.round(np.log2(TOTAL) - np.log2(rows), 4)
