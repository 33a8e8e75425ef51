r"""Compares what each task keeps of its score, at equal vectors and bytes.

python experiments/tasks.py --config=configs/tasks.py:mode=tiny \
    --config.limit=100 --workdir=runs/tasks
python experiments/tasks.py --config=configs/tasks.py:mode=curve \
    --engine=local --workers=2 --workdir=runs/curve

Started again, it goes on where it was stopped, and draws the figure anew.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports()

from pathlib import Path

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import launcher, monitoring, studies
from collab_jax.studies import sweep

_CONFIG = config_lib.define('configs/tasks.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/tasks', 'Where to write.')
_MONITOR = monitoring.define_flags()
_SWEEP = sweep.define_flags()


def main(argv):
  """Evaluates, draws, and prints the table."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime(), _MONITOR(_WORKDIR.value, _CONFIG.value):
    workdir, study = Path(_WORKDIR.value), studies.TaskStudy(_CONFIG.value)
    records = study.run_by(_SWEEP(), workdir)
    print('', study.report(records, workdir), sep='\n')
    print(f'\n{workdir}: {studies.list_files(workdir)}')


if __name__ == '__main__':
  launcher.start(main)
