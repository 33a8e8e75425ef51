"""Low-density parity-check codes of rates 1/2, 2/3 and 3/4.

Quasi-cyclic: the parity-check matrix is a table of 24 columns, each entry a
zero matrix or an identity with cyclically shifted rows. Lifting factors of 27,
54 and 81 make words of 648, 1296 and 1944 bits. The last columns are a
staircase, by which parity bits are computed one after the other.

The tables were made by tools/ldpc.py; the layout is that of IEEE 802.11n, the
entries are not.
"""

import dataclasses
import functools
from typing import Any

from jaxtyping import Int, UInt8
import numpy as np

from collab_jax import _validate

COLUMNS = 24
LENGTHS = (648, 1296, 1944)

_TABLES = {
  '1/2': """
    39 - 6 - - - 78 - - 75 - - 1 0 - - - - - - - - - -
    25 - 21 - - 48 - - - - - 79 - 0 0 - - - - - - - - -
    30 14 - - - - - 57 0 - - - - - 0 0 - - - - - - - -
    42 55 - - - 76 - - 33 - - - - - - 0 0 - - - - - - -
    72 73 - - 14 - - - - - 66 - - - - - 0 0 - - - - - -
    75 66 - 37 - - - 31 - - - - - - - - - 0 0 - - - - -
    - 45 - - - 62 - - - - 68 - 0 - - - - - 0 0 - - - -
    58 - - 7 1 - - - - 32 - - - - - - - - - 0 0 - - -
    34 - 33 - 29 - - - 43 - - - - - - - - - - - 0 0 - -
    43 31 - 66 - - - - - - 5 - - - - - - - - - - 0 0 -
    5 8 - - - - 12 - - 51 - 12 - - - - - - - - - - 0 0
    68 - 47 - - - 74 1 - - - 76 1 - - - - - - - - - - 0
  """,
  '2/3': """
    68 42 7 - 59 - - 41 - - 47 - - 8 - 51 1 0 - - - - - -
    46 13 76 - - 16 69 - - - - 74 29 - - - - 0 0 - - - - -
    10 18 - 43 57 - - - 45 58 - - 31 - - 56 - - 0 0 - - - -
    70 79 - 66 - - 67 - 53 - - 48 25 - - - - - - 0 0 - - -
    25 - - 14 - - 33 - 2 21 - - - 6 25 - 0 - - - 0 0 - -
    30 15 35 - 37 - - 71 - - 19 - - - 24 - - - - - - 0 0 -
    58 62 - 71 - 30 - 49 - - - 72 - - 66 35 - - - - - - 0 0
    42 21 21 - - 20 - - - 58 40 - - 69 - - 1 - - - - - - 0
  """,
  '3/4': """
    44 43 3 26 - 35 - 69 - - 16 64 - 72 - 19 - 18 1 0 - - - -
    69 42 - 39 7 - 44 61 - 59 75 - - - 26 - 3 65 - 0 0 - - -
    31 65 15 6 33 - - - 39 18 - 40 - - 31 63 14 - - - 0 0 - -
    59 80 - - 79 - 33 8 - 63 - - 74 77 35 - - 78 0 - - 0 0 -
    2 64 71 - 41 0 74 - 8 - - - 56 16 - 1 - - - - - - 0 0
    61 20 26 60 - 75 - - 65 - 79 47 8 - - - 5 - 1 - - - - 0
  """,
}
RATES = tuple(_TABLES)


@dataclasses.dataclass(frozen=True)
class Code:
  """LDPC code of a rate and length.

  Attributes:
    rate: '1/2', '2/3' or '3/4'.
    length: Bits of a word: 648, 1296 or 1944.
  """

  rate: str
  length: int = 1296

  def __post_init__(self):
    _validate.choice('rate', self.rate, RATES)
    _validate.choice('length', self.length, LENGTHS)

  @property
  def lift(self) -> int:
    """Lifting factor: side of the submatrices."""
    return self.length // COLUMNS

  @property
  def information(self) -> int:
    """Information bits of a word; they come first."""
    return self.length - self.parity

  @property
  def parity(self) -> int:
    """Parity bits of a word."""
    return len(_table(self.rate)) * self.lift

  def encode(
    self, bits: UInt8[np.ndarray, 'words information']
  ) -> UInt8[np.ndarray, 'words length']:
    """Appends the parity bits.

    Args:
      bits: 0 and 1, uint8.

    Returns:
      Code words, uint8.
    """
    table, lift = _table(self.rate), self.lift
    rows, known = len(table), COLUMNS - len(table)
    parts = bits.reshape(len(bits), known, lift)
    sums = np.zeros((rows, len(bits), lift), np.uint8)
    for row, column in zip(*np.nonzero(table[:, :known] >= 0), strict=True):
      sums[row] ^= _shift(parts[:, column], table[row, column])
    # The sum of all rows: the staircase cancels, the first column is left.
    first = np.bitwise_xor.reduce(sums)
    parity = [first]
    carry = sums[0] ^ _shift(first, table[0, known])
    for row in range(1, rows):
      parity.append(carry)
      carry = carry ^ sums[row]
      if table[row, known] >= 0:
        carry = carry ^ _shift(first, table[row, known])
    return np.concatenate([bits, *parity], axis=1)

  def edges(self) -> Int[np.ndarray, 'layers degree lift']:
    """Returns the bits of every check by row of the table; see `minsum`."""
    return _edges(self)

  def matrix(self) -> UInt8[np.ndarray, 'parity length']:
    """Returns the parity-check matrix of 0 and 1."""
    dense = np.zeros((self.parity, self.length + 1), np.uint8)
    for layer, bits in enumerate(self.edges()):
      for bit in bits:
        dense[layer * self.lift + np.arange(self.lift), bit] = 1
    return dense[:, :-1]


def _shift(bits: np.ndarray, shift: Any) -> np.ndarray:
  """Multiplies a shifted identity by bits: row i reads bit i + shift."""
  return np.roll(bits, -int(shift), axis=-1)


@functools.cache
def _table(rate: str) -> np.ndarray:
  lines = _TABLES[rate].split('\n')
  return np.array(
    [[-1 if s == '-' else int(s) for s in line.split()] for line in lines[1:-1]]
  )


@functools.cache
def _edges(code: Code) -> np.ndarray:
  table, lift = _table(code.rate), code.lift
  degree = (table >= 0).sum(1).max()
  edges = np.full((len(table), degree, lift), code.length, np.int32)
  for layer, row in enumerate(table):
    for place, column in enumerate(np.flatnonzero(row >= 0)):
      shifted = (np.arange(lift) + row[column]) % lift
      edges[layer, place] = column * lift + shifted
  return edges
