"""Symbols coded with the frequencies of those before them.

The frequencies of a block are 1 + 2 * how often each symbol came in the blocks
before (the estimator of Krichevsky and Trofimov, doubled). Blocks grow with
what is known, so that many symbols are coded at a time.
"""

import functools
import itertools

import numpy as np

from collab_jax.wire.coding import range_coder

# The widest alphabet, and the most symbols: frequencies stay below 2**24.
MAX_ALPHABET = 4096
MAX_COUNT = 1 << 22
# A block has 1 / _SHARE of the symbols before it, or of the alphabet.
_SHARE = 16


def allowed(count: int, alphabet: int) -> bool:
  """Whether the format knows the model for this many symbols."""
  return 2 <= alphabet <= MAX_ALPHABET and 0 < count <= MAX_COUNT


@functools.lru_cache(64)
def starts(count: int, alphabet: int) -> tuple[int, ...]:
  """Returns where blocks start, and `count`."""
  least, found = max(1, alphabet // _SHARE), [0]
  while found[-1] < count:
    found.append(found[-1] + max(least, found[-1] // _SHARE))
  return (*found[:-1], count)


def frequencies(symbols: np.ndarray, alphabet: int) -> np.ndarray:
  """Returns the frequencies of each block, int64[blocks alphabet]."""
  counts = _counts(symbols, alphabet)
  return 1 + 2 * (np.cumsum(counts, axis=0) - counts)


def cost(symbols: np.ndarray, alphabet: int) -> float:
  """Returns the ideal code length in bits."""
  counts = _counts(symbols, alphabet)
  known = 1 + 2 * (np.cumsum(counts, axis=0) - counts)
  totals = np.log2(known.sum(axis=1)) @ counts.sum(axis=1)
  return float(totals - (np.log2(known) * counts).sum())


def write(
  writer: range_coder.Writer, symbols: np.ndarray, alphabet: int
) -> None:
  """Writes int32[count]."""
  blocks = itertools.pairwise(starts(len(symbols), alphabet))
  tables = range_coder.parts(frequencies(symbols, alphabet))
  for (start, end), row in zip(blocks, tables, strict=True):
    writer.write(symbols[start:end], range_coder.from_parts(row))


def read(reader: range_coder.Reader, count: int, alphabet: int) -> np.ndarray:
  """Reads int32[count]."""
  out = np.empty(count, np.int32)
  known = np.ones(alphabet, np.int64)
  for start, end in itertools.pairwise(starts(count, alphabet)):
    block = reader.read(range_coder.model(known), end - start)
    out[start:end] = block
    known += 2 * np.bincount(block, minlength=alphabet)
  return out


@functools.lru_cache(8)
def _block_of(count, alphabet):
  sizes = np.diff(starts(count, alphabet))
  return np.repeat(np.arange(len(sizes)), sizes)


def _counts(symbols, alphabet):
  """How often each symbol comes in each block, int64[blocks alphabet]."""
  blocks = len(starts(len(symbols), alphabet)) - 1
  at = _block_of(len(symbols), alphabet) * alphabet + symbols
  found = np.bincount(at, minlength=blocks * alphabet)
  return found.reshape(blocks, alphabet)
