"""Adaptive model: symbols coded with the frequencies of earlier blocks.

The frequencies of a block are 1 + 2 * the counts of each symbol in the blocks
before (the estimator of Krichevsky and Trofimov, doubled). Blocks grow with
the number of earlier symbols, so that many symbols are coded at a time.
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
  """Whether the format has this model for so many symbols."""
  return 2 <= alphabet <= MAX_ALPHABET and 0 < count <= MAX_COUNT


@functools.lru_cache(64)
def starts(count: int, alphabet: int) -> tuple[int, ...]:
  """Returns the start of each block, and `count`."""
  least, blocks = max(1, alphabet // _SHARE), [0]
  while blocks[-1] < count:
    blocks.append(blocks[-1] + max(least, blocks[-1] // _SHARE))
  return (*blocks[:-1], count)


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
  """Counts each symbol in each block, int64[blocks alphabet]."""
  blocks = len(starts(len(symbols), alphabet)) - 1
  at = _block_of(len(symbols), alphabet) * alphabet + symbols
  counts = np.bincount(at, minlength=blocks * alphabet)
  return counts.reshape(blocks, alphabet)
