r"""Draws Fig. 3 and its table from records; no model is needed.

python experiments/plot.py --records=runs/demo --workdir=figures --y=cider
python experiments/plot.py --records='runs/sweep/units/*.jsonl'
python experiments/plot.py --records=runs/demo,runs/dense --panels \
    --workdir=figures

The last draws Fig. 3 of each named run beside the others, as fig3_panels.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

import glob
from pathlib import Path

from absl import app, flags

from collab_jax import (
  evaluation,
  launcher,
  metrics,
  plots,
  studies,
)

_RECORDS = flags.DEFINE_list(
  'records', None, 'Files of records, folders of runs, or patterns of files.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where to write; by default beside the first file.'
)
_PANELS = flags.DEFINE_bool(
  'panels', False, 'Draw the named runs beside each other, and no table.'
)
_Y = flags.DEFINE_string(
  'y',
  None,
  'Metric of curves: bleu4, cider, module:Class, ...; by default the score of'
  ' the task, of captions bleu4.',
)
_RESAMPLES = flags.DEFINE_integer('resamples', 1000, 'Draws of the bootstrap.')
_LEVEL = flags.DEFINE_float('level', 0.95, 'Of the confidence intervals.')


def main(argv):
  """Reads, draws, and prints the table."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  assert _RECORDS.value is not None  # absl requires the flag.
  with studies.runtime(resumes=False):
    evaluation.check_draws(_RESAMPLES.value, _LEVEL.value, seed=0)
    if _Y.value is not None:
      metrics.make(_Y.value)
    named = [p for r in _RECORDS.value for p in sorted(glob.glob(r)) or [r]]
    draws = {'resamples': _RESAMPLES.value, 'level': _LEVEL.value}
    if _PANELS.value:
      workdir = Path(_WORKDIR.value or '.')
      groups = {}
      for name in named:
        records = evaluation.read_records(name)
        shown = _metrics(records)
        rows = evaluation.summarize(records, metrics=shown, **draws)
        title = f'{rows[0]["data"]}, {rows[0]["images"]:,} pictures'
        # Runs of the same pictures are told apart by their names.
        groups[f'{title}: {name}' if title in groups else title] = rows
      figure = plots.tradeoff_panels(groups)
      print(*plots.save(figure, workdir / 'fig3_panels'), sep='\n')
      return
    paths = [p for name in named for p in evaluation.record_files(name)]
    records = evaluation.read_records(*paths)
    beside = named[0] if Path(named[0]).is_dir() else Path(paths[0]).parent
    workdir = Path(_WORKDIR.value or beside)
    shown = _metrics(records)
    print(studies.report_records(records, workdir, metrics=shown, **draws))
    print(f'\n{workdir}: {studies.list_files(workdir)}')


def _metrics(records):
  """Returns the metrics to show: those of the task, first the chosen one."""
  chosen = [] if _Y.value is None else [_Y.value]
  others = evaluation.metrics_of(records, strict=not chosen)
  return [*chosen, *(name for name in others if name not in chosen)]


if __name__ == '__main__':
  flags.mark_flag_as_required('records')
  launcher.start(main)
