"""Tables of scalar quantizers: how often each symbol comes, what it means.

A book holds, of every number of the vectors, quantiles: values that are
equally likely. They stand for the training data, so that tables of any step
follow from one book. All of it is done once, in NumPy, when parameters are
made.
"""

import statistics

from jaxtyping import Float, Int
import numpy as np

from collab_jax.quantizers import pretrained

# What the frequencies of a row add up to at most.
TOTAL = 2**16

# Quantiles of each number in a book.
POINTS = 129


def points(book: str, d: int) -> Float[np.ndarray, 'd points']:
  """Returns equally likely values of each of d numbers.

  Args:
    book: A book of a linear transform, of which the first d numbers are
      meant; or `books.RANDOM`, for numbers of a normal distribution.
    d: How many numbers.

  Raises:
    BookError: There is no such book, or it is for fewer numbers.
  """
  if book == pretrained.RANDOM:
    normal = statistics.NormalDist()
    row = [normal.inv_cdf((i + 0.5) / POINTS) for i in range(POINTS)]
    return np.tile(np.array(row), (d, 1))
  found = pretrained.array(
    pretrained.load(book, 'linear'), 'quantiles', (None, None)
  )
  if len(found) < d:
    raise pretrained.QuantizerParamsError(
      f'book {book!r} has the quantiles of {len(found)} numbers, these vectors'
      f' have {d}; put pca(dims=...) before it, or train one for them with'
      ' experiments/train_codebook.py.'
    )
  return found[:d].astype(np.float64)


def frequencies(
  symbols: Int[np.ndarray, 'rows points'], alphabet: int
) -> Int[np.ndarray, 'rows alphabet']:
  """Returns positive frequencies of sum `TOTAL`, smoothed for what is rare.

  Args:
    symbols: Symbols that are equally likely, of each row.
    alphabet: How many there are, at most `TOTAL`.
  """
  rows = np.arange(len(symbols))[:, None]
  counts = np.zeros((len(symbols), alphabet))
  np.add.at(counts, (rows, symbols), 1.0)
  return normalized(counts)


def normalized(
  counts: Float[np.ndarray, 'rows alphabet'] | Int[np.ndarray, 'rows alphabet'],
) -> Int[np.ndarray, 'rows alphabet']:
  """Returns positive integers of sum `TOTAL` in proportion to counts.

  Half a sample is spread over the neighbours of those that came, and nothing
  is rarer than 1.
  """
  counts = np.asarray(counts, np.float64)
  size = counts.shape[1]
  edges = np.pad(counts, ((0, 0), (1, 1)))
  near = edges[:, :-2] + edges[:, 2:]
  near = near / np.maximum(near.sum(axis=1, keepdims=True), 1)
  share = counts + 0.5 * near
  share = share + 1e-9
  share = share / share.sum(axis=1, keepdims=True)
  rows = np.floor(share * (TOTAL - size)).astype(np.int64) + 1
  # What rounding left goes to the most frequent.
  best = rows.argmax(axis=1)
  rows[np.arange(len(rows)), best] += TOTAL - rows.sum(axis=1)
  return rows.astype(np.int32)


def means(
  values: Float[np.ndarray, 'rows points'],
  symbols: Int[np.ndarray, 'rows points'],
  middles: Float[np.ndarray, 'rows alphabet'],
) -> Float[np.ndarray, 'rows alphabet']:
  """Returns the mean value of each symbol, drawn to its middle where rare.

  Args:
    values: Equally likely values.
    symbols: The symbol of each.
    middles: What a symbol means without data; counts as half a value.
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

  Rounded, so that no two machines take another symbol for the last digit.
  """
  return np.round(np.log2(TOTAL) - np.log2(rows), 4)
