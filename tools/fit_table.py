r"""Compiles released models for TPU topologies, and prints the table of it.

python tools/fit_table.py            the table of docs/accelerators.md
python tools/fit_table.py --run      compiles what is missing

Each row is a program of `collab-jax fit`, whose numbers lie in docs/fit, a file
for each model, topology and mesh. They need the extra 'tpu', and no TPU.
"""

import argparse
import json
from pathlib import Path
import runpy
import subprocess
import sys
from typing import NamedTuple

import markdown_table

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'docs' / 'fit'


class Run(NamedTuple):
  """Settings of a run of `collab-jax fit`; batch of the whole mesh."""

  model: str
  topology: str
  data: int
  parts: int
  batch: int
  methods: str = 'kmeans(init=++)'
  ks: str = '8'
  decoding: str = 'greedy'

  @property
  def path(self) -> Path:
    """The file of its numbers."""
    topology = self.topology.replace(':', '-')
    mesh = f'{self.data}x{self.parts}'
    decoding = '' if self.decoding == 'greedy' else f'_{self.decoding}'
    name = f'{self.model}_{topology}_{mesh}_b{self.batch}{decoding}.json'
    return FOLDER / name

  @property
  def flags(self) -> list[str]:
    """Flags of the command."""
    return [
      f'--model={self.model}',
      f'--topology={self.topology}',
      f'--mesh.data={self.data}',
      f'--mesh.model={self.parts}',
      f'--batch={self.batch}',
      f'--quantizers={self.methods}',
      f'--k={self.ks}',
      f'--decoding={self.decoding}',
      f'--out={self.path}',
    ]


RUNS = (
  Run('paligemma-3b-pt-224', 'v5e:2x2', 1, 1, 16),
  Run('paligemma-3b-pt-224', 'v5e:2x2', 1, 1, 64),
  Run('paligemma-3b-pt-224', 'v5e:2x2', 4, 1, 64),
  Run('paligemma-3b-pt-224', 'v5e:2x4', 8, 1, 64),
  Run('paligemma-3b-pt-224', 'v6e:2x4', 8, 1, 64),
  Run('paligemma-3b-pt-896', 'v5e:2x2', 4, 1, 4),
  Run('paligemma-3b-pt-896', 'v5e:2x4', 8, 1, 16),
  Run('paligemma-3b-pt-896', 'v6e:2x4', 8, 1, 16),
  Run('paligemma2-10b-pt-448', 'v5e:2x2', 1, 4, 16),
  Run('paligemma2-10b-pt-448', 'v5e:2x4', 2, 4, 16),
  Run('paligemma2-10b-pt-448', 'v6e:2x2', 4, 1, 16),
  Run('paligemma2-28b-pt-224', 'v5e:2x2', 1, 4, 16),
  Run('paligemma2-28b-pt-224', 'v5e:2x4', 1, 8, 16),
  Run('paligemma2-28b-pt-224', 'v6e:2x2', 1, 4, 16),
  Run('paligemma2-28b-pt-224', 'v6e:2x4', 2, 4, 16),
)
_SETTINGS = 'model', 'chips', 'data x model', 'batch', 'program'
_NUMBERS = 'seconds', 'of a core', 'temporaries', 'in use', 'fits'
# Of docs/reproduce.md: its protocols decode greedily, and by beams.
PROTOCOLS = {
  'fig3': RUNS[:2],
  'cococap': tuple(run._replace(decoding='beam2') for run in RUNS[:2]),
}
# Small programs, of which none needs more memory than those of the table.
_LEFT_OUT = 'pad', 'quantize, identity', 'rebuild, identity'


def demo() -> Run:
  """Returns the run of `make demo`'s programs on one chip."""
  get_config = runpy.run_path(str(ROOT / 'configs/tradeoff.py'))['get_config']
  config = get_config()
  ks = ','.join(map(str, config.ks))
  methods = ';'.join(config.methods)
  return Run('tiny', 'v5e:2x2', 1, 1, config.batch_size, methods, ks)


def compile_missing() -> None:
  """Runs `collab-jax fit` for all runs without numbers, one at a time."""
  FOLDER.mkdir(exist_ok=True)
  for run in (*RUNS, demo(), *PROTOCOLS['cococap']):
    if not run.path.exists():
      print(' '.join(run.flags), flush=True)
      command = [sys.executable, '-m', 'collab_jax', 'fit', *run.flags]
      # Status 1 says that a program does not fit; its file says so, too.
      subprocess.run(command, cwd=ROOT, check=False)


def programs() -> str:
  """Returns the table of the programs."""
  rows = []
  for run in RUNS:
    if not run.path.exists():
      continue
    content = json.loads(run.path.read_text())
    memory = content['memory'] / 1e9
    for program in content['programs']:
      if program['name'].startswith(_LEFT_OUT):
        continue
      temporaries = f'{program["temporaries"] / 1e9:.2f} GB'
      rows.append(
        [
          run.model,
          run.topology,
          f'{run.data} x {run.parts}',
          str(run.batch),
          program['name'].partition(',')[0],
          f'{program["seconds"]:.0f}',
          f'{program["cpu_seconds"]:.0f}',
          '-' if program['error'] else temporaries,
          f'{program["total"] / 1e9:.1f} of {memory:.1f} GB',
          'yes' if program['fits'] else '**no**',
        ]
      )
  return markdown_table.render([*_SETTINGS, *_NUMBERS], rows)


def protocols() -> str:
  """Returns the table of the most memory that a protocol's programs need."""
  rows = []
  for name, runs in PROTOCOLS.items():
    for run in runs:
      if not run.path.exists():
        continue
      content = json.loads(run.path.read_text())
      most = max(program['total'] for program in content['programs'])
      of = f'{most / 1e9:.1f} of {content["memory"] / 1e9:.1f} GB'
      rows.append(
        [name, str(run.batch), of, 'yes' if content['fits'] else '**no**']
      )
  return markdown_table.render(['protocol', 'batch', 'in use', 'fits'], rows)


def demo_line() -> str:
  """Returns a sentence on the demo's programs; '' without its numbers."""
  run = demo()
  if not run.path.exists():
    return ''
  content = json.loads(run.path.read_text())
  count = sum(not program['same_as'] for program in content['programs'])
  return (
    f"The demo's {count} programs of codecs and captioner, on one chip of"
    f' {run.topology}: {content["seconds"]:.0f} s,'
    f' {content["cpu_seconds"]:.0f} s of a core.'
  )


def commits() -> str:
  """Returns a sentence on the code that the numbers are of."""
  paths = [run.path for run in (*RUNS, demo()) if run.path.exists()]
  known = [json.loads(path.read_text())['commit'][:7] for path in paths]
  names = ', '.join(f'`{name}`' for name in dict.fromkeys(known))
  return f'Compiled at the commits {names}.'


def main() -> None:
  """Prints the table, and sentences on the demo and the code."""
  sys.path.insert(0, str(ROOT))  # For configs.common.
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--run', action='store_true', help='compile first')
  if parser.parse_args().run:
    compile_missing()
  print(programs())
  print(f'\n{demo_line()}')
  print(f'\n{commits()}')


if __name__ == '__main__':
  main()
