"""Padding of messages to the k of a bucket, whose programs all k share."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import numpy as np

from collab_jax.quantizers import base


@dataclasses.dataclass(frozen=True)
class Padding:
  """Quantizer whose program is run in the place of another one's.

  Attributes:
    quantizer: The one whose program is run: static there.
    num_used: k of the other one, an argument of the program; None where they
      are the same.
    rows: Fields with a row for each of the k vectors: the rows of either one's.
  """

  quantizer: base.Quantizer
  num_used: int | None
  rows: Mapping[str, tuple[int, int]]

  @property
  def argument(self) -> np.ndarray | None:
    """`num_used` as the program takes it, an array i32[]."""
    return None if self.num_used is None else np.asarray(self.num_used, 'i4')

  def trim(self, message: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch of messages without the padding, as views.

    Args:
      message: One array per field, with an axis B in front, of `quantizer`.
    """
    return {
      name: value[:, : self.rows[name][0]] if name in self.rows else value
      for name, value in message.items()
    }

  def pad(self, message: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a batch of messages with rows of zeros up to those of a bucket.

    Args:
      message: One array per field, with an axis B in front.
    """
    return {
      name: pad_rows(value, self.rows[name][1]) if name in self.rows else value
      for name, value in message.items()
    }


def pad_rows(rows: np.ndarray, size: int) -> np.ndarray:
  """Returns arrays [B k ...] as [B size ...], with zeros behind the k rows."""
  if rows.shape[1] == size:
    return rows
  padded = np.zeros((len(rows), size, *rows.shape[2:]), rows.dtype)
  padded[:, : rows.shape[1]] = rows
  return padded


@functools.lru_cache(4096)
def find(quantizer: base.Quantizer, n: int, d: int) -> Padding:
  """Finds the quantizer whose program serves a sender or receiver.

  Args:
    quantizer: The sender or receiver.
    n: Number of vectors.
    d: Their width.

  Returns:
    The `padded` quantizer if there is one, whose messages differ from those of
    `quantizer` in the number of rows alone; else the quantizer itself.
  """
  padded = quantizer.padded(n)
  if padded is None:
    return Padding(quantizer, None, {})
  fields, larger = quantizer.fields(n, d), padded.fields(n, d)
  k, size = quantizer.sent(n), padded.sent(n)
  rows = {}
  for name, field in fields.items():
    shapes = field.shape, larger[name].shape
    if shapes == ((k, *field.shape[1:]), (size, *field.shape[1:])):
      rows[name] = k, size
    elif shapes[0] != shapes[1]:
      return Padding(quantizer, None, {})
  return Padding(padded, k, rows)
