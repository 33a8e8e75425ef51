"""Coders of fields: the models of each, of which the smallest is chosen."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from collab_jax import message as messages
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import (
  adaptive,
  context,
  fixed,
  range_coder,
  static,
)

# By their numbers in a message.
SYMBOL_MODELS = ('fixed', 'adaptive', 'context', 'static')
VALUE_MODELS = ('raw', 'adaptive')


class EncodingPlan(NamedTuple):
  """Encoding of a field by a model.

  Attributes:
    model: Number of the model.
    bits: Ideal length of the coded symbols, by the model's probabilities.
    write: Writes the coded symbols.
    raw: Bytes that are sent without coding.
  """

  model: int
  bits: float
  write: Callable[[range_coder.Writer], None]
  raw: bytes = b''


class SymbolCoder:
  """Codes a field of symbols."""

  flag_bits = 2

  def __init__(
    self, name: str, field: messages.Symbols, prior: np.ndarray | None = None
  ):
    """Binds a field.

    Args:
      name: Name of the field.
      field: Its declaration.
      prior: Frequencies that `static.check` returned, or None.
    """
    self.name, self.field = name, field
    self.count = declared.count(field)
    alphabet = field.alphabet
    models = {0}
    if adaptive.allowed(self.count, alphabet):
      models.add(1)
    if context.allowed(field.shape, alphabet) and not field.rows:
      models.add(2)
    self.static = None
    if prior is not None and alphabet > 1:
      self.static = static.StaticModel(prior, self.count)
      models.add(3)
    self.models = frozenset(models)

  def raw_size(self, model: int) -> int:
    """Returns the number of bytes that are sent without coding."""
    del model
    return 0

  def plan(self, symbols: np.ndarray) -> EncodingPlan:
    """Returns the smallest encoding of integers [count]."""
    symbols = np.ascontiguousarray(symbols, np.int32)
    alphabet = self.field.alphabet
    bits = self.count * math.log2(alphabet)
    best = EncodingPlan(
      0, bits, functools.partial(_write_even, symbols, alphabet)
    )
    if self.static and (bits := self.static.cost(symbols)) < best.bits:
      write = functools.partial(self.static.write, symbols=symbols)
      best = EncodingPlan(3, bits, write)
    # No adaptive code beats the empirical entropy.
    if 1 in self.models and _entropy(symbols) < best.bits:
      bits = adaptive.cost(symbols, alphabet)
      if bits < best.bits:
        write = functools.partial(
          adaptive.write, symbols=symbols, alphabet=alphabet
        )
        best = EncodingPlan(1, bits, write)
    if 2 in self.models and context.promising(symbols):
      planned = context.DecisionRecorder(symbols, alphabet)
      if planned.bits < best.bits:
        best = EncodingPlan(2, planned.bits, planned.write)
    return best

  def bits(self, symbols: np.ndarray, model: int) -> float:
    """Returns the ideal length of integers [count] in a model."""
    alphabet = self.field.alphabet
    if model == 1:
      return adaptive.cost(symbols, alphabet)
    if model == 2:
      return context.DecisionRecorder(symbols, alphabet).bits
    if self.static and model == 3:
      return self.static.cost(symbols)
    return self.count * math.log2(alphabet)

  def read(
    self, reader: range_coder.Reader, model: int, raw: np.ndarray
  ) -> np.ndarray:
    """Reads int32[count].

    Raises:
      FormatError: The bytes are damaged.
    """
    del raw
    if model == 1:
      return adaptive.read(reader, self.count, self.field.alphabet)
    if model == 2:
      return context.read(reader, self.count, self.field.alphabet)
    if self.static and model == 3:
      return self.static.read(reader)
    return _read_even(reader, self.count, self.field.alphabet, self.name)


class RowsCoder(SymbolCoder):
  """Codes a field of symbols whose number of rows another field counts."""

  def __init__(
    self, name: str, field: messages.Symbols, prior: np.ndarray | None = None
  ):
    """Binds a field with `rows`."""
    super().__init__(name, field, prior)
    self._prior = prior
    self._by_rows: dict[int, SymbolCoder] = {}

  def resized(self, counter: np.ndarray | None) -> SymbolCoder:
    """Returns the coder of a message's number of rows.

    Args:
      counter: The field that counts the rows; None where it cannot vary.
    """
    count = 1 if counter is None else int(counter.max()) + 1
    if count not in self._by_rows:
      field = dataclasses.replace(
        self.field, shape=(count, *self.field.shape[1:])
      )
      prior = self._prior
      if prior is not None and len(prior) > 1 and len(field.shape) == 1:
        prior = prior[:count]  # A table's rows are the last axis.
      self._by_rows[count] = SymbolCoder(self.name, field, prior)
    return self._by_rows[count]


class ValueCoder:
  """Codes a field of numbers: their highest bytes may be coded."""

  flag_bits = 1
  models = frozenset({0, 1})

  def __init__(self, name: str, field: messages.Values):
    """Binds a field."""
    self.name, self.field = name, field
    self.count = declared.count(field)
    self.width = declared.DTYPES[field.dtype].itemsize
    if not adaptive.allowed(self.count, 256):
      self.models = frozenset({0})

  def raw_size(self, model: int) -> int:
    """Returns the number of bytes that are sent without coding."""
    return self.count * (self.width - model)

  def plan(self, values: np.ndarray) -> EncodingPlan:
    """Returns the smaller encoding of [count] of the declared type."""
    planes = self._planes(values)
    raw = planes.tobytes()
    if 1 in self.models and _entropy(planes[:, -1]) < 8 * self.count:
      top = planes[:, -1].astype(np.int32)
      bits = adaptive.cost(top, 256)
      if bits < 8 * self.count:
        write = functools.partial(adaptive.write, symbols=top, alphabet=256)
        return EncodingPlan(1, bits, write, planes[:, :-1].tobytes())
    return EncodingPlan(0, 0.0, lambda writer: None, raw)

  def bits(self, values: np.ndarray, model: int) -> float:
    """Returns the ideal length of the coded bytes of values in a model."""
    if model == 0:
      return 0.0
    return adaptive.cost(self._planes(values)[:, -1].astype(np.int32), 256)

  def read(
    self, reader: range_coder.Reader, model: int, raw: np.ndarray
  ) -> np.ndarray:
    """Reads [count] of the declared type.

    Raises:
      FormatError: A number is not finite, or the bytes are damaged.
    """
    planes = np.empty((self.count, self.width), np.uint8)
    planes[:, : self.width - model] = raw.reshape(self.count, -1)
    if model == 1:
      planes[:, -1] = adaptive.read(reader, self.count, 256)
    numbers = declared.numbers(self.name, planes.reshape(1, -1), self.field)
    return numbers.reshape(-1)

  def _planes(self, values):
    return values.view(np.uint8).reshape(self.count, self.width)


FieldCoder = SymbolCoder | ValueCoder


def make(
  fields: declared.Fields, priors: Mapping[str, np.ndarray]
) -> dict[str, FieldCoder]:
  """Returns the coders of those fields that can vary, by name."""
  return {
    name: (RowsCoder if field.rows else SymbolCoder)(
      name, field, priors.get(name)
    )
    if isinstance(field, messages.Symbols)
    else ValueCoder(name, field)
    for name, field in fields.items()
    if fixed.size(field)
  }


def _entropy(symbols):
  """Returns the empirical entropy of all symbols together, in bits."""
  if not symbols.size:
    return 0.0
  counts = np.bincount(symbols)
  counts = counts[counts > 0]
  return float(len(symbols) * np.log2(len(symbols)) - counts @ np.log2(counts))


def _write_even(symbols, alphabet, writer):
  if alphabet <= range_coder.DIGIT:
    writer.write(symbols, range_coder.even(alphabet))
    return
  writer.write(symbols // range_coder.DIGIT, range_coder.even(_high(alphabet)))
  writer.write(symbols % range_coder.DIGIT, range_coder.even(range_coder.DIGIT))


def _read_even(reader, count, alphabet, name):
  if alphabet <= range_coder.DIGIT:
    return reader.read(range_coder.even(alphabet), count)
  symbols = reader.read(range_coder.even(_high(alphabet)), count).astype(
    np.int64
  )
  symbols = symbols * range_coder.DIGIT
  symbols += reader.read(range_coder.even(range_coder.DIGIT), count)
  if symbols.max() >= alphabet:
    raise declared.FormatError(
      f'field {name!r}: got the symbol {symbols.max()}, expected'
      f' [0, {alphabet})'
    )
  return symbols.astype(np.int32)


def _high(alphabet):
  """Returns the number of high parts of a wide alphabet's symbols."""
  return -(-alphabet // range_coder.DIGIT)
