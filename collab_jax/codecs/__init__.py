"""Codecs: pictures to bytes on the edge, bytes to prefixes on the server."""

from typing import TYPE_CHECKING

from collab_jax import _renamed
from collab_jax.codecs.base import (
  Codec,
  CodecSpec,
  Decoded,
  Encoded,
  FeatureCache,
  OwnCodecSpec,
  check_codec,
)
from collab_jax.codecs.encoder import (
  check_images,
  to_float,
)
from collab_jax.codecs.feature import (
  SPLITS,
  FeatureCodec,
  FeatureCodecSpec,
  forget_programs,
  image_keys,
)
from collab_jax.codecs.fingerprint import (
  encoder_fingerprint,
  features_of,
)
from collab_jax.codecs.image import KINDS, ImageCodec, ImageCodecSpec
from collab_jax.codecs.link import Link, LinkSpec
from collab_jax.codecs.spec import (
  choose,
  make_method,
  make_quantizer,
  parse,
  parse_method,
)
from collab_jax.codecs.unlike_pictures import (
  describe as describe_unlike_picture,
)
from collab_jax.codecs.unlike_pictures import (
  warn as warn_of_unlike_picture,
)
from collab_jax.colours import by_axes as colours_by_axes

__all__ = [
  'KINDS',
  'SPLITS',
  'Codec',
  'CodecSpec',
  'Decoded',
  'Encoded',
  'FeatureCache',
  'FeatureCodec',
  'FeatureCodecSpec',
  'ImageCodec',
  'ImageCodecSpec',
  'Link',
  'LinkSpec',
  'OwnCodecSpec',
  'check_codec',
  'check_images',
  'choose',
  'colours_by_axes',
  'describe_unlike_picture',
  'encoder_fingerprint',
  'features_of',
  'forget_programs',
  'image_keys',
  'make_method',
  'make_quantizer',
  'parse',
  'parse_method',
  'to_float',
  'warn_of_unlike_picture',
]
__dir__ = __all__.copy

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)
