r"""Evaluates captions against bytes, beside image codecs: `make rate`.

python experiments/rate.py --config=configs/rate.py:mode=tiny \
    --config.limit=100 --workdir=runs/rate

Started again, it goes on where it was stopped, and draws the figures anew.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports()

from pathlib import Path
import time

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import launcher, monitoring, studies
from collab_jax.studies import sweep

_CONFIG = config_lib.define('configs/rate.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/rate', 'Where to write.')
_MONITOR = monitoring.define_flags()
_SWEEP = sweep.define_flags()


def main(argv):
  """Evaluates, draws, and prints the findings."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime(), _MONITOR(_WORKDIR.value, _CONFIG.value):
    start = time.perf_counter()
    workdir, study = Path(_WORKDIR.value), studies.RateStudy(_CONFIG.value)
    records = _SWEEP().run(study, workdir)
    print('', study.report(records, workdir), '', sep='\n')
    print(f'{workdir}: {studies.list_files(workdir)}')
    print(f'{len(records):,} captions, {time.perf_counter() - start:.0f} s')


if __name__ == '__main__':
  launcher.start(main)
