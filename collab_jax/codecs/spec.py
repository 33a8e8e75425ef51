"""What transports ask of a codec, known before a model is there."""

import dataclasses
import functools

from collab_jax import channels, quantizers, wire
from collab_jax import message as messages
from collab_jax.codecs import image
from collab_jax.codecs.image_files import formats
from collab_jax.codecs.transports import (
  base,
  names,
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """A `FeatureCodec` that has no model yet.

  Attributes:
    quantizer: What is kept of the features.
    vectors: Number of vectors per image.
    width: Numbers per vector.
  """

  quantizer: quantizers.Quantizer
  vectors: int
  width: int

  @property
  def name(self) -> str:
    """The codec's, without the split."""
    return quantizers.name(self.quantizer)

  @property
  def sent(self) -> int:
    """Number of vectors sent per image."""
    return self.quantizer.sent(self.vectors)

  @functools.cached_property
  def fields(self) -> dict[str, messages.Field]:
    """What a message holds, by name."""
    return dict(self.quantizer.fields(self.vectors, self.width))

  @functools.cached_property
  def session(self) -> wire.Session:
    """How long messages are."""
    return wire.Session(self.fields, coding='fixed')

  @property
  def rows(self) -> tuple[str, ...]:
    """Names of the fields with a row for every vector that is sent."""
    return quantizers.row_fields(self.quantizer, self.vectors, self.width)


@dataclasses.dataclass(frozen=True)
class PicturePlan:
  """An `ImageCodec` that has no model yet.

  Attributes:
    settings: How the picture is coded.
    side: Of the model's pictures, in pixels.
  """

  settings: image.ImageSettings
  side: int

  @property
  def name(self) -> str:
    """The codec's."""
    return self.settings.at(self.side).name

  @property
  def largest(self) -> int:
    """Bytes of a message of noise, as of the codec."""
    own = self.settings
    size = own.size or self.side
    made = formats.known(own.kind, own.quality, size, own.chroma)
    return made.largest(own.strip)


def check(
  codec: Plan | PicturePlan,
  channel: channels.Channel,
  by: base.Transport,
) -> None:
  """Checks that a codec's messages can cross a channel.

  Args:
    codec: What there will be.
    channel: The channel.
    by: The transport; one that is not of this package may ask a codec for
      more, and is left to `Link`.

  Raises:
    ValueError: The transport is not for this codec or channel.
  """
  if isinstance(by, tuple(names.NAMES.values())):
    by.bind(codec, channel)
