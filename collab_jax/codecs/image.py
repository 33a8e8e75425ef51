"""Codec of image files: the server runs the image encoder."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jaxtyping import Array, UInt8
import numpy as np

from collab_jax import _validate
from collab_jax.codecs import base, fingerprint
from collab_jax.codecs import encoder as image_encoder
from collab_jax.codecs.image_files import formats
from collab_jax.codecs.transports import base as transports
from collab_jax.data import pictures as files
from collab_jax.models import paligemma
from collab_jax.wire import FormatError

KINDS = tuple(formats.KINDS)
# A message is refused before it is parsed if it has more bytes than this, and
# this many times those of the raw picture: no encoder wastes so much.
_LEAST, _TIMES = 4096, 4


@dataclasses.dataclass(frozen=True)
class ImageCodecSpec(base.CodecSpec):
  """Settings of an `ImageCodec`.

  ::

    spec = ImageCodecSpec('webp', quality=20, strip=True)
    spec.validate(model_config)
    codec = spec.bind(model)

  Attributes:
    kind: 'jpeg', 'webp' or 'avif'.
    quality: 0 to 100, for JPEG from 1; each kind has its own scale.
    size: Side in pixels to which the picture is reduced before; None to leave
      it as it is.
    strip: Leave out of a file what both ends know, see `formats`.
    chroma: 420 keeps a quarter of the colours' pixels, 444 all of them, which
      WebP cannot.
  """

  needs_weights = False
  family = 'image'

  kind: str
  quality: int = 75
  size: int | None = None
  strip: bool = False
  chroma: int = 420

  def __post_init__(self):
    """Raises ValueError for settings out of range."""
    if self.kind not in KINDS:
      raise _validate.unknown('kind', self.kind, KINDS)
    least = 1 if self.kind == 'jpeg' else 0
    _validate.integer(f'quality of {self.kind}', self.quality, least, 100)
    if self.size is not None:
      _validate.integer('size', self.size)
    _validate.boolean('strip', self.strip)
    chromas = formats.KINDS[self.kind].chromas
    if self.chroma not in chromas:
      expected = ' or '.join(map(str, chromas))
      raise ValueError(
        f'chroma: got {self.chroma!r}, expected {expected} for {self.kind}'
      )
    formats.check_available(self.kind)

  @classmethod
  def make(cls, kind: str, settings: Mapping[str, Any]) -> 'ImageCodecSpec':
    """Makes a spec of settings as `config.call` reads them.

    Args:
      kind: As above.
      settings: The other fields; strip may be the text 'true' or 'false'.

    Returns:
      The spec.

    Raises:
      ValueError: A field that is not there, with the nearest, or out of range.
    """
    known = [f.name for f in dataclasses.fields(cls)][1:]
    for name in settings:
      if name not in known:
        raise _validate.unknown(f'setting of {kind}', name, known)
    strip = settings.get('strip', False)
    words = {'true': True, 'false': False}
    strip = words.get(str(strip).lower(), strip)
    return cls(kind, **{**settings, 'strip': strip})

  @property
  def name(self) -> str:
    """Canonical text, 'webp(quality=20,strip=true)'.

    Defaults are left out, except for the quality.
    """
    parts = [f'quality={self.quality}']
    parts += [f'size={self.size}'] if self.size else []
    parts += ['strip=true'] if self.strip else []
    parts += [f'chroma={self.chroma}'] if self.chroma != 420 else []
    return f'{self.kind}({",".join(parts)})'

  @property
  def uses_key(self) -> bool:
    """False: files of pictures do not draw."""
    return False

  def bind(self, model: paligemma.Model) -> 'ImageCodec':
    """Returns the codec of a model; see `ImageCodec`."""
    return ImageCodec(model, **dataclasses.asdict(self))

  def layout(self, config: paligemma.Config) -> transports.MessageLayout:
    """Returns the sizes of messages; see `CodecSpec.layout`."""
    side = config.vision.image_size
    fitted = self.at(side)
    size = fitted.size or side
    file = formats.known(self.kind, self.quality, size, self.chroma)
    return transports.MessageLayout(
      fitted.name, config.vision.num_tokens, largest=file.largest(self.strip)
    )

  def validate(
    self,
    config: paligemma.Config,
    load_encoder: Callable[[], paligemma.Model] | None = None,
  ) -> 'ImageCodecSpec':
    """Checks the size against the model's pictures; see `at`."""
    del load_encoder
    return self.at(config.vision.image_size)

  def at(self, side: int) -> 'ImageCodecSpec':
    """Returns the settings for pictures of this side.

    Args:
      side: Of the model's pictures, in pixels.

    Returns:
      The same, without a size that changes nothing.

    Raises:
      ValueError: The size is larger.
    """
    if self.size is not None and self.size > side:
      raise ValueError(
        f'size: got {self.size} px, expected at most the {side} px of the'
        " model's pictures: they are reduced to it"
      )
    return dataclasses.replace(self, size=None) if self.size == side else self


