"""The JPEG file that is nearest to a picture, of those with some bytes."""

from typing import NamedTuple

from jaxtyping import UInt8
import numpy as np

from collab_jax import codecs
from collab_jax.models import paligemma

# Sides to which the picture is reduced, as shares of its own.
_SHARES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8)
_QUALITIES = range(1, 101)


class JpegFile(NamedTuple):
  """A file without its headers, which both ends know.

  Attributes:
    codec: Config string of its codec.
    picture: The picture as decoded, of the model's size.
    bytes: Bytes of the file.
    side: Side of the picture in the file, in pixels.
    quality: Quality of the file.
  """

  codec: str
  picture: UInt8[np.ndarray, 'H W 3']
  bytes: int
  side: int
  quality: int


def nearest(
  model: paligemma.Model, image: UInt8[np.ndarray, 'H W 3'], limit: int
) -> JpegFile:
  """Returns the nearest file, by mean squared error, of at most some bytes.

  Args:
    model: A model, for its pictures' size.
    image: The picture, of that size.
    limit: Bytes. If no file has so few, the smallest one is returned.
  """
  side = model.config.vision.image_size
  files = [
    _largest(model, image, limit, max(8, round(share * side)))
    for share in _SHARES
  ]
  fitting = [file for file in files if file.bytes <= limit]
  if not fitting:
    return min(files, key=lambda file: file.bytes)
  return min(fitting, key=lambda file: _error(image, file.picture))


def _largest(model, image, limit: int, side: int) -> JpegFile:
  """Returns the file of the best quality that fits, or the smallest."""
  best = _encode(model, image, _QUALITIES[0], side)
  low, high = _QUALITIES[1], _QUALITIES[-1]
  while low <= high:  # Bytes grow with the quality, but for a few.
    middle = (low + high) // 2
    tried = _encode(model, image, middle, side)
    if len(tried[1]) <= limit:
      best, low = tried, middle + 1
    else:
      high = middle - 1
  codec, message = best
  return JpegFile(
    codec.name, codec.unpack(message), len(message), side, codec.spec.quality
  )


def _encode(
  model, image, quality: int, side: int
) -> tuple[codecs.ImageCodec, bytes]:
  codec = codecs.ImageCodec(model, 'jpeg', quality, side, strip=True)
  return codec, codec.encode(image[None])[0]


def _error(a, b) -> float:
  return float(np.mean((a.astype(np.float32) - b) ** 2))
