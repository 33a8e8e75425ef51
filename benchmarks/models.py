"""Models that benchmarks measure, by name, and pictures of their size."""

from typing import Any

import jax

from benchmarks import random_model, sharding
from collab_jax import checkpoints, data
from collab_jax.data import pictures
from collab_jax.models import paligemma, zoo


def load(name: str, depth: int = 0) -> paligemma.Model:
  """Loads a model, or makes one of a released model's dimensions.

  Args:
    name: A name that `checkpoints.load` takes, or the path of a folder; a
      released model's name stands for its dimensions with random weights, so
      that nothing is downloaded.
    depth: Layers of either tower that a random model keeps; 0 for all.
  """
  if name not in zoo.NAMES:
    return checkpoints.load(name)
  config = zoo.card(name).config
  if depth:
    config = sharding.shallow(config, depth)
  # The layout that `load` chooses where weights are multiplied by a CPU.
  on_cpu = jax.default_backend() == 'cpu'
  layout = 'transposed' if on_cpu else 'stacked'
  return random_model.random_model(config, layout=layout)


class _ResizedScenes:
  """Scenes at the size of a model's pictures."""

  def __init__(self, model: paligemma.Model, scenes: Any):
    self.name = scenes.name
    self._scenes = scenes
    self._size = model.config.vision.image_size

  def __len__(self) -> int:
    return len(self._scenes)

  def __getitem__(self, index: int) -> data.Example:
    example = self._scenes[index]
    image = pictures.resize(example.image, self._size)
    return data.Example(image, example.image_id, example.captions)


def scenes(model: paligemma.Model, count: int) -> Any:
  """Returns the first scenes of the split `test`, at a model's size."""
  reader = data.scenes('test', limit=count)
  is_same = reader[0].image.shape[0] == model.config.vision.image_size
  return reader if is_same else _ResizedScenes(model, reader)
