r"""Makes the rate curves of a model, by which an edge chooses its codec.

python experiments/tasks.py --config=configs/tasks.py:mode=curve \\
    --workdir=runs/curve
python tools/rate_curve.py --tasks=runs/curve \\
    --curve=collab_jax/assets/rates/tiny.json

A curve for each line of the run's figure; with --rate_records those of
experiments/rate.py, of captions. Of all codecs in the records a curve keeps
those that no other beats: in the score, and in the mean and the largest length
of the messages.
"""

import collections
import json
from pathlib import Path

from absl import app, flags

from collab_jax import evaluation, studies
from collab_jax.evaluation.report import (
  columns,
  labels,
  settings,
  text,
)
from collab_jax.serving.client import rate_control

_RECORDS = flags.DEFINE_string(
  'rate_records', '', 'JSONL of experiments/rate.py.'
)
_TASKS = flags.DEFINE_string('tasks', '', 'Folder of experiments/tasks.py.')
_CURVE = flags.DEFINE_string('curve', None, 'JSON file to write.')
_BUDGETS = 30, 60, 120, 600  # Values of max_bytes that are shown.


def make(records, task=rate_control.CAPTIONS) -> rate_control.RateCurve:
  """Makes a curve from records.

  Args:
    records: From `evaluation.read_records`, of one model and data set.
    task: Name of the curve.

  Returns:
    The curve.

  Raises:
    ValueError: They hold several models, data sets, splits or codings, lack
      the record of all vectors, or less of their score is better.
  """
  counted = [record for record in records if not labels.is_blind(record)]
  rows = evaluation.summarize(counted, resamples=1)
  column = columns.column(rows)
  if not column.higher_is_better:
    raise ValueError(
      f'metric: got {column.name}, expected one of which more is better'
    )
  scores = {row['name']: round(column.shown(row), 2) for row in rows}
  full = [scores[row['name']] for row in rows if labels.is_full(row)]
  if not full:
    raise ValueError(
      'records: got none of all vectors, expected them too: --config.full=true'
    )
  largest = collections.Counter()
  for record in counted:
    name = record['name']
    largest[name] = max(largest[name], record['total_bytes'])
  features = [r for r in counted if settings.quantizer(r)]
  points = [
    rate_control.OperatingPoint(
      _name(row),
      round(row['bytes'], 1),
      largest[row['name']],
      scores[row['name']],
    )
    for row in rows
  ]
  return rate_control.RateCurve(
    model=_only('model', [r['model'] for r in counted]),
    split=_only('split', [r['codec']['split'] for r in features]),
    coding=_only('coding', [r['codec'].get('coding') for r in features])
    or 'fixed',
    data=_only('data', [r['data'] for r in counted]),
    full=full[0],
    captions=len({(r['image_id'], r.get('question')) for r in counted}),
    points=rate_control.pareto_front(points),
    task=task,
    metric=column.name,
  )


def of_tasks(folder) -> list[rate_control.RateCurve]:
  """Makes the curves of a run of experiments/tasks.py, one of each line.

  Args:
    folder: The run's folder.
  """
  config = json.loads((Path(folder) / 'config.json').read_text('utf-8'))
  lines = studies.read_task_lines(folder, config['lines'])
  return [make(records, title) for title, records in lines.items()]


def _name(row):
  """Returns a codec's name, without the split and the coding of features."""
  quantizer = settings.quantizer(row)
  return settings.text(quantizer) if quantizer else row['name']


def _only(what, values):
  distinct = set(values)
  if len(distinct) != 1:
    raise ValueError(
      f'records: got the {what}s {sorted(map(str, distinct))}, expected one'
    )
  return distinct.pop()


def table(curves) -> str:
  """Returns curves as text, one below the other."""
  rows = [
    [curve.task, point.codec, *_numbers(curve, point)]
    for curve in curves
    for point in curve.points
  ]
  head = ['task', 'codec', 'bytes', 'largest', 'score', 'kept']
  return text.align([head, *rows], left=2)


def choices(curves, budgets=_BUDGETS) -> str:
  """Returns the codecs that an edge takes by task and bytes, as text.

  Args:
    curves: The curves.
    budgets: Values of max_bytes.
  """
  lines = [['task', 'max_bytes', 'bytes', 'largest', 'score', 'kept', 'codec']]
  for curve in curves:
    chosen = {
      f'{budget}': curve.within(budget)[0]
      for budget in budgets
      if any(point.largest <= budget for point in curve.points)
    }
    if any(p.score >= rate_control.SHARE * curve.full for p in curve.points):
      chosen['-'] = curve.keeping()[0]
    for limit, point in chosen.items():
      lines.append([curve.task, limit, *_numbers(curve, point), point.codec])
  *numbers, codecs = zip(*lines, strict=True)
  padded = text.align([*zip(*numbers, strict=True)]).split('\n')
  width = max(map(len, padded))
  return '\n'.join(
    f'{line:{width}}  {codec}'
    for line, codec in zip(padded, codecs, strict=True)
  )


def _numbers(curve, point) -> list[str]:
  """Returns bytes, largest, score and the share that is kept, as text."""
  return [
    f'{point.bytes:,.1f}',
    f'{point.largest:,}',
    f'{point.score:.1f}',
    text.whole_percent(point.score / curve.full) if curve.full else '-',
  ]


def main(argv):
  """Writes the curves, and prints them."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if not (_RECORDS.value or _TASKS.value):
    raise app.UsageError('give rate_records, or tasks')
  assert _CURVE.value is not None  # absl requires it.
  curves = []
  if _RECORDS.value:
    curves.append(make(evaluation.read_records(_RECORDS.value)))
  if _TASKS.value:
    curves += of_tasks(_TASKS.value)
  path = Path(_CURVE.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(rate_control.to_json(curves) + '\n', 'utf-8')
  print(table(curves), choices(curves), sep='\n\n')


if __name__ == '__main__':
  flags.mark_flags_as_required(['curve'])
  app.run(main)
