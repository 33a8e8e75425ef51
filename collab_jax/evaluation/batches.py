"""Batches of examples, padded to one size, and the rows of a process."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh
from jaxtyping import Bool, Int
import numpy as np

from collab_jax import data as datasets
from collab_jax import sharding


class ProcessRows(NamedTuple):
  """Rows of a batch that a process reads: those of its devices.

  Attributes:
    indices: Indices of the pictures to read; the last stands for all padding.
    real: Number of the first of them that are no padding.
    rows: Places of all rows of this process in the batch.
    owned: Of the real ones, those whose records this process makes.
  """

  indices: tuple[int, ...]
  real: int
  rows: Int[np.ndarray, ' b']
  owned: Bool[np.ndarray, ' real']


def plan(count: int, size: int, mesh: Mesh | None) -> Iterator[ProcessRows]:
  """Plans the batches of an evaluation.

  Args:
    count: Number of pictures.
    size: Pictures at a time, which the mesh's 'data' divides.
    mesh: The mesh; without several processes all rows are this one's.

  Yields:
    The rows of each batch, in order.
  """
  rows = sharding.process_rows(mesh, size)
  owned = sharding.owned_rows(mesh, size)
  for start in range(0, count, size):
    here = rows[rows < count - start]
    indices = [start + int(row) for row in here]
    if len(here) < len(rows) and indices[-1:] != [count - 1]:
      indices.append(count - 1)
    yield ProcessRows(tuple(indices), len(here), rows, owned[: len(here)])


class Batch:
  """Examples of a batch, padded to the batch size with the last one.

  Attributes:
    examples: The examples without the padding.
    ids: Their image ids.
    images: u8[size H W 3].
    padded_ids: The image ids of all rows.
    indices: Their indices in the reader.
    owned: Examples whose records this process makes.
    rows: Places of this process's rows in the batch.
    size: Rows of the batch of all processes.
  """

  def __init__(
    self,
    examples: Sequence[datasets.Example],
    size: int,
    rows: ProcessRows | None = None,
  ):
    """Pads the examples.

    Args:
      examples: The examples, of several processes those of `rows`.
      size: Rows of the batch of all processes.
      rows: The rows of this process; None for all.
    """
    count = size if rows is None else len(rows.rows)
    real = len(examples) if rows is None else rows.real
    padded = [*examples, *[examples[-1]] * (count - len(examples))]
    self.examples = list(examples[:real])
    self.ids = [e.image_id for e in self.examples]
    self.images = np.stack([e.image for e in padded])
    self.padded_ids = [e.image_id for e in padded]
    indices = range(real) if rows is None else rows.indices
    self.indices = list(indices[:real])
    self.owned = np.ones(real, bool) if rows is None else rows.owned
    self.rows = np.arange(size) if rows is None else rows.rows
    self.size = size


def read(data: Any, plans: Sequence[ProcessRows], size: int) -> Iterator[Batch]:
  """Reads the pictures of batches ahead, on threads.

  Args:
    data: The reader.
    plans: From `plan`.
    size: Rows of a batch of all processes.
  """
  indices = tuple(i for rows in plans for i in rows.indices)
  if indices != tuple(range(len(data))):
    data = datasets.Subset(data, indices)
  examples = datasets.prefetch(data, ahead=2 * size)
  for rows in plans:
    yield Batch([next(examples) for _ in rows.indices], size, rows)
