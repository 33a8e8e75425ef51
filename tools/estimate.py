"""Estimates the time of configs/paligemma_coco.py on accelerators.

python tools/estimate.py

Operations and bytes of the model over published rates, of which such shares are
reached as were measured on an H200. It prints the tables of docs/reproduce.md,
which says the formulas; the memory is that of tools/fit_table.py, compiled.
"""

import pathlib
import runpy
import sys
from typing import NamedTuple

import fit_table
import markdown_table

from collab_jax import captioner, studies
from collab_jax.models import zoo
from collab_jax.quantizers import padding

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = 'paligemma-3b-ft-cococap-224'
PROMPT = 4  # <bos> caption en \n
STEPS = 20  # Tokens until the last caption of a batch ends.
BATCH = 64


class Device(NamedTuple):
  """Published rates of 16 bits: GB/s, and 1e12 operations/s."""

  bandwidth: float
  products: float


# NVIDIA's data sheets without sparsity, Google's page of TPU v5e; a T4's
# products are of float16.
DEVICES = {
  'T4': Device(320, 65),
  'L4': Device(300, 121),
  'H100 SXM': Device(3350, 989),
  'H200': Device(4800, 989),
  'TPU v5e': Device(819, 197),
}


class Measured(NamedTuple):
  """Milliseconds on an H200 at f110b99, bfloat16; docs/accelerators.md."""

  encode: float = 43.2  # 64 pictures of 224 px.
  prefill: float = 121.6  # 64 prefixes of 261.
  token: float = 3.02  # Of 64 rows, float32 cache.
  single: float = 1.73  # Of a row.


# Captions/s of `evaluate` in that measurement, one and four passes at a time.
EVALUATED = 123, 234


class Shares(NamedTuple):
  """Shares of the published rates that were reached."""

  encode: float
  prefill: float
  token: float
  single: float


def shares(costs) -> Shares:
  """Returns the shares of the measurement."""
  ms, device = Measured(), DEVICES['H200']
  products = 1e12 * device.products
  read = 2 * (costs.layers + costs.table)
  bandwidth = 1e9 * device.bandwidth
  return Shares(
    1e3 * 64 * costs.encode() / ms.encode / products,
    1e3 * 64 * costs.prefill(261) / ms.prefill / products,
    1e3 * (read + costs.cache(64, 261 + 17)) / ms.token / bandwidth,
    1e3 * (read + costs.cache(1, 261 + 17)) / ms.single / bandwidth,
  )


def prefixes(config, dims) -> list[int]:
  """Returns lengths of the decoder's prefix, one per pass over pictures."""
  n = dims.vision.num_tokens
  lengths = []
  for q in studies.make_quantizers(config):
    closed = getattr(q, 'rebuild', None) in ('close', 'keep')
    program = padding.find(q.receiver, n, dims.vision.width).quantizer
    m = program.sent(n) if closed else n
    passes = len(config.seeds) if q.uses_key else 1
    lengths += [m + captioner.padding(m) + PROMPT] * passes
  return lengths + [n + PROMPT] * ('shuffled' in config.blind)


def seconds(costs, device, lengths, beams: int, batch: int) -> float:
  """Returns the seconds of a picture, all passes."""
  share = shares(costs)
  rate = 1e12 * device.products
  reading = share.single if batch == 1 else share.token
  total = costs.encode() / rate / share.encode
  for length in lengths:
    rows = batch * beams
    read = 2 * (costs.layers + costs.table)
    read += costs.cache(rows, length + STEPS, itemsize=2)
    step = max(
      rows * costs.step() / rate / share.prefill,
      read / (1e9 * device.bandwidth) / reading,
    )
    total += costs.prefill(length) / rate / share.prefill + STEPS * step / batch
  return total


def hours(count: float) -> str:
  """Returns seconds as people read them."""
  if count < 90 * 60:
    return f'{max(count / 60, 1):.0f} min'
  return (
    f'{count / 3600:.0f} h' if count < 72 * 3600 else f'{count / 86400:.0f} d'
  )


def main():
  """Prints the tables."""
  sys.path.insert(0, str(ROOT))
  from benchmarks import costs as costs_lib

  get = runpy.run_path(str(ROOT / 'configs/paligemma_coco.py'))['get_config']
  configs = {name: get(f'protocol={name}') for name in ('cococap', 'fig3')}
  beams = {'cococap': 2, 'fig3': 1}
  dims = zoo.card(MODEL).config
  costs = costs_lib.Costs(dims)
  lengths = {name: prefixes(config, dims) for name, config in configs.items()}
  pictures = configs['fig3'].limit
  rows = []
  for name, device in DEVICES.items():
    cells = [
      hours(pictures * seconds(costs, device, lengths[p], beams[p], BATCH))
      for p in configs
    ]
    single = seconds(costs, device, [256 + PROMPT], 1, 1)
    rows.append([name, *cells, f'{single:.2f} s'])
  share = shares(costs)
  passes = {name: len(lengths[name]) for name in configs}
  slow, fast = (
    hours(pictures * passes['fig3'] / captions) for captions in EVALUATED
  )
  head = ['device', *configs, 'one caption, batch 1']
  print(markdown_table.render(head, rows, flush_right=True))
  print(
    f'\nmeasured captions of fig3 at {EVALUATED[0]} to {EVALUATED[1]} a second:'
    f' {slow} to {fast}'
  )
  print(
    f'\nencoder {costs.encode() / 1e12:.2f}e12 operations a picture, decoder'
    f' {costs.prefill(260) / 1e12:.2f}e12 for a prefix of 260,'
    f' {costs.step() / 1e9:.1f}e9 a token;\npasses over the pictures:'
    f' {passes["cococap"]} and {passes["fig3"]}; shares of the published rates:'
    f' encoder {share.encode:.2f}, prefill {share.prefill:.2f},\ntokens'
    f' {share.token:.2f} of the bandwidth at 64, {share.single:.2f} at one'
  )
  print(f'\n{fit_table.protocols()}')


if __name__ == '__main__':
  main()
