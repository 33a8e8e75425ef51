"""How one field of one message is coded: its models, the smallest chosen."""

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
SYMBOL_MODELS = ('fixed', 'adaptive', 'spatial', 'static')
VALUE_MODELS = ('raw', 'adaptive')


class EncodingPlan(NamedTuple):
  """One way to code a field.

  Attributes:
    model: The model's number.
    bits: The ideal length of what is written, by the model's probabilities.
    write: Writes it.
    raw: Bytes that are sent as they are.
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
      name: Of the field.
      field: Its declaration.
      prior: Frequencies as `static.check` returns them, if there are any.
    """
    self.name, self.field = name, field
    self.count = declared.count(field)
    alphabet = field.alphabet
    known = {0}
    if adaptive.allowed(self.count, alphabet):
      known.add(1)
    if context.allowed(field.shape, alphabet) and not field.rows:
      known.add(2)
    self.static = None
    if prior is not None and alphabet > 1:
      self.static = static.StaticModel(prior, self.count)
      known.add(3)
    self.known = frozenset(known)

  def raw_size(self, model: int) -> int:
    """Returns how many bytes are sent as they are."""
    del model
    return 0

  def plan(self, symbols: np.ndarray) -> EncodingPlan:
    """Returns the smallest way to code integers [count]."""
    symbols = np.ascontiguousarray(symbols, np.int32)
    alphabet = self.field.alphabet
    bits = self.count * math.log2(alphabet)
    best = EncodingPlan(
      0, bits, functools.partial(_write_even, symbols, alphabet)
    )
    if self.static and (bits := self.static.cost(symbols)) < best.bits:
      write = functools.partial(self.static.write, symbols=symbols)
      best = EncodingPlan(3, bits, write)
    # No adaptive code beats the entropy of what it has to learn.
    if 1 in self.known and _entropy(symbols) < best.bits:
      bits = adaptive.cost(symbols, alphabet)
      if bits < best.bits:
        write = functools.partial(
          adaptive.write, symbols=symbols, alphabet=alphabet
        )
        best = EncodingPlan(1, bits, write)
    if 2 in self.known and context.promising(symbols):
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
    self, reader: range_coder.Reader, model: int, raw: bytes
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
  """Codes a field of symbols up to its last row."""

  def __init__(
    self, name: str, field: messages.Symbols, prior: np.ndarray | None = None
  ):
    """Binds a field with `rows`."""
    super().__init__(name, field, prior)
    self._prior = prior
    self._each: dict[int, SymbolCoder] = {}

  def of(self, others: np.ndarray | None) -> SymbolCoder:
    """Returns the coder of as many rows as there are.

    Args:
      others: The field that tells; None where it cannot vary.
    """
    count = 1 if others is None else int(others.max()) + 1
    if count not in self._each:
      field = dataclasses.replace(
        self.field, shape=(count, *self.field.shape[1:])
      )
      prior = self._prior
      if prior is not None and len(prior) > 1 and len(field.shape) == 1:
        prior = prior[:count]  # A table's rows are the last axis.
      self._each[count] = SymbolCoder(self.name, field, prior)
    return self._each[count]


class ValueCoder:
  """Codes a field of numbers: their highest bytes may be coded."""

  flag_bits = 1
  known = frozenset({0, 1})

  def __init__(self, name: str, field: messages.Values):
    """Binds a field."""
    self.name, self.field = name, field
    self.count = declared.count(field)
    self.width = declared.DTYPES[field.dtype].itemsize
    if not adaptive.allowed(self.count, 256):
      self.known = frozenset({0})

  def raw_size(self, model: int) -> int:
    """Returns how many bytes are sent as they are."""
    return self.count * (self.width - model)

  def plan(self, values: np.ndarray) -> EncodingPlan:
    """Returns the smaller way to code [count] of the declared type."""
    planes = self._planes(values)
    raw = planes.tobytes()
    if 1 in self.known and _entropy(planes[:, -1]) < 8 * self.count:
      top = planes[:, -1].astype(np.int32)
      bits = adaptive.cost(top, 256)
      if bits < 8 * self.count:
        write = functools.partial(adaptive.write, symbols=top, alphabet=256)
        return EncodingPlan(1, bits, write, planes[:, :-1].tobytes())
    return EncodingPlan(0, 0.0, lambda writer: None, raw)

  def bits(self, values: np.ndarray, model: int) -> float:
    """Returns the ideal length of what is coded of values in a model."""
    if model == 0:
      return 0.0
    return adaptive.cost(self._planes(values)[:, -1].astype(np.int32), 256)

  def read(
    self, reader: range_coder.Reader, model: int, raw: bytes
  ) -> np.ndarray:
    """Reads [count] of the declared type.

    Raises:
      FormatError: A number is not finite, or the bytes are damaged.
    """
    planes = np.empty((self.count, self.width), np.uint8)
    low = np.frombuffer(raw, np.uint8)
    planes[:, : self.width - model] = low.reshape(self.count, -1)
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
  """The empirical entropy of all symbols together, in bits."""
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
      f'Field {name!r}: symbol {symbols.max()} lies beyond [0, {alphabet}).'
    )
  return symbols.astype(np.int32)


def _high(alphabet):
  """How many high parts the symbols of a wide alphabet have."""
  return -(-alphabet // range_coder.DIGIT)
