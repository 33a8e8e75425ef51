"""What carries the messages of a codec over a channel."""

import abc
from collections.abc import Mapping, Sequence
import types
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from collab_jax import channels, wire


class Packets(NamedTuple):
  """What is sent for one picture, or what arrived of it.

  Attributes:
    packets: Bytes; None for a packet that never arrived.
    values: Vectors that are sent as they are, by field; see `analog.Analog`.
    sizes: Bytes of the message by field, without headers and parity.
  """

  packets: list[bytes | None]
  values: Mapping[str, np.ndarray] = types.MappingProxyType({})
  sizes: Mapping[str, int] = types.MappingProxyType({})


class DeliveryStats(NamedTuple):
  """What happened on the link to the packets of one picture.

  Attributes:
    packets: Number sent.
    lost: Number of those that never arrived.
    seconds: Until the last was there, or was given up.
    airtime: How long the sender was sending.
  """

  packets: int
  lost: int
  seconds: float
  airtime: float


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
    """What is sent of messages: arrays with an axis B, or a list of bytes."""

  @abc.abstractmethod
  def unpack(
    self, parcels: Sequence[Packets]
  ) -> list[bytes | None] | wire.Received:
    """The messages again: as bytes, None where lost, or as arrays."""

  def transmit(
    self, parcel: Packets, rng: np.random.Generator
  ) -> tuple[Packets, DeliveryStats]:
    """Sends the packets of one picture; returns what arrived."""
    packets = [p for p in parcel.packets if p is not None]
    got = self.channel.send(packets, rng)
    fate = DeliveryStats(
      packets=len(got),
      lost=sum(d.data is None for d in got),
      seconds=max((d.seconds for d in got), default=0.0),
      airtime=sum(d.airtime for d in got),
    )
    return Packets([d.data for d in got]), fate


@runtime_checkable
class Transport(Protocol):
  """Plain settings, a frozen dataclass."""

  def bind(self, codec: Any, channel: channels.Channel) -> Packetizer:
    """Returns a carrier of a codec's messages.

    Raises:
      ValueError: The codec or the channel is not for this transport.
    """
    ...


def check_features(name: str, codec: Any) -> None:
  """Raises ValueError unless the codec sends vectors."""
  if not hasattr(codec, 'quantizer'):
    raise ValueError(
      f'{name}: {codec.name} has no vectors to send, expected a FeatureCodec;'
      " use the transport 'whole'"
    )
