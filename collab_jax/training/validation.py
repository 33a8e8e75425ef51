"""Captions of validation pictures, to score a training run by."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Int, UInt8
import numpy as np

from collab_jax import distributed, sharding
from collab_jax.data import example


def captions(
  caption: Callable[[UInt8[np.ndarray, 'b h w 3']], Sequence[str]],
  reader: Any,
  batch_size: int,
  mesh: Mesh | None = None,
) -> tuple[list[str], list[example.Example]]:
  """Captions all pictures of a reader.

  Args:
    caption: Captions the images of a batch.
    reader: Reads the pictures.
    batch_size: Images at a time; the last batch may have fewer.
    mesh: Of several processes each captions the rows of its devices, and gets
      the captions of all.

  Returns:
    A caption for each picture, and the pictures with their references.
  """
  examples = [reader[i] for i in range(len(reader))]
  texts: list[str] = []
  for start in range(0, len(examples), batch_size):
    batch = examples[start : start + batch_size]
    images = np.stack([e.image for e in batch])
    if sharding.spans_processes(mesh):
      texts += _caption_rows(caption, images, mesh)
    else:
      texts += caption(images)
  return texts, examples


def _caption_rows(
  caption: Callable[[UInt8[np.ndarray, 'b h w 3']], Sequence[str]],
  images: UInt8[np.ndarray, 'B h w 3'],
  mesh: Mesh | None,
) -> list[str]:
  """Captions this process's rows of a batch; returns those of all."""
  size = -(-len(images) // sharding.sizes(mesh)['data'])
  rows = sharding.process_rows(mesh, size * sharding.sizes(mesh)['data'])
  captions = caption(images[np.minimum(rows, len(images) - 1)])
  return gather_rows(rows, captions)[: len(images)]


def gather_rows(rows: Int[np.ndarray, ' b'], texts: Sequence[str]) -> list[str]:
  """Returns the texts of all rows of a batch, from all processes.

  Args:
    rows: Rows of this process, from `sharding.process_rows`.
    texts: Their texts.
  """
  by_row: dict[int, str] = {}
  for places, part in distributed.gather([rows.tolist(), list(texts)]):
    by_row |= dict(zip(places, part, strict=True))
  return [by_row[row] for row in sorted(by_row)]
