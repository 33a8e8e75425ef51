r"""The physical layer against theory, and how fast its decoder is.

python benchmarks/channels.py --bits=2000000 --words=512
"""

import functools
import math
import time

from absl import app, flags
import jax
from jax import numpy as jnp
import numpy as np

from collab_jax import channels
from collab_jax.channels import analog, fading, ldpc, minsum, modulation, theory
from collab_jax.evaluation.report import text

_BITS = flags.DEFINE_integer('bits', 2_000_000, 'Bits a point of a curve.')
_WORDS = flags.DEFINE_integer('words', 512, 'Code words a point of a curve.')
_SNRS = (0.0, 3.0, 6.0, 8.0, 10.0)
# Eb/N0 in decibels at which the codes begin to work.
_FALL = {
  '1/2': (1.0, 1.5, 2.0, 2.5),
  '2/3': (1.5, 2.0, 2.5, 3.0),
  '3/4': (2.0, 2.5, 3.0, 3.5),
}
_ROW = 3600  # Bits; a multiple of every number of bits per symbol.


@functools.partial(jax.jit, static_argnames=('name', 'kind', 'rows'))
def _errors(key, snr, name, kind, rows):
  first, second = jax.random.split(key)
  bits = jax.random.bernoulli(first, 0.5, (rows, _ROW)).astype(jnp.int32)
  symbols = modulation.modulate(bits, name)
  heard, noise = fading.transmit(second, symbols, snr, kind)
  wrong = (modulation.demodulate(heard, noise, name) < 0) != bits
  # Bits of a symbol err together: their sums tell the true spread.
  sums = wrong.reshape(-1, modulation.BITS[name]).sum(1)
  return wrong.mean(), jnp.var(sums) / modulation.BITS[name] ** 2


def _modulation() -> list[list[str]]:
  lines = []
  rows = math.ceil(_BITS.value / _ROW)
  cases = [(name, 'none') for name in modulation.BITS]
  for name, kind in [*cases, ('bpsk', 'fast'), ('qpsk', 'fast')]:
    bits = modulation.BITS[name]
    for number, db in enumerate(_SNRS):
      ratio = theory.from_db(db)
      snr = jnp.float32(ratio * bits)
      rate, spread = _errors(jax.random.key(number), snr, name, kind, rows)
      awgn = kind == 'none'
      known = theory.ber_awgn(bits, ratio) if awgn else None
      expected = theory.ber_rayleigh(ratio) if known is None else known
      count = rows * _ROW / bits
      sigma = math.sqrt(max(float(spread), expected / bits / bits) / count)
      what = f'{name}, {"AWGN" if awgn else "Rayleigh"}'
      lines.append(_line(what, db, float(rate), expected, sigma))
  return lines


def _analog() -> list[list[str]]:
  rng = np.random.default_rng(0)
  values = rng.normal(size=(400, 1000)).astype(np.float32)
  scale, lines = analog.scale(values), []
  for db in _SNRS:
    got, _ = analog.transmit(values, channels.Physical(snr=db), rng)
    error = np.square((got - values) / scale)
    sigma = float(error.std()) / math.sqrt(error.size)
    expected = theory.analog_error(theory.from_db(db))
    lines.append(
      _line('analog, AWGN', db, float(error.mean()), expected, sigma)
    )
  return lines


def _losses() -> list[list[str]]:
  rng, n, lines = np.random.default_rng(0), 200_000, []
  packets = [b''] * n
  for p in (0.05, 0.1, 0.2, 0.4, 0.6):
    sent = channels.Erasure(p=p).send(packets, rng)
    rate = np.mean([d.data is None for d in sent])
    sigma = math.sqrt(p * (1 - p) / n)
    lines.append(_line('erasure', p, float(rate), p, sigma))
  for to_good in (0.1, 0.2, 0.3, 0.5, 0.7):
    channel = channels.GilbertElliott(to_bad=0.1, to_good=to_good)
    lost = np.array([d.data is None for d in channel.send(packets, rng)])
    stay, loss = 1 - 0.1 - to_good, channel.loss
    spread = loss * (1 - loss) * (1 + stay) / (1 - stay)
    sigma = math.sqrt(spread / n)
    lines.append(
      _line('bursts, lost', to_good, float(lost.mean()), loss, sigma)
    )
    edges = np.flatnonzero(np.diff(np.r_[False, lost, False].astype(int)))
    runs = np.diff(edges)[::2]
    sigma = math.sqrt(1 - to_good) / to_good / math.sqrt(len(runs))
    mean = float(runs.mean())
    lines.append(_line('bursts, length', to_good, mean, 1 / to_good, sigma))
  return lines


def _line(what, at, measured, expected, sigma) -> list[str]:
  away = (measured - expected) / sigma
  numbers = (f'{v:.4g}' for v in (measured, expected, sigma))
  return [what, f'{at:g}', *numbers, f'{away:+.1f}']


def _waterfall() -> list[list[str]]:
  lines, words = [], _WORDS.value
  rng = np.random.default_rng(0)
  for length in ldpc.LENGTHS:
    for rate in ldpc.RATES:
      code = ldpc.Code(rate, length)
      bits = rng.integers(0, 2, (words, code.information)).astype(np.uint8)
      sent = code.encode(bits)
      symbols = modulation.modulate(jnp.asarray(sent, jnp.int32), 'qpsk')
      for db in _FALL[rate]:
        share = code.information / length
        snr = jnp.float32(theory.from_db(db) * 2 * share)
        heard, noise = fading.transmit(jax.random.key(1), symbols, snr, 'none')
        llr = modulation.demodulate(heard, noise, 'qpsk')
        decided, fine, count = minsum.decode(llr, code.edges(), 30)
        wrong = np.asarray(decided)[:, : code.information] != bits
        lost = wrong.any(1)
        lines.append(
          [
            rate,
            f'{length}',
            f'{db:.1f}',
            f'{wrong.mean():.1e}',
            f'{lost.mean():.4f}',
            f'{(lost & np.asarray(fine)).sum()}',
            f'{count}',
          ]
        )
  return lines


def _speed() -> list[list[str]]:
  lines = []
  data = np.random.default_rng(0).bytes(2048)
  for snr in (1.0, 2.0, 4.0, 8.0):
    link = channels.Physical(snr=snr)
    rng, times = np.random.default_rng(0), []
    link.transmit(data, rng)  # Compiles.
    for _ in range(9):
      start = time.perf_counter()
      link.transmit(data, rng)
      times.append(time.perf_counter() - start)
    lines.append([f'{snr:g}', f'{1000 * np.median(times):.1f}'])
  return lines


def main(argv):
  """Prints four tables."""
  del argv
  head = ['what', 'dB or p', 'measured', 'theory', 'sigma', 'away']
  lines = [*_modulation(), *_analog(), *_losses()]
  print('Error rates of bits at Eb/N0, squared errors at Es/N0, losses:')
  print(text.align([head, *lines]))
  worst = max(abs(float(line[-1])) for line in lines)
  print(f'{len(lines)} points, the farthest {worst:.1f} sigma away\n')
  head = ['rate', 'bits', 'Eb/N0', 'bit errors', 'lost words', 'unseen']
  print(f'LDPC over QPSK, AWGN, {_WORDS.value} words, 30 iterations at most:')
  print(text.align([[*head, 'iterations'], *_waterfall()]), end='\n\n')
  print('2,048 bytes through the whole link, QPSK, rate 1/2, median of 9:')
  print(text.align([['Es/N0', 'ms'], *_speed()]))


if __name__ == '__main__':
  app.run(main)
