r"""Writes into the notebooks how long they take.

python tools/notebook_times.py              # all of them, on this machine
python tools/notebook_times.py quickstart
python tools/notebook_times.py --topology=v5e:2x2

The first two run notebooks, in full and with an empty compilation cache. The
last runs none: it compiles their main programs for a chip that is not there
(`collab-jax fit`, which needs libtpu). The first cell of a notebook has what is
known of each device, or that it was not measured.
"""

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
from typing import NamedTuple

from absl import app, flags
import jax

from collab_jax import studies

_TOPOLOGY = flags.DEFINE_string(
  'topology', '', "TPU to compile for, 'v5e:2x2'; '' runs the notebooks."
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEVICES = 'CPU', 'T4', 'v5e'
_HEAD = '| runtime | this notebook |\n|---|---|\n'
_KMEANS = 'kmeans(init=++)', 'kmeans(init=random)'


class Sweep(NamedTuple):
  """Quantizers of a notebook's largest call of `evaluate`."""

  methods: tuple[str, ...]
  ks: str


SWEEPS = {
  'quickstart': Sweep((*_KMEANS, 'random(rebuild=nearest)'), '1,2,4,8,16,32'),
  'fig2_fig3': Sweep(_KMEANS, '1,2,4,8,16,32,64'),
}


def run(path: pathlib.Path) -> str:
  """Runs a notebook, and returns how long that took.

  The time of the processor does not depend on what else runs here.
  """
  # Here, as the environment with libtpu may have no notebooks.
  import nbclient
  import nbformat

  notebook = nbformat.read(path, as_version=4)
  with tempfile.TemporaryDirectory() as folder:
    environment = os.environ | {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    environment |= {'MPLBACKEND': 'agg', 'PYTHONPATH': str(ROOT)}
    client = nbclient.NotebookClient(
      notebook, timeout=3600, resources={'metadata': {'path': folder}}
    )
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    client.execute(env=environment)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
  seconds = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
  return (
    f'{seconds / 60:.1f} minutes of processor time on {os.cpu_count()} cores,'
    f' measured with JAX {jax.__version__}'
  )


def compile_sweep(sweep: Sweep, topology: str) -> str:
  """Compiles the programs of a sweep, and returns how long that took."""
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / 'fit.json'
    subprocess.run(
      [
        *(sys.executable, '-m', 'collab_jax', 'fit', '--model=tiny'),
        *(f'--topology={topology}', '--mesh.data=1', f'--k={sweep.ks}'),
        f'--quantizers={";".join(sweep.methods)}',
        f'--out={out}',
      ],
      cwd=ROOT,
      check=True,
    )
    content = json.loads(out.read_text())
  count = sum(not program['same_as'] for program in content['programs'])
  return (
    f'not measured; its compiler takes {content["cpu_seconds"]:.0f} s of a core'
    f' for the {count} programs of its table (`collab-jax fit`, not run)'
  )


def read(text: str) -> dict[str, str]:
  """Returns what a first cell says, by device."""
  rows = re.findall(r'^\| (\w+) \| (.+) \|$', text, re.M)
  known = {device: said for device, said in rows if device in DEVICES}
  return {device: known.get(device, 'not measured') for device in DEVICES}


def write(path: pathlib.Path, device: str, said: str) -> None:
  """Writes a row into a notebook's first cell."""
  notebook = json.loads(path.read_text())
  cell = notebook['cells'][0]
  text, _, table = ''.join(cell['source']).partition(_HEAD)
  rows = read(table) | {device: said}
  lines = [f'| {name} | {entry} |' for name, entry in rows.items()]
  text = f'{text.rstrip()}\n\n{_HEAD}' + '\n'.join(lines)
  cell['source'] = text.splitlines(keepends=True)
  path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n')


def main(argv):
  """Measures, and writes into the notebooks."""
  names = argv[1:] or [p.stem for p in sorted((ROOT / 'colab').glob('*.ipynb'))]
  with studies.runtime():
    for name in names:
      path = ROOT / 'colab' / f'{name}.ipynb'
      if not _TOPOLOGY.value:
        device, said = 'CPU', run(path)
      elif name in SWEEPS:
        device = _TOPOLOGY.value.partition(':')[0]
        said = compile_sweep(SWEEPS[name], _TOPOLOGY.value)
      else:
        continue
      write(path, device, said)
      print(f'{name}: {device}, {said}', flush=True)


if __name__ == '__main__':
  app.run(main)
