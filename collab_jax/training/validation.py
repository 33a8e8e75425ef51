"""Captions of validation pictures, to score a training run by."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import UInt8
import numpy as np

from collab_jax.data import example


def captions(
  caption: Callable[[UInt8[np.ndarray, 'b h w 3']], Sequence[str]],
  reader: Any,
  batch_size: int,
) -> tuple[list[str], list[example.Example]]:
  """Captions all pictures of a reader.

  Args:
    caption: Captions the images of a batch.
    reader: Reads the pictures.
    batch_size: Images at a time; the last batch may have fewer.

  Returns:
    A caption for each picture, and the pictures with their references.
  """
  examples = [reader[i] for i in range(len(reader))]
  texts: list[str] = []
  for start in range(0, len(examples), batch_size):
    batch = examples[start : start + batch_size]
    texts += caption(np.stack([e.image for e in batch]))
  return texts, examples
