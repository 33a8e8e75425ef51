"""Static model: symbols coded with frequencies that both ends know."""

from collections.abc import Mapping
import functools

import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import range_coder

# The largest sum of a row of frequencies.
MAX_TOTAL = 1 << 16


class StaticModel:
  """Model of a table of frequencies: one row, or one per column of a field."""

  def __init__(self, table: np.ndarray, count: int):
    """Binds int64[rows alphabet] to a field of `count` symbols."""
    self._table = table
    self._per_row = count // len(table)

  def cost(self, symbols: np.ndarray) -> float:
    """Returns the ideal code length of int32[count] in bits."""
    return float(self._costs.take(symbols + self._offsets).sum(dtype=float))

  def write(self, writer: range_coder.Writer, symbols: np.ndarray) -> None:
    """Writes int32[count]: all symbols of a row, then those of the next."""
    columns = np.ascontiguousarray(symbols.reshape(self._per_row, -1).T)
    write = writer.write
    for column, model in zip(columns, self._models, strict=True):
      write(column, model)

  def read(self, reader: range_coder.Reader) -> np.ndarray:
    """Reads int32[count]."""
    return reader.many(self._models, self._per_row).T.reshape(-1)

  @functools.cached_property
  def _models(self):
    return [
      range_coder.from_parts(row) for row in range_coder.parts(self._table)
    ]

  @functools.cached_property
  def _costs(self):
    total = self._table.sum(axis=1, keepdims=True)
    return (np.log2(total) - np.log2(self._table)).astype(np.float32).ravel()

  @functools.cached_property
  def _offsets(self):
    rows, alphabet = self._table.shape
    return np.tile(np.arange(rows) * alphabet, self._per_row)


def check(
  priors: Mapping[str, np.ndarray], fields: declared.Fields
) -> dict[str, np.ndarray]:
  """Checks frequencies of symbols.

  Args:
    priors: Frequencies that `Quantizer.priors` returned, int[rows alphabet] by
      field; rows is 1, or the size of the field's last axis.
    fields: Fields that `Quantizer.fields` returned.

  Returns:
    The frequencies as int64.

  Raises:
    ValueError: The frequencies are not of that form.
  """
  checked = {}
  for name, table in priors.items():
    field = fields.get(name)
    if not isinstance(field, messages.Symbols):
      names = [n for n, f in fields.items() if isinstance(f, messages.Symbols)]
      raise _validate.error('priors', name, f'fields of symbols, {names}')
    table = np.asarray(table)
    rows = {1, *field.shape[-1:]} - {0}
    shapes = [(n, field.alphabet) for n in sorted(rows)]
    if table.dtype.kind not in 'iu' or table.shape not in shapes:
      raise ValueError(
        f'priors of {name!r}: got {table.dtype}{table.shape}, expected integers'
        f' of shape {" or ".join(map(str, shapes))}'
      )
    table = table.astype(np.int64)
    if table.min() < 1 or table.sum(axis=1).max() > MAX_TOTAL:
      raise ValueError(
        f'priors of {name!r}: got frequencies from {table.min()} and rows of'
        f' sums up to {table.sum(axis=1).max()}, expected at least 1 and sums'
        f' of at most {MAX_TOTAL}'
      )
    checked[name] = table
  return checked
