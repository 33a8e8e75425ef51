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
  low, high = _QUALITIES[0], _QUALITIES[-1]
  while low < high:  # Bytes grow with the quality, but for a few.
    middle = (low + high + 1) // 2
    if _file(model, image, middle, side).bytes <= limit:
      low = middle
    else:
      high = middle - 1
  return _file(model, image, low, side)


def _file(model, image, quality: int, side: int) -> JpegFile:
  codec = codecs.ImageCodec(model, 'jpeg', quality, side, strip=True)
  message = codec.encode(image[None])[0]
  picture = codec.unpack(message)
  return JpegFile(codec.name, picture, len(message), side, quality)


def _error(a, b) -> float:
  return float(np.mean((a.astype(np.float32) - b) ** 2))
