"""Links that lose and damage: their statistics, and what they are called."""

import dataclasses
import math

import jaxtyping
import numpy as np
import pytest

from collab_jax import channels


@dataclasses.dataclass(frozen=True)
class Mute(channels.RateLimited):
  quiet: int = 1


PACKETS = [b'\0' * 3] * 40_000


def within(measured, expected, sigma, times=4):
  assert abs(measured - expected) <= times * sigma, (measured, expected, sigma)


@pytest.mark.parametrize('p', [0.001, 0.01, 0.1, 0.5, 0.9])
def test_bits_are_flipped_at_the_rate(p):
  data = bytes(40_000)
  got = channels.BitErrors(p=p).transmit(data, np.random.default_rng(0))
  assert got.lost == 0
  assert len(got.data) == len(data)
  ones = np.unpackbits(np.frombuffer(got.data, np.uint8))
  within(ones.mean(), p, math.sqrt(p * (1 - p) / ones.size))


@pytest.mark.parametrize('p', [0.05, 0.1, 0.2, 0.4, 0.6])
def test_packets_are_lost_at_the_rate_and_alone(p):
  sent = channels.Erasure(p=p).send(PACKETS, np.random.default_rng(1))
  lost = np.array([d.data is None for d in sent])
  assert all(d.lost == (d.data is None) for d in sent)
  n = len(lost)
  within(lost.mean(), p, math.sqrt(p * (1 - p) / n))
  both = (lost[1:] & lost[:-1]).mean()
  # Neighbouring pairs share packets: the variance of their mean.
  variance = p**2 * (1 - p**2) + 2 * p**3 * (1 - p)
  within(both, p**2, math.sqrt(variance / n))


@pytest.mark.parametrize(
  'settings',
  [
    (0.1, 0.5, 0.0, 1.0),
    (0.02, 0.1, 0.0, 1.0),
    (0.3, 0.3, 0.0, 1.0),
    (0.4, 0.6, 0.1, 0.9),
    (0.05, 0.2, 0.01, 0.5),
  ],
)
def test_bursts(settings):
  channel = channels.GilbertElliott(*[0.0] * 3, *settings)
  to_bad, to_good, good, bad = settings
  rng = np.random.default_rng(2)
  lost = np.array([d.data is None for d in channel.send(PACKETS, rng)])
  n, share, loss = len(lost), channel.share_bad, channel.loss
  assert share == pytest.approx(to_bad / (to_bad + to_good))
  # Losses k packets apart are correlated by (1 - to_bad - to_good)^k.
  stay = 1 - to_bad - to_good
  spread = share * (1 - share) * (bad - good) ** 2
  variance = loss * (1 - loss) + 2 * spread * stay / (1 - stay)
  within(lost.mean(), loss, math.sqrt(variance / n))
  if (good, bad) == (0.0, 1.0):
    edges = np.flatnonzero(np.diff(np.r_[False, lost, False].astype(int)))
    bursts = np.diff(edges)[::2]
    mean, sigma = 1 / to_good, math.sqrt(1 - to_good) / to_good
    within(bursts.mean(), mean, sigma / math.sqrt(len(bursts)))


def test_the_first_packet_meets_the_stationary_state():
  channel = channels.GilbertElliott(to_bad=0.1, to_good=0.3)
  rng = np.random.default_rng(3)
  lost = np.mean([channel.transmit(b'a', rng).lost for _ in range(4000)])
  within(lost, 0.25, math.sqrt(0.25 * 0.75 / 4000))


def test_time_on_a_link():
  channel = channels.RateLimited(rate=8000, delay=0.5)
  got = channel.send([b'a' * 100, b'b' * 300], np.random.default_rng(0))
  assert [d.data for d in got] == [b'a' * 100, b'b' * 300]
  assert [d.airtime for d in got] == [0.1, 0.3]
  assert [d.seconds for d in got] == pytest.approx([0.6, 0.9])
  assert not channel.random
  late = channels.RateLimited(delay=1.0, jitter=0.2)
  assert late.random
  rng = np.random.default_rng(0)
  seconds = [late.transmit(b'', rng).seconds for _ in range(1000)]
  assert min(seconds) >= 1.0
  assert max(seconds) < 1.2
  within(np.mean(seconds), 1.1, 0.2 / math.sqrt(12 * 1000))


