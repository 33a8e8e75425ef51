"""Codec behind a channel: its messages as packets, some of them lost."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from collab_jax import _validate, channels, registry, sharding, wire
from collab_jax import message as messages
from collab_jax.codecs import base, transports, unlike_pictures
from collab_jax.codecs.transports import base as transport_base
from collab_jax.models import paligemma


@dataclasses.dataclass(frozen=True)
class LinkSpec(base.CodecSpec):
  """Settings of a `Link`.

  ::

    spec = LinkSpec(
      codecs.parse('kmeans(k=8)'),
      transports.make('rows(parity=2)'),
      channels.make('erasure(p=0.4)'),
    )

  Attributes:
    codec: Spec of the codec.
    transport: How messages are cut into packets.
    channel: The channel.
  """

  codec: base.CodecSpec
  transport: transport_base.Transport
  channel: channels.Channel

  @property
  def name(self) -> str:
    """The link's canonical name."""
    through = transports.name(self.transport), channels.name(self.channel)
    return ' | '.join((self.codec.name, *through))

  @property
  def uses_key(self) -> bool | None:
    """Whether another seed may give other captions."""
    return True if self.channel.random else self.codec.uses_key

  @property
  def server_encodes(self) -> bool:
    """Whether the server runs the image encoder."""
    return self.codec.server_encodes

  def bind(self, model: paligemma.Model) -> 'Link':
    """Returns the link of a model; see `Link`."""
    return Link(self.codec.bind(model), self.channel, self.transport)

  def validate(
    self,
    config: paligemma.Config,
    load_encoder: Callable[[], paligemma.Model] | None = None,
  ) -> 'LinkSpec':
    """Checks the codec, and that its messages can cross the channel."""
    codec = self.codec.validate(config, load_encoder)
    transports.check(self.transport, codec.layout(config), self.channel)
    return dataclasses.replace(self, codec=codec)


