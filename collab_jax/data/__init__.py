"""Pictures with captions: readers with `__len__` and `__getitem__`."""

from collab_jax.data.drawing import draw, labels, render
from collab_jax.data.example import Example
from collab_jax.data.generated import Scenes, scenes
from collab_jax.data.grammar import captions, slots
from collab_jax.data.pictures import read as read_image
from collab_jax.data.world import Scene, sample

__all__ = [
  'Example',
  'Scene',
  'Scenes',
  'captions',
  'draw',
  'labels',
  'read_image',
  'render',
  'sample',
  'scenes',
  'slots',
]
