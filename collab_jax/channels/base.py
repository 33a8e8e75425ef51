"""Interface of channels, their deliveries, and channels without loss."""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from collab_jax import _validate


class Delivery(NamedTuple):
  """Outcome of sending a packet.

  Attributes:
    data: The received bytes; None for a lost packet, or one whose checksum is
      wrong.
    lost: Lost pieces: 1 for a lost packet, or the number of blocks that a
      physical layer gave up.
    seconds: Time from the first bit of the first packet of the same `send`
      until this packet was received, or given up.
    airtime: Seconds of transmission, retransmissions included.
  """

  data: bytes | None
  lost: int
  seconds: float
  airtime: float | int = 0.0


@runtime_checkable
class Channel(Protocol):
  """Carries bytes, and may lose, damage or delay them.

  An implementation is a frozen dataclass of plain values. All randomness comes
  from the generator of a call, so that deliveries do not depend on other
  messages.

  Attributes:
    random: False if deliveries do not depend on the generator.
  """

  @property
  def random(self) -> bool:
    """Whether another generator may give another delivery."""
    ...

  def transmit(self, data: bytes, rng: np.random.Generator) -> Delivery:
    """Sends one packet."""
    ...

  def send(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> list[Delivery]:
    """Sends packets in sequence; their losses may be correlated."""
    ...


@dataclasses.dataclass(frozen=True)
class RateLimited:
  """Lossless link of limited rate.

  ```python
  channel = channels.RateLimited(rate=1e6, delay=0.01)
  deliveries = channel.send(packets, np.random.default_rng(0))
  ```

  A packet is sent after the previous one, takes 8 * bytes / rate seconds, and
  arrives `delay` and a uniform draw from [0, jitter) later. Packets may
  overtake each other.

  Attributes:
    rate: Bits per second; 0 for no limit.
    delay: Propagation delay in seconds.
    jitter: Largest further delay in seconds.
  """

  rate: float | int = 0.0
  delay: float | int = 0.0
  jitter: float | int = 0.0

  def __post_init__(self):
    for name in ('rate', 'delay', 'jitter'):
      _validate.number(name, getattr(self, name), 0.0)

  @property
  def random(self) -> bool:
    """Whether there is jitter, which is drawn."""
    return self.jitter > 0

  def airtime(self, size: float | int) -> float:
    """Returns the seconds of transmission of so many bytes."""
    return 8 * size / self.rate if self.rate else 0.0

  def transmit(self, data: bytes, rng: np.random.Generator) -> Delivery:
    """Sends one packet."""
    return self.send([data], rng)[0]

  def send(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> list[Delivery]:
    """Sends packets in sequence."""
    arrived = self._pass(packets, rng)
    late = self.delay + self.jitter * rng.random(len(packets))
    clock, deliveries = 0.0, []
    for packet, data, extra in zip(packets, arrived, late, strict=True):
      airtime = self.airtime(len(packet))
      clock += airtime
      lost = int(data is None)
      deliveries.append(Delivery(data, lost, clock + float(extra), airtime))
    return deliveries

  def _pass(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> Sequence[bytes | None]:
    """Returns the received packets; subclasses lose or damage some."""
    del rng
    return packets


@dataclasses.dataclass(frozen=True)
class Ideal:
  """Delivers everything at once."""

  @property
  def random(self) -> bool:
    """False: nothing is drawn."""
    return False

  def transmit(self, data: bytes, rng: np.random.Generator) -> Delivery:
    """Returns the packet."""
    del rng
    return Delivery(data, 0, 0.0)

  def send(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> list[Delivery]:
    """Returns the packets."""
    return [self.transmit(packet, rng) for packet in packets]
