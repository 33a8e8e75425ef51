"""Estimates time and memory of configs/paligemma_coco.py on accelerators.

python tools/estimate.py

Operations and bytes of the model over published rates: no measurement. It
prints the tables of docs/reproduce.md, which says the formulas.
"""

import pathlib
import runpy
import sys
from typing import NamedTuple

from collab_jax import studies
from collab_jax.models import zoo

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = 'paligemma-3b-ft-cococap-224'
PROMPT = 4  # <bos> caption en \n
STEPS = 20  # Tokens until the last caption of a batch ends.
BATCHES = (16, 64)
# Shares of the published rates that are reached.
PRODUCTS = 0.4
BANDWIDTH = 0.7


class Device(NamedTuple):
  """Published rates: GB, GB/s, and 1e12 operations/s by number type."""

  memory: float
  bandwidth: float
  float32: float
  bfloat16: float


# NVIDIA's data sheets without sparsity, Google's page of TPU v5e. float32 is
# what JAX multiplies by default: TF32 on L4 and H100, bfloat16 on a TPU. The T4
# has neither: its second rate is float16's.
DEVICES = {
  'T4': Device(16, 320, 8.1, 65),
  'L4': Device(24, 300, 60, 121),
  'H100 SXM': Device(80, 3350, 495, 989),
  'TPU v5e': Device(16, 819, 197, 197),
}


def prefixes(config) -> list[int]:
  """Returns lengths of the decoder's prefix, one per pass over pictures."""
  n = 256
  lengths = []
  for q in studies.make_quantizers(config):
    closed = getattr(q, 'rebuild', None) in ('close', 'keep')
    m = q.sent(n) if closed else n
    padded = max(64, 1 << (m - 1).bit_length())  # As in captioner.bucket.
    passes = len(config.seeds) if q.uses_key else 1
    lengths += [padded + PROMPT] * passes
  return lengths + [n + PROMPT] * ('shuffled' in config.blind)


def seconds(costs, device, lengths, beams, kind: str, batch: int) -> float:
  """Returns the seconds of a picture, all passes."""
  rate = PRODUCTS * 1e12 * getattr(device, kind)
  wide = 4 if kind == 'float32' else 2
  total = costs.encode() / rate
  for length in lengths:
    rows = batch * beams
    read = wide * (costs.layers + costs.table)
    read += costs.cache(rows, length + STEPS)
    step = max(
      rows * costs.step() / rate, read / (BANDWIDTH * 1e9 * device.bandwidth)
    )
    total += costs.prefill(length) / rate + STEPS * step / batch
  return total


def memory(costs, beams: int, batch: int) -> tuple[float, float]:
  """Returns bytes without and with float32 copies of the decoder."""
  length = 256 + PROMPT
  rows = batch * beams
  logits = 2 * 4 * rows * costs.text.vocab_size
  least = 2 * costs.parameters + costs.cache(rows, length + 32)
  least += max(costs.work(batch, length), logits)
  return least, least + 4 * (costs.layers + costs.table)


def hours(count: float) -> str:
  """Returns seconds as people read them."""
  if count < 90 * 60:
    return f'{max(count / 60, 1):.0f} min'
  return (
    f'{count / 3600:.0f} h' if count < 72 * 3600 else f'{count / 86400:.0f} d'
  )


def markdown(rows: list[list[str]]) -> str:
  """Returns a table, whose head is the first row."""
  rows = [rows[0], ['---'] + ['---:'] * (len(rows[0]) - 1), *rows[1:]]
  return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def main():
  """Prints both tables."""
  sys.path.insert(0, str(ROOT))
  from benchmarks import costs as costs_lib

  get = runpy.run_path(str(ROOT / 'configs/paligemma_coco.py'))['get_config']
  configs = {name: get(f'protocol={name}') for name in ('cococap', 'fig3')}
  beams = {'cococap': 2, 'fig3': 1}
  costs = costs_lib.Costs(zoo.card(MODEL).config)
  lengths = {name: prefixes(config) for name, config in configs.items()}
  pictures = configs['fig3'].limit
  batch = BATCHES[-1]
  table = [['device', 'products of', *configs, 'one caption, batch 1']]
  for name, device in DEVICES.items():
    for kind in ('float32', 'bfloat16'):
      cells = [
        hours(
          pictures * seconds(costs, device, lengths[p], beams[p], kind, batch)
        )
        for p in configs
      ]
      single = seconds(costs, device, [260], 1, kind, 1)
      shown = 'float16' if name == 'T4' and kind == 'bfloat16' else kind
      table.append([name, shown, *cells, f'{single:.2f} s'])
  print(markdown(table))
  table = [['protocol', 'batch', 'least', 'most']]
  for name in configs:
    for size in BATCHES:
      cells = [f'{b / 1e9:.0f} GB' for b in memory(costs, beams[name], size)]
      table.append([name, str(size), *cells])
  print()
  print(markdown(table))
  print()
  print(
    f'encoder {costs.encode() / 1e12:.2f}e12 operations a picture, decoder'
    f' {costs.prefill(260) / 1e12:.2f}e12 for a prefix of 260,'
    f' {costs.step() / 1e9:.1f}e9 a token;\npasses over the pictures:'
    f' {len(lengths["cococap"])} and {len(lengths["fig3"])}'
  )


if __name__ == '__main__':
  main()
