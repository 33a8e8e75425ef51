"""A picture to bytes on the edge, and bytes to a prefix on the server."""

from collab_jax.codecs.encoder import (
  check_images,
  to_float,
)
from collab_jax.codecs.feature import (
  SPLITS,
  FeatureCodec,
  forget_programs,
  image_keys,
)
from collab_jax.codecs.fingerprint import (
  encoder_fingerprint,
  features_of,
)
from collab_jax.codecs.image import KINDS, ImageCodec, ImageSettings
from collab_jax.codecs.link import Link
from collab_jax.codecs.spec import (
  PicturePlan,
  Plan,
)
from collab_jax.colours import by_axes as colours_by_axes

__all__ = [
  'KINDS',
  'SPLITS',
  'FeatureCodec',
  'ImageCodec',
  'ImageSettings',
  'Link',
  'PicturePlan',
  'Plan',
  'check_images',
  'colours_by_axes',
  'encoder_fingerprint',
  'features_of',
  'forget_programs',
  'image_keys',
  'to_float',
]
