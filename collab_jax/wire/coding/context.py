"""Context model: symbols of a square grid, coded by their neighbours.

Neighbouring patches mostly fall in the same cluster, so each symbol is coded
as decisions: is it the left neighbour's, the upper one's, that of the upper
right or upper left, the next unused symbol, a used one, and which? The
probability of a decision is its frequency so far where the neighbours agreed
in the same way. Symbols may stand for clusters in any order, but numbering
clusters by first use costs least.
"""

from collections.abc import Callable
import functools
import math
from typing import Protocol, runtime_checkable

import numpy as np

from collab_jax.wire.coding import range_coder

# Initial counts (no, yes), doubled, of decisions by the pattern of equal
# neighbours, the bits in `walk`. Fitted on k-means of 100 generated training
# scenes at k = 4 to 32; impossible patterns have (2, 2).
_LEFT = {
  0: (32, 12),
  1: (16, 24),
  2: (32, 12),
  4: (32, 24),
  7: (8, 32),
  8: (32, 16),
  10: (32, 12),
  12: (32, 32),
  16: (8, 32),
  18: (16, 32),
  20: (8, 32),
  25: (2, 32),
  31: (3, 32),
}
_UP = {
  0: (32, 24),
  2: (12, 24),
  4: (24, 32),
  8: (32, 32),
  10: (6, 32),
  12: (8, 24),
  16: (32, 16),
  18: (16, 32),
  20: (32, 32),
}
_UP_RIGHT, _UP_LEFT = (8, 12), (12, 8)
# By how many symbols are ruled out already, 0 to 4.
_NEXT = ((1, 32), (8, 24), (16, 24), (24, 32), (24, 32))
_USED = (1, 32)
# Of the first row; of the first column, by whether up equals upper right.
_FIRST_LEFT, _FIRST_UP = (6, 32), ((6, 32), (2, 32))

PRIORS = (
  *(_LEFT.get(pattern, (2, 2)) for pattern in range(32)),
  *(_UP.get(pattern, (2, 2)) for pattern in range(32)),
  _UP_RIGHT,
  _UP_LEFT,
  *_NEXT,
  _USED,
  _FIRST_LEFT,
  *_FIRST_UP,
)
_AT_UP, _AT_UP_RIGHT, _AT_UP_LEFT, _AT_NEXT, _AT_USED = 32, 64, 65, 66, 71
_AT_FIRST_LEFT, _AT_FIRST_UP = 72, 73
# Weight of a nearby use in a symbol's frequency; rows and columns of nearby.
_NEAR = 64
_AROUND = ((0, -2), (-2, 0), (-1, -2), (-1, 2), (-2, -1), (-2, 1))
# A pair of counts whose sum reaches the limit is halved, rounding up.
LIMIT = 256
# The largest grids: of at most FEW symbols, and of more. The time to code a
# symbol grows with the number of used ones.
MAX_COUNT, FEW, MAX_OF_MANY = 4096, 256, 1024


def allowed(shape: tuple[int, ...], alphabet: int) -> bool:
  """Whether a field is a square grid of no more symbols than the limits."""
  if len(shape) != 1 or shape[0] < 1 or not 2 <= alphabet <= range_coder.DIGIT:
    return False
  square = math.isqrt(shape[0]) ** 2 == shape[0]
  return square and shape[0] <= (MAX_COUNT if alphabet <= FEW else MAX_OF_MANY)


def promising(symbols: np.ndarray) -> bool:
  """Whether at least a quarter of the symbols equal a neighbour's."""
  side = math.isqrt(len(symbols))
  grid = np.full((side + 1, side + 2), -1, symbols.dtype)
  grid[1:, 1:-1] = symbols.reshape(side, side)
  center, above = grid[1:, 1:-1], grid[:-1]
  equal = center == grid[1:, :-2]
  for column in range(3):
    equal |= center == above[:, column : column + side]
  return 4 * int(equal.sum()) >= len(symbols)


@runtime_checkable
class DecisionCoder(Protocol):
  """Encoder or decoder of decisions: a decoder ignores the values given."""

  def decide(self, context: int, hit: bool) -> bool:
    """Codes a yes or no in a context."""
    ...

  def choose(self, weights: list[int], index: int) -> int:
    """Codes an index with probabilities in proportion to the weights."""
    ...

  def choose_evenly(self, count: int, index: int) -> int:
    """Codes an index in [0, count), all equally likely."""
    ...


