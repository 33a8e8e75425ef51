"""What a channel is, and what comes out of it."""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from collab_jax import _validate


class Delivery(NamedTuple):
  """What became of one packet.

  Attributes:
    data: What arrived; None if nothing did, or nothing that can be trusted.
    lost: Pieces that never arrived: 1 for a lost packet, or the number of
      blocks that a physical layer gave up.
    seconds: From the first bit of the first packet sent with it until this
      one was there, or was given up.
    airtime: How long the sender was sending it, again and again included.
  """

  data: bytes | None
  lost: int
  seconds: float
  airtime: float | int = 0.0


@runtime_checkable
class Channel(Protocol):
  """Carries bytes, and may lose, damage or delay them.

  An implementation is a frozen dataclass of plain values. All chance comes
  from the generator that a call is given, so that a message meets the same
  fate in any company.

  Attributes:
    random: False if what arrives, and when, does not depend on the generator.
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
    """Sends packets one after the other: what one meets, the next may too."""
    ...


@dataclasses.dataclass(frozen=True)
class RateLimited:
  """A link that delivers everything, in time.

  A packet leaves when the one before it has left, takes 8 * bytes / rate
  seconds, and arrives `delay` and a uniform draw from [0, jitter) later.
  Packets may overtake each other.

  Attributes:
    rate: Bits per second; 0 for no limit.
    delay: Seconds on the way.
    jitter: Largest further delay, in seconds.
  """

  rate: float | int = 0.0
  delay: float | int = 0.0
  jitter: float | int = 0.0

  def __post_init__(self):
    for name in ('rate', 'delay', 'jitter'):
      _validate.number(name, getattr(self, name), 0.0)

  @property
  def random(self) -> bool:
    """Only the jitter is drawn."""
    return self.jitter > 0

  def airtime(self, size: float | int) -> float:
    """Seconds that a packet of so many bytes takes to be sent."""
    return 8 * size / self.rate if self.rate else 0.0

  def transmit(self, data: bytes, rng: np.random.Generator) -> Delivery:
    """Sends one packet."""
    return self.send([data], rng)[0]

  def send(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> list[Delivery]:
    """Sends packets one after the other."""
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
    """What arrives of each packet; subclasses lose and damage here."""
    del rng
    return packets


@dataclasses.dataclass(frozen=True)
class Ideal:
  """Delivers everything at once."""

  @property
  def random(self) -> bool:
    """Nothing is drawn."""
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
