"""A picture to bytes on the edge, and bytes to a prefix on the server."""

from collab_jax.codecs.feature import (
  SPLITS,
  FeatureCodec,
  features_of,
  image_keys,
)
from collab_jax.codecs.pictures import check_images, to_float

__all__ = [
  'SPLITS',
  'FeatureCodec',
  'check_images',
  'features_of',
  'image_keys',
  'to_float',
]
