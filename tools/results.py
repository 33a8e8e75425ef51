"""Runs the commands behind every number of the documentation, and writes them.

python tools/results.py

About twenty minutes on two cores. Writes docs/results.md: each command with
what it printed; and the figures into docs/images.
"""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES = {
  'runs/demo/fig2.png': 'fig2.png',
  'runs/demo/fig3.png': 'fig3.png',
  'runs/demo/fig3_bytes.png': 'fig3_bytes.png',
  'runs/dense/fig3.png': 'fig3_dense.png',
}
# Title, what the reader should know, command.
SECTIONS = (
  (
    "The paper's experiment on the tiny model",
    'Test split, 1 to 4 objects a scene. Figures: `images/fig2.png`,'
    ' `images/fig3.png`.',
    'experiments/demo.py --workdir=runs/demo',
  ),
  (
    'The same on dense scenes',
    'Dense split, 6 to 10 objects a scene. Figure: `images/fig3_dense.png`.',
    'experiments/evaluate.py --config=configs/tradeoff.py:mode=dense'
    ' --workdir=runs/dense',
  ),
  (
    'What the tiny model gets right',
    'All vectors, whole splits; slots in percent, with the blind baselines.',
    'benchmarks/slots.py',
  ),
  (
    'Speed of the whole road',
    'Median of nine rounds, compilation excluded.',
    'benchmarks/pipeline.py',
  ),
  (
    'Parity with big_vision',
    'Largest absolute difference to the numbers recorded in tests/golden.',
    'benchmarks/parity.py',
  ),
  (
    'Every format of checkpoints',
    'Largest absolute difference in each group of recorded arrays, by what the'
    ' model was loaded from; and conversion there and back.',
    '-m benchmarks.formats',
  ),
  (
    'The generated scenes',
    'How well they can be captioned blind, and by their own references.',
    'benchmarks/scenes.py --limit=500',
  ),
  (
    'k-means beside its peers',
    "Needs the extra 'bench'.",
    'benchmarks/kmeans.py',
  ),
)


def main():
  """Runs everything that was asked for, and writes the page."""
  lines = [
    '# Results',
    '',
    'Every block is what its command printed; `python tools/results.py` makes'
    ' this page.\nAll numbers are those of the tiny model that ships with the'
    ' package, on generated scenes, not of PaliGemma 3B.',
  ]
  for title, note, command in SECTIONS:
    print(f'{title}: python {command}', flush=True)
    done = subprocess.run(
      [sys.executable, *command.split()],
      cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    text = done.stdout.strip('\n')
    lines += ['', f'## {title}', '', note, '']
    lines += ['```', f'$ python {command}', text, '```']
  (ROOT / 'docs/results.md').write_text('\n'.join(lines) + '\n')
  for source, name in FIGURES.items():
    shutil.copy(ROOT / source, ROOT / 'docs/images' / name)


if __name__ == '__main__':
  main()