class Link(base.Codec):
  """Codec behind a channel; stands where a codec stands.

  ::

    link = cj.Link(codec, 'erasure(p=0.4)', 'rows(parity=2)')
    sent = link.encode_batch(images, jax.random.key(0), ids).messages
    received = [link.transmit(p, 0, i)[0] for p, i in zip(sent, ids)]
    decoded = link.decode_batch(received)

  Its messages are `Packets`. Losses and noise are deterministic per (seed,
  image id), so they do not depend on batching, and links of one channel lose
  the same packets.

  Attributes:
    codec: Makes and reads the messages.
    channel: Carries the packets.
    transport: How messages are cut into packets.
    name: Canonical short name, unique among different settings.
    split: The codec's.
    sent: The codec's.
    vectors: The codec's.
    uses_key: Whether another seed may give other captions.
  """

  def __init__(
    self,
    codec: base.Codec,
    channel: str | channels.Channel,
    by: str | transport_base.Transport = 'whole',
  ):
    """Joins a codec and a channel.

    Args:
      codec: A codec, not a link itself.
      channel: A channel, or its name and settings: 'erasure(p=0.4)'.
      by: How messages are cut into packets, 'whole', 'whole(mtu=100)',
        'rows(per_packet=2)' or 'analog'; see `codecs.transports`.

    Raises:
      TypeError: It is no codec.
      ValueError: There is no such channel or transport, it is not for this
        codec, or that is a link.
    """
    base.check_codec('codec', codec)
    if codec.channel:
      raise _validate.error(
        'codec', codec, 'a codec that is not a link', 'give link.codec'
      )
    if isinstance(channel, str):
      channel = channels.make(channel)
    if isinstance(by, str):
      by = transports.make(by)
    self.codec = codec
    self.channel: Any = channel
    self.transport = by
    self.model = codec.model
    self._packetizer = by.bind(codec, channel)
    self.split = codec.split
    self.sent, self.vectors = codec.sent, codec.vectors
    self.uses_key = codec.uses_key or channel.random
    self.spec = LinkSpec(codec.spec, by, channel)

  @property
  def programs(self) -> Any:
    """Programs of the codec, and the transport: lost rows are concealed."""
    return self.codec.programs, transports.name(self.transport)

  @functools.cached_property
  def settings(self) -> dict[str, Any]:
    """All settings as nested plain values: the codec's, and the link's."""
    return {
      **self.codec.settings,
      **{
        'transport': registry.settings(
          transports.NAMES, 'transport', self.transport
        ),
        'channel': registry.settings(channels.NAMES, 'channel', self.channel),
      },
    }

  def describe(self) -> dict[str, Any]:
    """Returns the settings as flat plain values, for records and tables."""
    return {
      **self.codec.describe(),
      'transport': transports.name(self.transport),
      'channel': channels.name(self.channel),
    }

  def encode(
    self,
    images: base.Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
  ) -> list[transport_base.Packets]:
    """Turns pictures into packets; see `Codec.encode`."""
    encoded = self.encode_batch(images, key, image_ids)
    if encoded.unlike is not None and encoded.unlike.any():
      unlike_pictures.warn(self.model)
    return encoded.messages

  def encode_batch(
    self,
    images: base.Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    cache: base.FeatureCache | None = None,
    pack: Callable[[Any], list[Any]] | None = None,
  ) -> base.Encoded:
    """Encodes a batch and times the stages; see `Codec.encode_batch`."""
    pack = pack or self.pack
    return self.codec.encode_batch(images, key, image_ids, cache, pack)

  def dispatch_encode(
    self,
    images: base.Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    cache: base.FeatureCache | None = None,
    pack: Callable[[Any], list[Any]] | None = None,
  ) -> Callable[[], base.Encoded]:
    """Dispatches the device's part; see `Codec.dispatch_encode`."""
    pack = pack or self.pack
    return self.codec.dispatch_encode(images, key, image_ids, cache, pack)

  def prefetch(self, images: base.Images, cache: base.FeatureCache) -> None:
    """Computes what the codec will take from a cache."""
    self.codec.prefetch(images, cache)

  def unpack(self, message: bytes) -> Any:
    """Unpacks a message of the codec, as it is without packets."""
    return self.codec.unpack(message)

  def pack(self, batch: Any) -> list[transport_base.Packets]:
    """Cuts a batch into packets: quantized arrays with an axis B, or bytes."""
    return self._packetizer.pack(batch)

  def transmit(
    self, message: transport_base.Packets, seed: int, image_id: int
  ) -> tuple[transport_base.Packets, transport_base.DeliveryStats]:
    """Sends the packets of one picture.

    Args:
      message: The packets.
      seed: All chance comes from it and `image_id`.
      image_id: The picture's.

    Returns:
      What arrived, and statistics.
    """
    words = [seed & 0xFFFFFFFF, image_id & 0xFFFFFFFFFFFFFFFF]
    return self._packetizer.transmit(message, np.random.default_rng(words))

  def decode_batch(
    self, data: Sequence[transport_base.Packets]
  ) -> base.Decoded:
    """Decodes what arrived of a batch; never fails for what arrived."""
    return Link.prepare_decode(self, data)()

  def prepare_decode(
    self, data: Sequence[transport_base.Packets]
  ) -> Callable[[], base.Decoded]:
    """Reads packets and unpacks messages; see `Codec.prepare_decode`."""
    received = self._packetizer.unpack(data)
    if isinstance(received, wire.Received):
      return functools.partial(self._decode_rows, received)
    unpacked = [None if m is None else self._unpack(m) for m in received]
    arrived = [message is not None for message in unpacked]
    if any(arrived):
      # Another message stands in for a lost one; nobody reads its caption.
      filler = unpacked[arrived.index(True)]
    elif self._spans_processes:
      filler = self._blank  # Others run the programs, which need all.
    else:
      return lambda: base.Decoded(None, None, arrived, [0.0] * len(data))
    filled = [filler if message is None else message for message in unpacked]

    def decode():
      decoded = self.codec.decode_unpacked(filled)
      return decoded._replace(arrived=arrived, rows=list(map(float, arrived)))

    return decode

  def _decode_rows(self, received: wire.Received) -> base.Decoded:
    arrived = received.whole.tolist()
    if not any(arrived) and not self._spans_processes:
      return base.Decoded(None, None, arrived, [0.0] * len(arrived))
    rows = np.where(received.whole[:, None], received.rows, True)
    codec: Any = self.codec  # Transports of rows take a `FeatureCodec` only.
    tokens, prefix = codec.rebuild_message(
      received.message, rows, received.layers
    )
    return base.Decoded(prefix, tokens, arrived, received.rows.mean(1).tolist())

  @property
  def _spans_processes(self) -> bool:
    """Whether the model's devices are those of several processes."""
    mesh = sharding.mesh_of(self.model.params)
    return sharding.spans_processes(mesh)

  @functools.cached_property
  def _blank(self) -> Any:
    return self.codec.blank()

  def _unpack(self, message: bytes) -> Any:
    """Returns an unpacked message; None if it is unreadable or cut short."""
    try:
      unpacked = self.codec.unpack(message)
    except wire.FormatError:
      return None
    whole = self.codec.layers_of(unpacked) == self.codec.layers
    return unpacked if whole else None

  def sizes(self, message: transport_base.Packets) -> dict[str, int]:
    """Returns bytes by field, with headers and redundancy as 'packets'."""
    total = sum(len(p) for p in message.packets if p is not None)
    overhead = total - sum(message.sizes.values())
    sizes = {n: s for n, s in message.sizes.items() if n != 'packets'}
    overhead += message.sizes.get('packets', 0)
    return {**sizes, 'packets': overhead} if overhead else sizes

  def features(self, images: Any) -> Any:
    """Returns the codec's features, shared by links of one model and split."""
    codec: Any = self.codec
    return codec.features(images)

  def warm_up(self, batch_size: int) -> messages.Prefix:
    """Compiles what a batch needs by running it on black pictures."""
    return self.decode(self.pack(self.blank_batch(batch_size)))

  def blank(self, layers: int | None = None) -> Any:
    """Returns the codec's unpacked message of a black picture."""
    return self.codec.blank(layers)

  def blank_batch(self, batch_size: int) -> Any:
    """Returns the codec's batch of black pictures, as `pack` takes it."""
    return self.codec.blank_batch(batch_size)

  def __repr__(self) -> str:
    """Shows the settings."""
    return f'Link({self.name})'
