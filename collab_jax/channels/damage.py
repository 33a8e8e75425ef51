"""Channels that flip bits or lose packets."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from collab_jax import _validate
from collab_jax.channels import base


@dataclasses.dataclass(frozen=True)
class _Bernoulli(base.RateLimited):
  """Link with independent events of equal probability.

  Attributes:
    p: The probability.
  """

  p: float | int = 0.0

  def __post_init__(self):
    super().__post_init__()
    _validate.number('p', self.p, 0.0, 1.0)

  @property
  def random(self) -> bool:
    """Whether events or jitter are possible."""
    return self.p > 0 or super().random


@dataclasses.dataclass(frozen=True)
class BitErrors(_Bernoulli):
  """Flips every bit with the same probability, independently.

  A binary symmetric channel: nothing is lost, and wrong bits are found by
  checksums only.

  Attributes:
    p: Probability that a bit is flipped.
  """

  def _pass(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> Sequence[bytes | None]:
    return [self._flip(packet, rng) for packet in packets]

  def _flip(self, packet: bytes, rng: np.random.Generator) -> bytes:
    flips = np.packbits(rng.random(8 * len(packet)) < self.p)
    return (np.frombuffer(packet, np.uint8) ^ flips).tobytes()


@dataclasses.dataclass(frozen=True)
class Erasure(_Bernoulli):
  """Loses every packet with the same probability, independently.

  Attributes:
    p: Probability that a packet is lost.
  """

  def _pass(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> Sequence[bytes | None]:
    lost = rng.random(len(packets)) < self.p
    return [None if bad else p for p, bad in zip(packets, lost, strict=True)]


@dataclasses.dataclass(frozen=True)
class GilbertElliott(base.RateLimited):
  """Loses packets in bursts: a Markov chain of a good and a bad state.

  The state of the first packet is drawn from the stationary distribution;
  between packets it changes with the probabilities below.

  Attributes:
    to_bad: Probability that the bad state follows the good one.
    to_good: Probability that the good state follows the bad one; bad states
      last 1 / to_good packets on average.
    good: Probability that a packet is lost in the good state.
    bad: Probability that a packet is lost in the bad state.

  Source: Gilbert 1960 (good = 0); Elliott 1963.
  """

  to_bad: float | int = 0.1
  to_good: float | int = 0.5
  good: float | int = 0.0
  bad: float | int = 1.0

  def __post_init__(self):
    super().__post_init__()
    for name in ('to_bad', 'to_good', 'good', 'bad'):
      _validate.number(name, getattr(self, name), 0.0, 1.0)
    if not self.to_bad + self.to_good:
      raise ValueError(
        'to_bad and to_good: both are 0, expected one above 0: the chain has no'
        ' stationary distribution'
      )

  @property
  def random(self) -> bool:
    """True: the state is drawn."""
    return True

  @property
  def share_bad(self) -> float:
    """Share of packets in the bad state."""
    return self.to_bad / (self.to_bad + self.to_good)

  @property
  def loss(self) -> float:
    """Share of lost packets."""
    return self.share_bad * self.bad + (1 - self.share_bad) * self.good

  def _pass(
    self, packets: Sequence[bytes], rng: np.random.Generator
  ) -> Sequence[bytes | None]:
    draws = rng.random((len(packets), 2))
    arrived: list[bytes | None] = []
    bad = None
    for packet, (change, loss) in zip(packets, draws, strict=True):
      if bad is None:
        bad = change < self.share_bad
      elif bad:
        bad = change >= self.to_good
      else:
        bad = change < self.to_bad
      lost = loss < (self.bad if bad else self.good)
      arrived.append(None if lost else packet)
    return arrived
