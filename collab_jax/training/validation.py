"""Captions of validation scenes, to score a training run by."""

from collections.abc import Callable, Sequence

from jaxtyping import UInt8
import numpy as np

from collab_jax import data
from collab_jax.data import example


def captions(
  caption: Callable[[UInt8[np.ndarray, 'b h w 3']], Sequence[str]],
  split: str,
  limit: int,
  batch_size: int,
) -> tuple[list[str], list[example.Example]]:
  """Captions the first scenes of a split.

  Args:
    caption: Captions the images of a batch.
    split: As of `data.scenes`.
    limit: Number of scenes.
    batch_size: Images at a time; the last batch may have fewer.

  Returns:
    A caption for each scene, and the scenes.
  """
  reader = data.scenes(split, limit)
  scenes = [reader[i] for i in range(len(reader))]
  texts: list[str] = []
  for start in range(0, len(scenes), batch_size):
    batch = scenes[start : start + batch_size]
    texts += caption(np.stack([scene.image for scene in batch]))
  return texts, scenes
