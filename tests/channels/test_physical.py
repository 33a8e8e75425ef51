"""LDPC codes, the radio link, and numbers sent as they are."""

import itertools
import math

from jax import numpy as jnp
import numpy as np
import pytest

from collab_jax import channels
from collab_jax.channels import analog, ldpc, minsum, theory

CODES = [ldpc.Code(r, n) for r in ldpc.RATES for n in ldpc.LENGTHS]


def gf2_rank(matrix):
  rows = [int(''.join(map(str, row)), 2) for row in matrix]
  rank = 0
  while rows:
    pivot = max(rows)
    rows.remove(pivot)
    if pivot:
      rank += 1
      top = pivot.bit_length() - 1
      rows = [row ^ pivot if row >> top & 1 else row for row in rows]
      rows = [row for row in rows if row]
  return rank


@pytest.mark.parametrize('code', CODES, ids=str)
def test_code_words_fulfil_all_checks(code):
  rng = np.random.default_rng(0)
  bits = rng.integers(0, 2, (6, code.information)).astype(np.uint8)
  words = code.encode(bits)
  matrix = code.matrix().astype(np.float32)  # BLAS adds whole numbers fast.
  np.testing.assert_array_equal(words[:, : code.information], bits)
  assert not (matrix @ words.T % 2).any()
  assert words.shape == (6, code.length)
  top, bottom = map(int, code.rate.split('/'))
  assert code.information * bottom == code.length * top
  np.testing.assert_array_equal(
    code.encode(bits[:1] ^ bits[1:2]), words[:1] ^ words[1:2]
  )
  # No two bits are in two checks together: no cycles of length 4.
  shared = matrix.T @ matrix
  assert shared[~np.eye(code.length, dtype=bool)].max() == 1


def test_all_checks_count():
  matrix = ldpc.Code('1/2', 648).matrix()
  assert gf2_rank(matrix) == len(matrix)


def heard(code, words, snr_db, seed=0):
  rng = np.random.default_rng(seed)
  sigma = math.sqrt(1 / (2 * theory.from_db(snr_db)))
  y = 1.0 - 2.0 * words + sigma * rng.normal(size=words.shape)
  return jnp.asarray(2 * y / sigma**2, jnp.float32)


@pytest.fixture(scope='module')
def noisy():
  code = ldpc.Code('1/2', 648)
  rng = np.random.default_rng(1)
  bits = rng.integers(0, 2, (32, code.information)).astype(np.uint8)
  words = code.encode(bits)
  # 0 dB of a bit's symbol is Eb/N0 = 3 dB at rate 1/2.
  return code, words, heard(code, words, 0.0)


def test_decoding(noisy):
  code, words, llr = noisy
  assert ((np.asarray(llr) < 0) != words).mean() > 0.05
  decided, fine, count = minsum.decode(llr, code.edges(), 30)
  assert fine.all()
  np.testing.assert_array_equal(np.asarray(decided), words)
  # Stopped early, and at once where there is nothing to do.
  assert 0 < count < 30
  clean = (1.0 - 2.0 * words).astype(np.float32)
  assert minsum.decode(clean, code.edges(), 30)[2] == 0


def test_a_word_does_not_depend_on_the_others(noisy):
  code, _, llr = noisy
  worse = llr.at[5:].multiply(-0.05)
  one = np.asarray(minsum.decode(llr, code.edges(), 30)[0])
  two, fine, count = minsum.decode(worse, code.edges(), 30)
  assert count == 30
  assert not fine[5:].all()
  np.testing.assert_array_equal(np.asarray(two)[:5], one[:5])


def test_the_decoder_is_min_sum(noisy):
  """Against plain loops over checks and bits."""
  code, _, llr = noisy
  belief = np.asarray(llr[0], np.float64).copy()
  matrix = code.matrix()
  told = np.zeros(matrix.shape)
  for check, row in enumerate(matrix):
    bits = np.flatnonzero(row)
    before = belief[bits] - told[check, bits]
    for i, bit in enumerate(bits):
      others = np.delete(before, i)
      say = 0.75 * np.prod(np.sign(others)) * np.abs(others).min()
      told[check, bit], belief[bit] = say, before[i] + say
  decided = minsum.decode(llr[:1], code.edges(), 1)[0]
  np.testing.assert_array_equal(np.asarray(decided)[0], belief < 0)


