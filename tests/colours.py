"""A codec of one's own, for tests."""

import dataclasses

import numpy as np

from collab_jax import codecs, wire
from collab_jax.models import paligemma


@dataclasses.dataclass
class Colours(codecs.Codec):
  """Sends the average colours of a grid of squares."""

  model: paligemma.Model
  side: int = 8

  def encode(self, images, key=None, image_ids=None):
    del key, image_ids
    count, size = len(images), images.shape[1] // self.side
    squares = np.asarray(images).reshape(
      count, self.side, size, self.side, size, 3
    )
    return [c.tobytes() for c in squares.mean((2, 4)).astype(np.uint8)]

  def unpack(self, message):
    if len(message) != 3 * self.side**2:
      raise wire.FormatError(f'got {len(message)} bytes')
    colours = np.frombuffer(message, np.uint8).reshape(self.side, self.side, 3)
    size = self.model.config.vision.image_size // self.side
    return colours.repeat(size, 0).repeat(size, 1)
