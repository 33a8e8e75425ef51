"""Pictures of messages for the demo page: cluster maps and decoded files."""

import base64
import io
import math
from typing import Any

from jaxtyping import Array, Float, UInt8
import numpy as np
from PIL import Image

from collab_jax import codecs, random_keys


def describe_message(
  codec: codecs.Codec,
  image: UInt8[np.ndarray, 'H W 3'],
  message: bytes,
) -> dict[str, Any]:
  """Describes a message, with the part of the picture that it conveys.

  Args:
    codec: Codec of the message.
    image: The picture, of the model's size.
    message: The message.

  Returns:
    Plain values: 'codec', 'bytes', 'sizes' by field, 'sent' and 'vectors';
    'picture', a data URL of the decoded picture, if the message holds one;
    'map' of features, if there are any, see `cluster_map`.
  """
  description = {
    'codec': codec.name,
    'bytes': len(message),
    'sizes': codec.sizes(message),
    'sent': codec.sent,
    'vectors': codec.vectors,
  }
  picture = codec.picture(message)
  if picture is not None:
    return description | {'picture': png_url(picture)}
  features = codec.encode_batch(image[None], random_keys.make(0)).features
  if features is None:
    return description
  return description | {'map': cluster_map(codec, features[0], message)}


def cluster_map(
  codec: codecs.Codec, features: Float[Array, 'n d'], message: bytes
) -> dict[str, Any]:
  """Maps each place of the grid to its cluster and a colour, as in Fig. 2.

  Args:
    codec: Codec of the message.
    features: Features of the picture, whose axes define the colours.
    message: The message.

  Returns:
    'side' of the grid; for each place, row by row, its 'group', which places
    with the same vector share (None where no vector is kept), and its 'colour'
    ('#rrggbb' or None).
  """
  n = codec.vectors
  unpacked = codec.unpack(message)
  tokens = codec.decode_unpacked([unpacked]).tokens
  assert tokens is not None  # There are features.
  x = np.asarray(tokens.x[0], np.float32)
  colours = codecs.colours_by_axes(np.asarray(features, np.float32))
  places = np.arange(n)
  if len(x) != n:
    # Only some vectors are kept, at their places, or packed with a mask.
    valid = np.asarray(tokens.valid)[0]
    x, places = x[valid], np.asarray(tokens.positions)[0, valid]
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
  """Encodes a picture as a PNG file."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'PNG')
  return file.getvalue()


def png_url(image: UInt8[np.ndarray, 'H W 3']) -> str:
  """Encodes a picture as a data URL."""
  return data_url(png(image))


def data_url(file: bytes) -> str:
  """Returns a PNG file as a data URL."""
  return 'data:image/png;base64,' + base64.b64encode(file).decode()