class ImageCodec(base.Codec):
  """Baseline codec: the picture itself, as JPEG, WebP or AVIF.

  ::

    codec = cj.ImageCodec(model, 'webp', quality=20)
    messages = codec.encode(images)  # On the edge: Pillow.
    prefix = codec.decode(messages)  # On the server: Pillow and SigLIP.

  The decoder then sees all vectors, so `sent` is `vectors`; only bytes are
  saved.

  Attributes:
    model: The model; the edge needs nothing of it.
    spec: The settings.
    name: Canonical short name, unique among different settings.
    sent: Number of vectors that reach the decoder: all.
    vectors: Number of vectors per image.
  """

  def __init__(
    self,
    model: paligemma.Model,
    kind: str,
    quality: int = 75,
    size: int | None = None,
    strip: bool = False,
    chroma: int = 420,
  ):
    """Binds a model and settings.

    Args:
      model: From `collab_jax.load`.
      kind: 'jpeg', 'webp' or 'avif'.
      quality: 0 to 100, for JPEG from 1.
      size: Side in pixels to which the picture is reduced before it is coded;
        the server enlarges it again, both by Pillow's bicubic.
      strip: Leave out what both ends know of such files; the decoded picture
        is the same to the pixel.
      chroma: 420, or 444 to keep all pixels of the colours; not for WebP.

    Raises:
      ValueError: A setting is out of range, or Pillow lacks the kind.
    """
    paligemma.check_model(model)
    self.model = model
    vision = model.config.vision
    self._side = vision.image_size
    self.spec = ImageCodecSpec(kind, quality, size, strip, chroma).at(
      self._side
    )
    self.vectors = self.sent = vision.num_tokens
    self._size = self.spec.size or self._side

  @property
  def _format(self) -> formats.Format:
    spec = self.spec
    return formats.known(spec.kind, spec.quality, self._size, spec.chroma)

  @functools.cached_property
  def settings(self) -> dict[str, Any]:
    """All settings as plain values."""
    spec = dataclasses.asdict(self.spec) | {'size': self._size}
    return {'codec': 'image', **spec}

  def describe(self) -> dict[str, Any]:
    """Returns the settings as plain values, for records and tables."""
    return {**self.settings, 'encoder': formats.encoder(self.spec.kind)}

  def encode(
    self,
    images: UInt8[Array | np.ndarray, 'B H W 3'],
    key: jax.Array | None = None,
    image_ids: Sequence[int] | None = None,
  ) -> list[bytes]:
    """Turns pictures into messages; see `Codec.encode`. Nothing is drawn."""
    del key, image_ids
    image_encoder.check_images(images, self._side)
    strip = self.spec.strip
    return [
      self._format.encode(self._resized(image, self._size), strip)
      for image in np.asarray(images)
    ]

  def dispatch_encode(
    self,
    images: base.Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    cache: base.FeatureCache | None = None,
    pack: Callable[[Any], list[Any]] | None = None,
  ) -> Callable[[], base.Encoded]:
    """Leaves all to the host; see `Codec.dispatch_encode`."""
    return functools.partial(
      self.encode_batch, images, key, image_ids, cache, pack
    )

  def unpack(self, message: bytes) -> UInt8[np.ndarray, 'H W 3']:
    """Decodes a message to a picture of the model's size, on the host.

    Raises:
      collab_jax.wire.FormatError: A message is no picture as this codec has
        them. Nothing in it is a checksum or names the sender's settings:
        damage, another quality, and in stripped messages another chroma or, of
        JPEG, size may also show as other pixels.
    """
    limit = max(_LEAST, 3 * _TIMES * self._size**2)
    if len(message) > limit:
      raise FormatError(
        f'got {len(message)} bytes for {self._size} x {self._size} px,'
        f' expected at most {limit}; do the sizes of the two ends differ?'
      )
    file = self._format.file(message, self.spec.strip)
    try:
      picture = files.decode(file, 'the message')
    except files.PictureError as error:
      raise FormatError(str(error)) from error
    if picture.shape[:2] != (self._size, self._size):
      raise FormatError(
        f'got a picture of {picture.shape[1]} x {picture.shape[0]} px,'
        f' expected {self._size} x {self._size}'
      )
    return self._resized(picture, self._side)

  def _resized(
    self, image: files.Pixels, size: int
  ) -> UInt8[np.ndarray, '{size} {size} 3']:
    return image if len(image) == size else files.resize(image, size)

  def blank_batch(self, batch_size: int) -> list[bytes]:
    """Returns messages of black pictures."""
    return self.encode(self._black(1)) * batch_size

  def sizes(self, message: bytes) -> dict[str, int]:
    """Returns the bytes of a message by field; they add up to its length."""
    return self._format.sizes(message, self.spec.strip)

  def description(self) -> Mapping[str, Any]:
    """Returns what both ends must have in common, for the handshake."""
    # Without its frame a file is read by what this end's library would write.
    library = {'encoder': formats.encoder(self.spec.kind)}
    return {
      'format': 'collab_jax.image',
      'version': 1,
      'spec': {
        'codec': 'image',
        'name': self.name,
        'size': self._side,
        'model': fingerprint.architecture(self.model.config.vision),
        **(library if self.spec.strip else {}),
      },
    }

  def __repr__(self) -> str:
    """Shows the settings."""
    return f'ImageCodec({self.name})'
