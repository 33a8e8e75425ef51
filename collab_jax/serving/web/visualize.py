"""What the edge's page shows of a message."""

import base64
import io
import math
from typing import Any

from jaxtyping import Array, Float, UInt8
import numpy as np
from PIL import Image

from collab_jax import codecs
from collab_jax.serving.client import encode


def view(
  codec: encode.Codec,
  image: UInt8[np.ndarray, 'H W 3'],
  message: bytes,
) -> dict[str, Any]:
  """Describes a message by what the server sees of it.

  Args:
    codec: What made it.
    image: The picture, of the model's size.
    message: The message.

  Returns:
    Plain values: 'codec', 'bytes', 'sizes' by field, 'sent' and 'vectors';
    then 'map' of features, see `clusters`, or 'picture', a data URL of what is
    left of the picture.
  """
  common = {
    'codec': codec.name,
    'bytes': len(message),
    'sizes': codec.sizes(message),
    'sent': codec.sent,
    'vectors': codec.vectors,
  }
  if isinstance(codec, codecs.ImageCodec):
    return common | {'picture': png_url(codec.pictures([message])[0])}
  features = codec.features(image[None])[0]
  return common | {'map': clusters(codec, features, message)}


def clusters(
  codec: codecs.FeatureCodec, features: Float[Array, 'n d'], message: bytes
) -> dict[str, Any]:
  """The lower row of Fig. 2: which vectors were made one, and where they lie.

  Args:
    codec: What made the message.
    features: Of the picture; they say what a colour means.
    message: The message.

  Returns:
    'side' of the grid; for each place, row by row, its 'group', which places
    with the same vector share (None where no vector goes on), and its 'colour'
    ('#rrggbb' or None).
  """
  n = codec.vectors
  unpacked = codec.session.unpack(message)
  tokens = codec.rebuild([message])[0]
  x = np.asarray(tokens.x[0], np.float32)
  colours = codecs.colours_by_axes(np.asarray(features, np.float32))
  places = np.arange(n)
  if len(x) != n:
    # Only some go on, at their places, or closed up; then a mask tells those.
    places = np.asarray(tokens.positions[0])
    if 'mask' in unpacked:
      places = np.flatnonzero(unpacked['mask'])
  groups: list[int | None] = [None] * n
  shades: list[str | None] = [None] * n
  _, inverse = np.unique(x, axis=0, return_inverse=True)
  rgb = np.round(255 * colours(x)).astype(int)
  for place, group, colour in zip(
    places.tolist(), inverse.reshape(-1).tolist(), rgb.tolist(), strict=True
  ):
    groups[place] = group
    shades[place] = '#{:02x}{:02x}{:02x}'.format(*colour)
  return {'side': math.isqrt(n), 'group': groups, 'colour': shades}


def png(image: UInt8[np.ndarray, 'H W 3']) -> bytes:
  """A picture as a PNG file."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'PNG')
  return file.getvalue()


def png_url(image: UInt8[np.ndarray, 'H W 3']) -> str:
  """A picture as a data URL."""
  return 'data:image/png;base64,' + base64.b64encode(png(image)).decode()