def test_losing_channels_keep_time_too():
  channel = channels.make('erasure(p=1,rate=8000)')
  got = channel.transmit(b'a' * 1000, np.random.default_rng(0))
  assert got == channels.Delivery(None, 1, 1.0, 1.0)


def test_ideal():
  got = channels.Ideal().send([b'a', b''], np.random.default_rng(0))
  assert got == [channels.Delivery(d, 0, 0.0) for d in (b'a', b'')]
  assert not channels.Ideal().random


@pytest.mark.parametrize('name', channels.NAMES)
def test_every_channel_keeps_the_contract(name):
  channel = channels.make(name)
  assert isinstance(channel, channels.Channel)
  assert channels.make(channels.name(channel)) == channel
  assert {channel: 1}[channels.make(name)] == 1
  packets = [b'', b'abc', bytes(range(256))]
  one = channel.send(packets, np.random.default_rng(5))
  two = channel.send(packets, np.random.default_rng(5))
  assert one == two
  assert len(one) == 3
  alone = channel.transmit(packets[1], np.random.default_rng(5))
  assert isinstance(alone, channels.Delivery)
  assert channel.send([], np.random.default_rng(5)) == []


def test_names():
  channel = channels.make('erasure(p=0.4,rate=1e6)')
  assert channel == channels.Erasure(p=0.4, rate=1e6)
  assert channels.name(channel) == 'erasure(rate=1000000.0,p=0.4)'
  assert channels.make('physical', snr=3).snr == 3
  assert channels.make(f'{__name__}:Mute').quiet == 1


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('erazure', "channel: got 'erazure'; did you mean 'erasure'"),
    ('erasure(q=1)', "field of erasure: got 'q'"),
    ('erasure(p=1.5)', 'p: got 1.5, expected a number from 0 to 1'),
    ('erasure(p=half)', "p: got 'half', expected a number"),
    ('erasure(0.4)', 'channel: got .* expected'),
    ('rate_limited(rate=-1)', 'rate: got -1, expected a number of at least 0'),
    ('gilbert_elliott(to_bad=0,to_good=0)', 'both are 0'),
    ('physical(modulation=8psk)', "modulation: got '8psk', expected one of"),
    ('physical(code=5/6)', "code: got '5/6', expected one of none, 1/2"),
    ('physical(length=100)', 'length: got 100, expected one of'),
    ('physical(retries=1.5)', 'retries: got 1.5, expected an integer'),
    ('math:sqrt', "channel: got 'math:sqrt', expected a frozen dataclass"),
  ],
)
def test_mistakes_are_told(text, said):
  # As it is for a user, whose signatures are not checked.
  jaxtyping.config.update('jaxtyping_disable', True)
  try:
    with pytest.raises(ValueError, match=said):
      channels.make(text)
  finally:
    jaxtyping.config.update('jaxtyping_disable', False)


def test_cost():
  budget = channels.Budget(
    edge=10, server=0.5, edge_watts=4, radio_watts=2, idle_watts=1
  )
  cost = budget.cost(compute=0.1, link=0.7, airtime=0.3, serve=0.4)
  assert cost[:3] == pytest.approx((10 * 0.1, 0.7, 0.5 * 0.4))
  assert cost.seconds == pytest.approx(sum(cost[:3]))
  assert cost.joules == pytest.approx(4 * 1.0 + 2 * 0.3 + 1 * (0.7 + 0.2))
  with pytest.raises(ValueError, match='edge_watts: got -1'):
    channels.Budget(edge_watts=-1)