def walk(
  count: int,
  alphabet: int,
  coder: DecisionCoder,
  symbols: list[int] | None = None,
) -> list[int]:
  """Codes a grid, row by row.

  Args:
    count: Number of symbols, a square.
    alphabet: Number of distinct symbols, at least 2.
    coder: Encodes the decisions of symbols, or decodes them.
    symbols: The symbols to encode; None to decode them.

  Returns:
    The symbols.
  """
  side = math.isqrt(count)
  grid: list[int] = [] if symbols is None else symbols
  uses: dict[int, int] = {}
  above, top = -1, -1
  for i in range(count):
    column = i % side
    left = grid[i - 1] if column else -1
    upper_left, upper_right = -1, -1
    if i >= side:
      above = grid[i - side]
      upper_left = grid[i - side - 1] if column else -1
      upper_right = grid[i - side + 1] if column + 1 < side else -1
    symbol = -1 if symbols is None else symbols[i]
    pattern = (
      (left == above)
      + 2 * (left == upper_left)
      + 4 * (above == upper_left)
      + 8 * (above == upper_right)
      + 16 * (left == upper_right)
    )
    at_left = pattern if i >= side else _AT_FIRST_LEFT
    if left >= 0 and coder.decide(at_left, symbol == left):
      symbol = left
    else:
      tried = [left] if left >= 0 else []
      at_up = _AT_UP + pattern
      if not column:
        at_up = _AT_FIRST_UP + (above == upper_right)
      for context, neighbour in (
        (at_up, above),
        (_AT_UP_RIGHT, upper_right),
        (_AT_UP_LEFT, upper_left),
      ):
        if neighbour < 0 or neighbour in tried or len(tried) == alphabet - 1:
          continue
        if coder.decide(context, symbol == neighbour):
          symbol = neighbour
          break
        tried.append(neighbour)
      else:
        near = [
          grid[i + row * side + step]
          for row, step in _AROUND
          if i + row * side >= 0 and 0 <= column + step < side
        ]
        symbol = _code_other(symbol, alphabet, tried, uses, top, near, coder)
    if symbols is None:
      grid.append(symbol)
    uses[symbol] = uses.get(symbol, 0) + 1
    top = max(top, symbol)
  return grid


def _code_other(symbol, alphabet, tried, uses, top, near, coder):
  """Codes a symbol that no neighbour has."""
  new = top + 1
  if new < alphabet and len(tried) < alphabet - 1:
    if coder.decide(_AT_NEXT + len(tried), symbol == new):
      return new
    tried.append(new)
  if len(tried) == alphabet - 1:  # One is left.
    return next(s for s in range(alphabet) if s not in tried)
  used = sorted(uses.keys() - tried)
  ruled_out = sorted(uses.keys() | tried)
  unused = alphabet - len(ruled_out)
  is_used = bool(used)
  if used and unused:
    is_used = coder.decide(_AT_USED, symbol in uses)
  if is_used:
    index = used.index(symbol) if symbol >= 0 else -1
    weights = [2 * uses[s] + 1 + _NEAR * near.count(s) for s in used]
    return used[coder.choose(weights, index)]
  rank = symbol - sum(s < symbol for s in ruled_out)
  rank = coder.choose_evenly(unused, rank)
  for s in ruled_out:  # From the rank among the unused to that among all.
    rank += s <= rank
  return rank


class _DecisionModel:
  """Model of a decision by counts (no, yes), and the models after it."""

  __slots__ = ('_after', '_counts', 'bits', 'model')

  def __init__(self, no: int, yes: int):
    total = math.log2(no + yes)
    self.model = range_coder.small_model([no, yes])
    self.bits = (total - math.log2(no), total - math.log2(yes))
    self._counts = (no, yes)
    self._after: list[_DecisionModel | None] = [None, None]

  def after(self, hit: bool) -> '_DecisionModel':
    """Returns the model after a decision."""
    state = self._after[hit]
    if state is None:
      no, yes = self._counts
      no, yes = no + 2 * (not hit), yes + 2 * hit
      if no + yes >= LIMIT:
        no, yes = (no + 1) // 2, (yes + 1) // 2
      state = self._after[hit] = _decision_model(no, yes)
    return state


# No more than LIMIT**2 / 2.
@functools.cache
def _decision_model(no: int, yes: int) -> _DecisionModel:
  return _DecisionModel(no, yes)


def _start() -> list[_DecisionModel]:
  return [_decision_model(no, yes) for no, yes in PRIORS]


class DecisionRecorder:
  """Records the decisions of symbols and their cost in bits."""

  def __init__(self, symbols: np.ndarray, alphabet: int):
    self.bits = 0.0
    # Models of choices are made when they are needed.
    self._steps: list[tuple[int, range_coder.Model | list[int]]] = []
    self._states = _start()
    walk(len(symbols), alphabet, self, symbols.tolist())

  def decide(self, context: int, hit: bool) -> bool:
    """Records a decision."""
    state = self._states[context]
    self.bits += state.bits[hit]
    self._steps.append((int(hit), state.model))
    self._states[context] = state.after(hit)
    return hit

  def choose(self, weights: list[int], index: int) -> int:
    """Records a choice."""
    if len(weights) > 1:
      self.bits += math.log2(sum(weights) / weights[index])
      self._steps.append((index, weights))
    return index

  def choose_evenly(self, count: int, index: int) -> int:
    """Records a choice."""
    if count > 1:
      self.bits += math.log2(count)
      self._steps.append((index, range_coder.even(count)))
    return index

  def write(self, writer: range_coder.Writer) -> None:
    """Writes the symbols."""
    write = writer.write
    for value, model in self._steps:
      if isinstance(model, list):
        model = range_coder.small_model(model)
      write(value, model)


class _DecisionReader:
  """Decodes decisions from bytes."""

  def __init__(self, read: Callable[[range_coder.Model], int]):
    self._read = read
    self._states = _start()

  def decide(self, context: int, hit: bool) -> bool:
    state = self._states[context]
    hit = self._read(state.model) == 1
    self._states[context] = state.after(hit)
    return hit

  def choose(self, weights: list[int], index: int) -> int:
    if len(weights) == 1:
      return 0
    return self._read(range_coder.small_model(weights))

  def choose_evenly(self, count: int, index: int) -> int:
    return self._read(range_coder.even(count)) if count > 1 else 0


def read(reader: range_coder.Reader, count: int, alphabet: int) -> np.ndarray:
  """Reads int32[count]."""
  return np.array(walk(count, alphabet, _DecisionReader(reader.read)), np.int32)
