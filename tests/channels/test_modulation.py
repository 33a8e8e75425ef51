"""Modulation and fading, against closed forms and komm."""

import functools
import math

import jax
from jax import numpy as jnp
import komm
import numpy as np
import pytest

from collab_jax.channels import fading, modulation, theory


def all_bits(width):
  """Every combination of bits, [2^width width]."""
  return np.arange(1 << width)[:, None] >> np.arange(width) & 1


SNRS = (0.0, 3.0, 6.0, 8.0, 10.0)  # Eb/N0, dB.
BLOCKS, BITS = 30, 3600


@functools.partial(jax.jit, static_argnames=('name', 'kind'))
def errors(key, snr, name, kind):
  """The part of wrong bits in each block."""
  first, second = jax.random.split(key)
  bits = jax.random.bernoulli(first, 0.5, (BLOCKS, BITS)).astype(jnp.int32)
  symbols = modulation.modulate(bits, name)
  heard, noise = fading.transmit(second, symbols, snr, kind)
  llr = modulation.demodulate(heard, noise, name)
  return ((llr < 0) != bits).mean(1)


def measured(name, kind, ratio):
  snr = ratio * modulation.BITS[name]
  return np.asarray(errors(jax.random.key(7), jnp.float32(snr), name, kind))


@pytest.mark.parametrize('name', modulation.BITS)
def test_awgn_follows_the_closed_form(name):
  bits = modulation.BITS[name]
  for db in SNRS:
    ratio = theory.from_db(db)
    rate = theory.ber_awgn(bits, ratio)
    # Bits of a symbol err together: at most `bits` times the variance.
    n = BLOCKS * BITS / (1 if bits <= 2 else bits // 2)
    sigma = math.sqrt(rate * (1 - rate) / n)
    found = measured(name, 'none', ratio).mean()
    assert abs(found - rate) <= 4 * sigma, (db, found, rate)


@pytest.mark.parametrize('name', ['bpsk', 'qpsk'])
def test_rayleigh_follows_the_closed_form(name):
  for db in SNRS:
    ratio = theory.from_db(db)
    rate = theory.ber_rayleigh(ratio)
    sigma = math.sqrt(rate / BLOCKS / BITS * modulation.BITS[name])
    found = measured(name, 'fast', ratio).mean()
    assert abs(found - rate) <= 4 * sigma, (db, found, rate)


def test_block_fading_has_the_same_mean_and_comes_in_blocks():
  ratio = theory.from_db(5.0)
  keys = jax.random.split(jax.random.key(3), 10)
  run = functools.partial(errors, name='bpsk', kind='block')
  found = np.concatenate([run(k, jnp.float32(ratio)) for k in keys])
  rate = theory.ber_rayleigh(ratio)
  # Q(sqrt(2 g)) of an exponential g: its mean square by numbers.
  gains = -np.log1p(-(np.arange(4000) + 0.5) / 4000) * ratio
  square = np.mean([theory.q(math.sqrt(2 * g)) ** 2 for g in gains])
  sigma = math.sqrt((square - rate**2) / found.size)
  assert abs(found.mean() - rate) <= 4 * sigma
  assert found.std() > 3 * math.sqrt(rate / BITS)


def test_formulas_known_by_heart():
  for db in (0.0, 7.0):
    g = theory.from_db(db)
    q = theory.q(math.sqrt(2 * g))
    assert theory.ber_awgn(1, g) == pytest.approx(q)
    assert theory.ber_awgn(2, g) == pytest.approx(q)
    a = math.sqrt(0.8 * g)
    # 16-QAM, written out.
    long = 3 * theory.q(a) + 2 * theory.q(3 * a) - theory.q(5 * a)
    assert theory.ber_awgn(4, g) == pytest.approx(long / 4)
  assert theory.capacity(1.0) == 1.0
  assert theory.capacity(3.0) == 2.0


@pytest.mark.parametrize(
  ('name', 'constellation', 'labeling'),
  [
    ('bpsk', komm.PSKConstellation(2), komm.ReflectedLabeling(1)),
    ('qpsk', komm.QAMConstellation(4), komm.ReflectedRectangularLabeling(2)),
    ('16qam', komm.QAMConstellation(16), komm.ReflectedRectangularLabeling(4)),
    ('64qam', komm.QAMConstellation(64), komm.ReflectedRectangularLabeling(6)),
  ],
)
def test_komm_agrees(name, constellation, labeling):
  width = modulation.BITS[name]
  every = all_bits(width)
  ours = np.asarray(modulation.modulate(jnp.asarray(every), name))[:, 0]
  assert np.mean(np.abs(ours) ** 2) == pytest.approx(1, abs=1e-6)
  # The same points, and neighbours differ in one bit in both labellings.
  points = constellation.matrix[:, 0] / math.sqrt(constellation.mean_energy())
  assert np.abs(ours[:, None] - points).min(1).max() < 1e-6
  assert np.abs(ours[:, None] - points).min(0).max() < 1e-6
  place = np.abs(ours[:, None] - points).argmin(1)
  theirs = np.asarray(labeling.indices_to_bits(np.arange(1 << width)))
  theirs = theirs.reshape(-1, width)[place]
  for labels in (every, theirs):
    away = np.abs(ours[:, None] - ours)
    near = np.isclose(away, away[away > 1e-6].min(), atol=1e-5)
    differ = (labels[:, None] != labels).sum(-1)
    assert set(differ[near]) == {1}
  # Signs of the likelihoods: komm's nearest point has the bits decided.
  rng = np.random.default_rng(0)
  heard = (rng.normal(size=200) + 1j * rng.normal(size=200)) * 0.9
  llr = modulation.demodulate(
    jnp.asarray(heard, jnp.complex64), jnp.float32(0.3), name
  )
  scale = math.sqrt(constellation.mean_energy())
  nearest = constellation.closest_indices(heard * scale)
  back = np.empty(1 << width, int)
  back[place] = np.arange(1 << width)
  decided = (np.asarray(llr).reshape(200, width) < 0).astype(int)
  np.testing.assert_array_equal(decided, every[back[nearest]])


def test_likelihoods_are_exact_for_qpsk_and_close_for_16_qam():
  rng = np.random.default_rng(1)
  heard = jnp.asarray(rng.normal(size=50) + 1j * rng.normal(size=50))
  noise = 0.2
  for name, tolerance in (('qpsk', 1e-3), ('16qam', 2.1 * math.log(2))):
    width = modulation.BITS[name]
    every = np.array(
      [[i >> b & 1 for b in range(width)] for i in range(1 << width)]
    )
    points = np.asarray(modulation.modulate(jnp.asarray(every), name))[:, 0]
    density = np.exp(
      -(np.abs(np.asarray(heard)[:, None] - points) ** 2) / noise
    )
    llr = modulation.demodulate(
      heard.astype(jnp.complex64), jnp.float32(noise), name
    ).reshape(50, width)
    for bit in range(width):
      zero = density[:, every[:, bit] == 0].sum(1)
      one = density[:, every[:, bit] == 1].sum(1)
      away = np.abs(np.asarray(llr)[:, bit] - np.log(zero / one))
      assert away.max() < tolerance
