"""Scores of tasks: by kind of question, and beside published ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from collab_jax import tasks
from collab_jax.evaluation.report import columns, labels, text

Row = Mapping[str, Any]


def kinds_table(rows: Sequence[Row], y: columns.Y = None) -> str:
  """Returns the scores of each kind of questions as text, a line per codec.

  Args:
    rows: From `summarize`, of a task.
    y: Metric of the scores; None for the first of the rows.

  Returns:
    The lines, codecs by their bytes and blind baselines last; '' where
    questions are of one kind.
  """
  kinds = [
    *dict.fromkeys(kind for row in rows for kind in row.get('kinds', ()))
  ]
  if len(kinds) < 2:
    return ''
  column = columns.column(rows, y)
  counts = rows[0]['kinds']
  lines = [
    [column.title, 'bytes', 'all', *kinds],
    ['questions', '', f'{rows[0]["questions"]:,}']
    + [f'{counts.get(kind, {}).get("questions", 0):,}' for kind in kinds],
  ]
  for row in sorted(rows, key=lambda row: (labels.is_blind(row), row['bytes'])):
    cells = [labels.text(row), text.size(row['bytes']), column.text(row)]
    for kind in kinds:
      part = row['kinds'].get(kind)
      cells.append('-' if part is None else column.text(part))
    lines.append(cells)
  return text.align(lines)


def published(rows: Sequence[Row]) -> list[str]:
  """Returns published scores beside those of all vectors, as sentences.

  Args:
    rows: From `summarize`.

  Returns:
    Sentences; none of captions, of models without a published score on this
    split, or without all vectors.
  """
  full = labels.full(rows)
  task = tasks.of_data(full.get('task') or '') if full else None
  if full is None or task is None:
    return []
  split = str(full['data']).rpartition('/')[2]
  sentences = []
  for each in task.published:
    part = full['kinds'].get(each.kind) if each.kind else full
    fits = (each.checkpoint, each.split) == (full['model'], split)
    if not fits or part is None or each.metric not in full['metrics']:
      continue
    column = columns.column(rows, each.metric)
    kind = f', {each.kind}' if each.kind else ''
    ends = column.interval(part, ', ')
    sentences.append(
      f'All vectors score {column.text(part, 2)} [{ends}] in'
      f' {column.label}{kind}; published: {each.score:g} ({each.source}).'
    )
  return sentences
