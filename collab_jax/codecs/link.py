"""A codec, a channel, and how the one's messages cross the other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array
import numpy as np

from collab_jax import channels, wire
from collab_jax import message as messages
from collab_jax.codecs import (
  encoder,
  feature,
)
from collab_jax.codecs.transports import (
  base,
  names,
)


class Rebuilt(NamedTuple):
  """What the server makes of what arrived.

  Attributes:
    tokens: The vectors before the projection; None for pictures.
    prefix: What the captioner reads; anything in the rows of lost messages.
      None if all of them are lost.
    whole: False for a message that is lost: nothing can be made of it.
    rows: The part of its vectors that arrived.
  """

  tokens: messages.Tokens | None
  prefix: messages.Prefix | None
  whole: list[bool]
  rows: list[float]


class Link:
  """A codec behind a channel; stands where a codec stands.

  Attributes:
    codec: What makes and reads the messages.
    channel: What they cross.
    transport: How: 'whole' or in packets.
    name: Canonical short name, unique among different settings.
    split: The codec's.
    sent: The codec's.
    vectors: The codec's.
    uses_key: Whether another seed may give other captions.
  """

  def __init__(
    self,
    codec: Any,
    channel: str | channels.Channel,
    by: str | base.Transport = 'whole',
  ):
    """Joins a codec and a channel.

    Args:
      codec: A `FeatureCodec` or an `ImageCodec`.
      channel: A channel, or its name and settings: 'erasure(p=0.4)'.
      by: How messages are cut into packets, 'whole', 'whole(mtu=100)',
        'rows(per_packet=2)' or 'analog'; see `codecs.transport`.

    Raises:
      ValueError: There is no such channel or transport, or it is not for this
        codec.
    """
    if isinstance(channel, str):
      channel = channels.make(channel)
    if isinstance(by, str):
      by = names.make(by)
    self.codec = codec
    self.channel = channel
    self.transport = by
    self._carrier = by.bind(codec, channel)
    self.split = getattr(codec, 'split', 'encoder')
    self.sent, self.vectors = codec.sent, codec.vectors
    self.uses_key = codec.uses_key or channel.random
    through = (names.name(by), channels.name(channel))
    self.name = ' | '.join((codec.name, *through))

  def describe(self) -> dict[str, Any]:
    """The settings as plain values, for records and tables."""
    return {
      **self.codec.describe(),
      'transport': names.name(self.transport),
      'channel': channels.name(self.channel),
    }

  def pack(self, batch: Any) -> list[base.Packets]:
    """What is sent: for messages as arrays with an axis B, or as bytes."""
    return self._carrier.pack(batch)

  def transmit(
    self, parcel: base.Packets, seed: int, image_id: int
  ) -> tuple[base.Packets, base.DeliveryStats]:
    """Sends the packets of one picture.

    All chance comes from the seed and the picture, so that it does not matter
    which others are sent with it, and links meet the same fate.
    """
    words = [seed & 0xFFFFFFFF, image_id & 0xFFFFFFFFFFFFFFFF]
    return self._carrier.transmit(parcel, np.random.default_rng(words))

  def rebuild(self, parcels: Sequence[base.Packets]) -> Rebuilt:
    """The server's side, for a batch; never fails for what arrived."""
    got = self._carrier.unpack(parcels)
    if isinstance(got, wire.Received):
      if not got.whole.any():
        return _nothing(len(parcels))
      rows = np.where(got.whole[:, None], got.rows, True)
      tokens, prefix = self.codec.rebuild_message(got.message, rows, got.layers)
      shares = got.rows.mean(1).tolist()
      return Rebuilt(tokens, prefix, got.whole.tolist(), shares)
    sound = [None if d is None or not self._sound(d) else d for d in got]
    whole = [d is not None for d in sound]
    # Lost messages are replaced by any other; nobody reads what comes of them.
    filler = next((d for d in sound if d is not None), None)
    if filler is None:
      return _nothing(len(parcels))
    data = [filler if d is None else d for d in sound]
    tokens = None
    if isinstance(self.codec, feature.FeatureCodec):
      tokens, prefix = self.codec.rebuild(data)
    else:
      prefix = self.codec.decode(data)
    return Rebuilt(tokens, prefix, whole, [float(fine) for fine in whole])

  def _sound(self, data: bytes) -> bool:
    try:
      if isinstance(self.codec, feature.FeatureCodec):
        self.codec.check(data)
      else:
        self.codec.pictures([data])
    except wire.FormatError:
      return False
    return True

  def sizes(self, parcel: base.Packets) -> dict[str, int]:
    """Bytes by field, with headers and redundancy as 'packets'."""
    total = sum(len(p) for p in parcel.packets if p is not None)
    extra = total - sum(parcel.sizes.values())
    sizes = {n: s for n, s in parcel.sizes.items() if n != 'packets'}
    extra += parcel.sizes.get('packets', 0)
    return {**sizes, 'packets': extra} if extra else sizes

  def features(self, images: Any) -> Array:
    """The codec's features, which links of one model and split share."""
    return self.codec.features(images)

  def warm_up(self, batch_size: int) -> messages.Prefix:
    """Compiles what a batch needs by running it on zeros; see the codec's."""
    if not isinstance(self.codec, feature.FeatureCodec):
      return self.codec.warm_up(batch_size)
    features, extra = encoder.blank(self.codec, batch_size)
    made = self.codec.quantize(features, jax.random.key(0), None, extra)
    prefix = self.rebuild(self.pack(made)).prefix
    assert prefix is not None  # Nothing was lost.
    return prefix

  def __repr__(self) -> str:
    """Shows the settings."""
    return f'Link({self.name})'


def _nothing(count: int) -> Rebuilt:
  return Rebuilt(None, None, [False] * count, [0.0] * count)
