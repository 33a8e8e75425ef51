"""Symbols coded with frequencies that both ends have agreed on."""

from collections.abc import Mapping
import functools

import numpy as np

from collab_jax import message as messages
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import range_coder

# The largest sum of a row of frequencies.
MAX_TOTAL = 1 << 16


class StaticModel:
  """A table of frequencies: one row, or one for each of the last axis."""

  def __init__(self, table: np.ndarray, count: int):
    """Binds int64[rows alphabet] to a field of `count` symbols."""
    self._table = table
    self._each = count // len(table)

  def cost(self, symbols: np.ndarray) -> float:
    """Returns the ideal code length of int32[count] in bits."""
    return float(self._costs.take(symbols + self._offsets).sum(dtype=float))

  def write(self, writer: range_coder.Writer, symbols: np.ndarray) -> None:
    """Writes int32[count]: all symbols of a row, then those of the next."""
    columns = np.ascontiguousarray(symbols.reshape(self._each, -1).T)
    write = writer.write
    for column, model in zip(columns, self._models, strict=True):
      write(column, model)

  def read(self, reader: range_coder.Reader) -> np.ndarray:
    """Reads int32[count]."""
    return reader.many(self._models, self._each).T.reshape(-1)

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
    return np.tile(np.arange(rows) * alphabet, self._each)


def check(
  priors: Mapping[str, np.ndarray], fields: declared.Fields
) -> dict[str, np.ndarray]:
  """Checks frequencies of symbols.

  Args:
    priors: What `Quantizer.priors` returned: by field int[rows alphabet]; rows
      is 1, or the size of the field's last axis.
    fields: What `Quantizer.fields` returned.

  Returns:
    The same as int64.

  Raises:
    ValueError: If they are not of that form.
  """
  checked = {}
  for name, table in priors.items():
    field = fields.get(name)
    if not isinstance(field, messages.Symbols):
      raise ValueError(
        f'priors: got {name!r}, expected fields of symbols: '
        f'{[n for n, f in fields.items() if isinstance(f, messages.Symbols)]}.'
      )
    table = np.asarray(table)
    rows = {1, *field.shape[-1:]} - {0}
    shapes = [(n, field.alphabet) for n in sorted(rows)]
    if table.dtype.kind not in 'iu' or table.shape not in shapes:
      raise ValueError(
        f'priors of {name!r}: expected integers of shape '
        f'{" or ".join(map(str, shapes))}, got {table.dtype}{table.shape}.'
      )
    table = table.astype(np.int64)
    if table.min() < 1 or table.sum(axis=1).max() > MAX_TOTAL:
      raise ValueError(
        f'priors of {name!r}: frequencies are at least 1 and a row adds up to '
        f'{MAX_TOTAL} at most, got a least of {table.min()} and a largest sum '
        f'of {table.sum(axis=1).max()}.'
      )
    checked[name] = table
  return checked
