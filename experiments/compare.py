"""Compares runs on the same pictures: a figure, and paired differences.

python experiments/compare.py runs/greedy runs/beam --y=cider --out=runs/both

The runs may differ in model, decoding, prompt and codecs; what differs is said.
The others are compared with the first.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

from pathlib import Path

from absl import flags

from collab_jax import (
  launcher,
  studies,
)

_X = flags.DEFINE_enum(
  'x', 'bytes', ['bytes', 'vectors'], 'Axis of the figure.'
)
_Y = flags.DEFINE_string(
  'y',
  None,
  'Metric: bleu4, cider, module:Class, ...; by default the score of the task,'
  ' of captions bleu4.',
)
_OUT = flags.DEFINE_string('out', 'runs/compare', 'Where to write.')
_RESAMPLES = flags.DEFINE_integer('resamples', 1000, 'Draws of the bootstrap.')
_LEVEL = flags.DEFINE_float('level', 0.95, 'Of the confidence intervals.')


def main(argv):
  """Reads, compares, draws, and prints the table."""
  with studies.runtime(resumes=False):
    how = {'y': _Y.value, 'resamples': _RESAMPLES.value, 'level': _LEVEL.value}
    print(studies.compare_runs(argv[1:], _OUT.value, _X.value, **how))
    print(f'\n{Path(_OUT.value)}: {studies.list_files(_OUT.value)}')


if __name__ == '__main__':
  launcher.start(main)
