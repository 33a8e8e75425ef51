"""Draws the paper's two figures on the tiny model: `make demo`.

python experiments/demo.py --config.limit=100 --workdir=runs/demo
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports()

from pathlib import Path
import time

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import (
  evaluation,
  launcher,
  monitoring,
  studies,
)
from collab_jax.studies import sweep

_CONFIG = config_lib.define('configs/tradeoff.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/demo', 'Where to write.')
_MONITOR = monitoring.define_flags()
_SWEEP = sweep.define_flags()


def main(argv):
  """Evaluates, draws both figures, and prints samples and tables."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with (
    studies.runtime(_CONFIG.value.precision),
    _MONITOR(_WORKDIR.value, _CONFIG.value),
  ):
    start = time.perf_counter()
    workdir, study = Path(_WORKDIR.value), studies.TradeoffStudy(_CONFIG.value)
    records = _SWEEP().run(study, workdir)
    study.draw_fig2(workdir / 'fig2')  # Which the report shows.
    study.draw_photographs(workdir / 'fig2_photos')
    text = study.report(records, workdir)
    print('', evaluation.samples(records), '', text, '', sep='\n')
    print(f'{workdir}: {studies.list_files(workdir)}')
    print(f'{len(records):,} captions, {time.perf_counter() - start:.0f} s')


if __name__ == '__main__':
  launcher.start(main)
