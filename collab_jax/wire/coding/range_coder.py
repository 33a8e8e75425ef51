"""Range coder on whole bytes, with models of integer frequencies.

constriction codes with 24 bits: a model gives every symbol an integer number
of 2**24 parts. It computes them from floats as floor(p * scale) + 1, with the
scale that makes their sum right. Given parts - 1, which are integers below
2**24 of the expected sum, that is exact: nothing is rounded, and two machines
cannot disagree.
"""

from collections.abc import Sequence
import functools
from typing import Any

from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]
import numpy as np

from collab_jax.wire import fields as declared

PRECISION = 24
# The widest alphabet of one model; wider symbols are coded in two parts.
DIGIT = 1 << 16

Model = Any
_DAMAGED = 'coded symbols: no symbols have these bytes: they are damaged'


def parts(frequencies: np.ndarray) -> np.ndarray:
  """Divides 2**24 parts among symbols.

  Args:
    frequencies: Integers of at least 1, [... alphabet]; a row adds up to 2**24
      at most.

  Returns:
    int64, the differences of floor(cumulative * 2**24 / total).
  """
  cumulative = np.cumsum(frequencies, axis=-1, dtype=np.int64)
  ends = (cumulative << PRECISION) // cumulative[..., -1:]
  ends[..., 1:] -= ends[..., :-1].copy()  # `np.diff` takes twice the time.
  return ends


def model(frequencies: np.ndarray) -> Model:
  """Returns the model of one row of frequencies; see `parts`."""
  return from_parts(parts(frequencies))


def from_parts(row: np.ndarray) -> Model:
  """Returns the model of parts that `parts` returned."""
  return stream.model.Categorical((row - 1).astype(np.float32), perfect=False)


def small_model(frequencies: Sequence[int]) -> Model:
  """Returns the model of a few frequencies, faster than `model`."""
  total, cumulative, last, row = sum(frequencies), 0, 0, []
  for frequency in frequencies:
    cumulative += frequency
    end = (cumulative << PRECISION) // total
    row.append(end - last - 1)
    last = end
  return stream.model.Categorical(np.array(row, np.float32), perfect=False)


@functools.lru_cache(256)
def even(count: int) -> Model:
  """Returns the model of `count` equally likely symbols, 2 to 2**16.

  Each has floor(2**24 / count) parts, the last also the remainder.
  """
  return stream.model.Uniform(count)


class Writer:
  """Collects symbols as bytes."""

  def __init__(self):
    self._encoder = stream.queue.RangeEncoder()
    self.write = self._encoder.encode

  def finish(self) -> bytes:
    """Returns the fewest bytes that encode the symbols.

    constriction ends on a whole word of 32 bits. Its state is the interval in
    which the bytes, read as a number with zeros behind, have to lie.
    """
    words = self._encoder.get_compressed()
    if not len(words):
      return b''
    start, (lower, range_) = self._encoder.pos()
    size = 4 * (start + 2)
    data = words.astype('>u4').tobytes()[:size]
    inside = int.from_bytes(data.ljust(size, b'\0'), 'big')
    lowest = inside - ((inside - lower) & 0xFFFFFFFFFFFFFFFF)
    highest = lowest + range_ - 1
    spare = 0
    while spare < size:
      bits = 8 * (spare + 1)
      if (highest >> bits) << bits < lowest:
        break
      spare += 1
    return (highest >> 8 * spare).to_bytes(size - spare, 'big')


class Reader:
  """Decodes symbols from the bytes of a `Writer`."""

  def __init__(self, data: bytes):
    words = np.frombuffer(data + bytes(-len(data) % 4), '>u4')
    self._decoder = stream.queue.RangeDecoder(words.astype(np.uint32))

  def read(self, model: Model, *count: int) -> Any:
    """Returns a symbol, or an array of `count` of them.

    Raises:
      FormatError: No symbols have these bytes.
    """
    try:
      return self._decoder.decode(model, *count)
    except AssertionError as error:
      raise declared.FormatError(_DAMAGED) from error

  def many(self, models: Sequence[Model], count: int) -> np.ndarray:
    """Returns int32[len(models) count], `count` symbols of each model."""
    decode = self._decoder.decode
    try:
      symbols = [decode(model, count) for model in models]
    except AssertionError as error:
      raise declared.FormatError(_DAMAGED) from error
    return np.concatenate(symbols).reshape(len(models), count)
