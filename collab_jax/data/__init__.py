"""Datasets of captioned pictures: readers with `__len__`, `__getitem__`."""

from typing import TYPE_CHECKING

from collab_jax import _renamed
from collab_jax.data.asked import Asked
from collab_jax.data.coco_flickr import (
  coco,
  flickr30k,
)
from collab_jax.data.drawing import draw, labels, render
from collab_jax.data.example import Example
from collab_jax.data.files import Files, ListedImage
from collab_jax.data.generated import Scenes, scenes
from collab_jax.data.grammar import captions, slots
from collab_jax.data.jsonl_folder import jsonl
from collab_jax.data.loader import (
  Subset,
  prefetch,
  readable,
)
from collab_jax.data.photographs import photos
from collab_jax.data.pictures import METHODS, PictureError
from collab_jax.data.pictures import read as read_image
from collab_jax.data.question import Question
from collab_jax.data.readers import NAMES, make
from collab_jax.data.scene_questions import questions
from collab_jax.data.tfds_prepare import prepare
from collab_jax.data.tfds_reader import tfds
from collab_jax.data.world import Scene, sample

__all__ = [
  'METHODS',
  'NAMES',
  'Asked',
  'Example',
  'Files',
  'ListedImage',
  'PictureError',
  'Question',
  'Scene',
  'Scenes',
  'Subset',
  'captions',
  'coco',
  'draw',
  'flickr30k',
  'jsonl',
  'labels',
  'make',
  'photos',
  'prefetch',
  'prepare',
  'questions',
  'read_image',
  'readable',
  'render',
  'sample',
  'scenes',
  'slots',
  'tfds',
]
__dir__ = __all__.copy

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)
