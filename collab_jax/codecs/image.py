"""A picture as a file to the server, which then runs the image encoder."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, UInt8
import numpy as np

from collab_jax import _validate, sharding
from collab_jax import message as messages
from collab_jax.codecs import encoder as encoder_lib
from collab_jax.codecs.image_files import formats
from collab_jax.data import pictures as files
from collab_jax.models import paligemma
from collab_jax.wire import FormatError

KINDS = tuple(formats.KINDS)
# A message is refused before it is looked at if it has more bytes than this,
# and this many times the picture's own: no encoder wastes so much.
_LEAST, _TIMES = 4096, 4


@dataclasses.dataclass(frozen=True)
class ImageSettings:
  """How a picture is coded.

  Attributes:
    kind: 'jpeg', 'webp' or 'avif'.
    quality: 0 to 100, for JPEG from 1; what it means is the kind's own.
    size: Side in pixels to which the picture is reduced before; None to leave
      it as it is.
    strip: Leave out of a file what both ends know, see `formats`.
    chroma: 420 keeps a quarter of the colours' pixels, 444 all of them, which
      WebP cannot.
  """

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
  def make(cls, kind: str, settings: Mapping[str, Any]) -> 'ImageSettings':
    """Makes them from what `config.call` read.

    Args:
      kind: As above.
      settings: The other fields; strip may be the text 'true' or 'false'.

    Returns:
      The settings.

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
    """As a config has it; what has its default is left out, quality never."""
    parts = [f'quality={self.quality}']
    parts += [f'size={self.size}'] if self.size else []
    parts += ['strip=true'] if self.strip else []
    parts += [f'chroma={self.chroma}'] if self.chroma != 420 else []
    return f'{self.kind}({",".join(parts)})'

  def at(self, side: int) -> 'ImageSettings':
    """The settings for pictures of this side.

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


@jax.jit
def _prefix(model, features):
  x = model.project(features)
  rows, n = x.shape[:2]
  positions = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (rows, n))
  end = jnp.full(rows, n, jnp.int32)
  return messages.Prefix(x, jnp.ones((rows, n), bool), positions, end)


class ImageCodec:
  """The baseline: the picture itself, as JPEG, WebP or AVIF.

  Edge: Pillow. Server: Pillow, SigLIP and the projection. The decoder then
  sees all vectors, so `sent` is `vectors`; what is saved, is bytes.

  Attributes:
    model: The model; the edge needs nothing of it.
    settings: How the picture is coded.
    split: 'encoder': features are those before the projection.
    name: Canonical short name, unique among different settings.
    sent: Number of vectors that reach the decoder: all.
    vectors: Number of vectors per image.
    uses_key: False: nothing is drawn.
  """

  split = 'encoder'
  uses_key = False

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
      strip: Leave out what both ends know of such files; what is decoded is
        the same to the pixel.
      chroma: 420, or 444 to keep all pixels of the colours; not for WebP.

    Raises:
      ValueError: A setting is out of range, or Pillow lacks the kind.
    """
    self.model = model
    vision = model.config.vision
    self._side = vision.image_size
    settings = ImageSettings(kind, quality, size, strip, chroma)
    self.settings = settings.at(self._side)
    self.vectors = self.sent = vision.num_tokens
    self.name = self.settings.name
    self._size = self.settings.size or self._side

  @property
  def _format(self) -> formats.Format:
    own = self.settings
    return formats.known(own.kind, own.quality, self._size, own.chroma)

  @property
  def largest(self) -> int:
    """Bytes of a message of noise; no picture takes many more."""
    return self._format.largest(self.settings.strip)

  def describe(self) -> dict[str, Any]:
    """The settings as plain values, for records and tables."""
    settings = dataclasses.asdict(self.settings) | {'size': self._size}
    encoder = formats.encoder(self.settings.kind)
    return {'codec': 'image', **settings, 'encoder': encoder}

  def encode(
    self,
    images: UInt8[Array | np.ndarray, 'B H W 3'],
    key: jax.Array | None = None,
    image_ids: Sequence[int] | None = None,
  ) -> list[bytes]:
    """Turns pictures into messages: the edge.

    Args:
      images: Pictures of the model's size, 0..255.
      key: Not used.
      image_ids: Not used.

    Returns:
      One message per picture; equal ones for equal pictures.

    Raises:
      ValueError: They are no such pictures.
    """
    del key, image_ids
    encoder_lib.check_images(images, self._side)
    strip = self.settings.strip
    return [
      self._format.encode(self._resized(image, self._size), strip)
      for image in np.asarray(images)
    ]

  def pictures(self, data: Sequence[bytes]) -> UInt8[np.ndarray, 'B H W 3']:
    """What the server sees of the pictures.

    Args:
      data: Messages of this codec.

    Returns:
      Pictures of the model's size.

    Raises:
      collab_jax.wire.FormatError: A message is no picture as this codec has
        them. Nothing in it is a checksum or names the sender's settings:
        damage, another quality, and in stripped messages another chroma or, of
        JPEG, size may also show as other pixels.
    """
    seen = np.empty((len(data), self._side, self._side, 3), np.uint8)
    for row, message in zip(seen, data, strict=True):
      row[:] = self._picture(message)
    return seen

  def decode(self, data: Sequence[bytes]) -> messages.Prefix:
    """Turns messages into what the captioner reads: the server.

    Args:
      data: Messages of this codec.

    Returns:
      The prefix at the decoder's width.

    Raises:
      collab_jax.wire.FormatError: As `pictures`.
    """
    return self.prefix(self.pictures(data))

  def prefix(self, images: UInt8[np.ndarray, 'B H W 3']) -> messages.Prefix:
    """The second half of `decode`: what it makes of `pictures`."""

    def spread(batch):  # Puts it where the model is.
      return sharding.rows(batch, self.model.params)

    x = spread(encoder_lib.features(self.model, self.split, spread(images)))
    return spread(_prefix(self.model, x))

  def _picture(self, message: bytes) -> UInt8[np.ndarray, 'H W 3']:
    limit = max(_LEAST, 3 * _TIMES * self._size**2)
    if len(message) > limit:
      raise FormatError(
        f'got {len(message)} bytes for {self._size} x {self._size} px,'
        f' expected at most {limit}; do the sizes of the two ends differ?'
      )
    file = self._format.file(message, self.settings.strip)
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

  def warm_up(self, batch_size: int) -> messages.Prefix:
    """Compiles what a batch needs by running it on black pictures.

    Args:
      batch_size: Number of pictures that will come at a time.

    Returns:
      A prefix, for the captioner to compile too.
    """
    black = np.zeros((batch_size, self._side, self._side, 3), np.uint8)
    return self.prefix(black)

  def sizes(self, data: bytes) -> dict[str, int]:
    """Bytes of a message by field; they add up to its length."""
    return self._format.sizes(data, self.settings.strip)

  def __repr__(self) -> str:
    """Shows the settings."""
    return f'ImageCodec({self.name})'
