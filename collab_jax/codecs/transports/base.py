"""Interface of transports: messages as packets, and packets over a channel."""

import abc
from collections.abc import Mapping, Sequence
import types
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from collab_jax import channels, wire
from collab_jax import message as messages


class Packets(NamedTuple):
  """Packets of one picture, as sent or as received.

  Attributes:
    packets: Bytes; None for a packet that never arrived.
    values: Vectors that are sent as they are, by field; see `analog.Analog`.
    sizes: Bytes of the message by field, without headers and parity.
  """

  packets: list[bytes | None]
  values: Mapping[str, np.ndarray] = types.MappingProxyType({})
  sizes: Mapping[str, int] = types.MappingProxyType({})


class DeliveryStats(NamedTuple):
  """Delivery statistics of the packets of one picture.

  Attributes:
    packets: Number sent.
    lost: Number of those that never arrived.
    seconds: Until the last one arrived or was given up.
    airtime: Seconds during which the sender was sending.
  """

  packets: int
  lost: int
  seconds: float
  airtime: float


class MessageLayout(NamedTuple):
  """Fields and sizes of a codec's messages, known without a model's weights.

  Attributes:
    name: The codec's name.
    sent: Number of vectors sent per image.
    fields: Fields of a message by name; none if it holds no vectors.
    rows: Names of the fields with a row for every vector that is sent.
    length: Bytes of every message, if all have one length.
    largest: Bytes of the message of a picture of noise, which no other exceeds
      by much; None if that is unknown.
  """

  name: str
  sent: int = 0
  fields: Mapping[str, messages.Field] = types.MappingProxyType({})
  rows: tuple[str, ...] = ()
  length: int | None = None
  largest: int | None = None


class Packetizer(abc.ABC):
  """Carries the messages of one codec over one channel.

  Attributes:
    channel: The channel, which packets cross in their order.
  """

  def __init__(self, channel: channels.Channel):
    """Binds a channel."""
    self.channel = channel

  @abc.abstractmethod
  def pack(self, batch: Any) -> list[Packets]:
    """Packs a batch: arrays with an axis B, or a list of messages."""

  @abc.abstractmethod
  def unpack(
    self, received: Sequence[Packets]
  ) -> list[bytes | None] | wire.Received:
    """Returns the messages: as bytes, None where lost, or as arrays."""

  def transmit(
    self, packets: Packets, rng: np.random.Generator
  ) -> tuple[Packets, DeliveryStats]:
    """Sends the packets of one picture; returns what arrived."""
    sent = [p for p in packets.packets if p is not None]
    deliveries = self.channel.send(sent, rng)
    stats = DeliveryStats(
      packets=len(deliveries),
      lost=sum(d.data is None for d in deliveries),
      seconds=max((d.seconds for d in deliveries), default=0.0),
      airtime=sum(d.airtime for d in deliveries),
    )
    return Packets([d.data for d in deliveries]), stats


@runtime_checkable
class Transport(Protocol):
  """Settings of a transport: a frozen dataclass of plain values.

  A transport of this package has a method `check(layout, channel)` too, which
  needs no model.
  """

  def bind(self, codec: Any, channel: channels.Channel) -> Packetizer:
    """Returns a packetizer of a codec's messages.

    Raises:
      ValueError: The codec or the channel is not for this transport.
    """
    ...


def check_vectors(transport: str, layout: MessageLayout) -> None:
  """Raises ValueError unless the codec sends vectors."""
  if not layout.fields:
    raise ValueError(
      f'{transport}: {layout.name} has no vectors to send, expected a'
      " FeatureCodec; use the transport 'whole'"
    )