def test_coding_gains_and_never_beats_capacity():
  data = np.random.default_rng(0).bytes(450)  # A block a packet.
  rng = np.random.default_rng(1)
  beaten, best = [], {}
  for name, code in itertools.product(('qpsk', '16qam'), ldpc.RATES):
    for snr in (-2.0, 1.0, 4.0, 8.0, 14.0):
      link = channels.Physical(
        snr=snr, modulation=name, code=code, length=648, iterations=8
      )
      packets = [data[i : i + 30] for i in range(0, 450, 30)]
      got = link.send(packets, rng)
      symbols = sum(d.airtime for d in got) * link.symbol_rate
      bits = sum(8 * len(d.data) for d in got if d.data is not None)
      bound = theory.capacity(theory.from_db(snr))
      assert bits / symbols <= bound
      beaten.append(bits / symbols > 0.25 * bound)
      best[name, code, snr] = bits / symbols
  # Not because nothing arrives.
  assert sum(beaten) >= 10
  assert best['qpsk', '1/2', 4.0] > 0
  assert best['16qam', '3/4', 4.0] == 0
  assert best['16qam', '3/4', 14.0] > best['qpsk', '3/4', 14.0]


def test_a_packet_arrives_whole_or_not():
  data = np.random.default_rng(2).bytes(300)
  rng = np.random.default_rng(0)
  good = channels.make('physical(snr=6,length=648)').transmit(data, rng)
  assert good.data == data
  assert good.lost == 0
  bad = channels.make('physical(snr=-6,length=648)').transmit(data, rng)
  assert bad.data is None
  assert bad.lost == math.ceil(300 / (324 // 8 - 2))


def test_shortened_blocks_are_not_sent_whole():
  link = channels.Physical(snr=20, length=648)
  one = link.transmit(b'a', np.random.default_rng(0))
  # 8 bits of data and 16 of the checksum, 324 of parity, two a symbol.
  assert one.airtime * link.symbol_rate == pytest.approx((24 + 324) / 2)
  assert one.data == b'a'


def test_retries_are_counted():
  data = np.random.default_rng(3).bytes(240)
  settings = {'snr': 1.0, 'length': 648, 'delay': 0.01, 'symbol_rate': 1e5}
  once = channels.Physical(**settings)
  again = channels.Physical(**settings, retries=20)
  first = once.transmit(data, np.random.default_rng(4))
  got = again.transmit(data, np.random.default_rng(4))
  assert first.data is None
  assert got.data == data
  assert got.lost == 0
  assert got.airtime > first.airtime
  # Every further round waits for an answer.
  rounds = (got.seconds - got.airtime - 0.01) / 0.02
  assert rounds == pytest.approx(round(rounds))
  assert 1 <= round(rounds) <= 20
  assert first.seconds == pytest.approx(first.airtime + 0.01)


def test_uncoded_blocks_err_as_theory_says():
  ratio = theory.from_db(7.0)
  link = channels.Physical(
    snr=7.0 + 10 * math.log10(2), code='none', length=648
  )
  packets = [bytes([i]) * link.payload for i in range(250)]
  got = link.send(packets * 4, np.random.default_rng(0))
  lost = np.mean([d.data is None for d in got])
  rate = 1 - (1 - theory.ber_awgn(2, ratio)) ** 648
  assert abs(lost - rate) <= 4 * math.sqrt(rate * (1 - rate) / 1000)
  assert 0.1 < rate < 0.9


def test_fading_and_large_packets():
  data = np.random.default_rng(5).bytes(5_000)
  link = channels.make('physical(snr=30,fading=fast,modulation=16qam)')
  assert link.transmit(data, np.random.default_rng(0)).data == data
  block = channels.make('physical(snr=12,fading=block,length=648)')
  got = block.transmit(data[:3000], np.random.default_rng(0))
  assert 0 < got.lost < 100


def test_analog_error_follows_theory():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(200, 500)).astype(np.float32)
  scale = analog.scale(values)
  for snr in (-5.0, 0.0, 5.0, 10.0, 20.0):
    link = channels.Physical(snr=snr)
    got, seconds = analog.transmit(values, link, rng)
    assert seconds == pytest.approx(200 * 250 / link.symbol_rate)
    error = np.square((got - values) / scale)
    expected = theory.analog_error(theory.from_db(snr))
    sigma = error.std() / math.sqrt(error.size)
    assert abs(error.mean() - expected) <= 4 * sigma, snr


def test_analog_rows_of_any_size_and_scale():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(3, 7)).astype(np.float32)
  values *= np.float32([[1e-3], [1.0], [1e4]])
  values[1] = 0
  got, _ = analog.transmit(values, channels.Physical(snr=60), rng)
  assert got.shape == values.shape
  size = np.maximum(np.abs(values).max(1, keepdims=True), 1e-3)
  assert (np.abs(got - values) / size).max() < 0.02
