"""Codecs that are best within so many bytes, with paired significance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from collab_jax import metrics
from collab_jax.evaluation.report import (
  columns,
  labels,
  selectors,
  summary,
  text,
)
from collab_jax.evaluation.report import grids as grids_lib
from collab_jax.evaluation.report import rate as rate_lib

Row = Mapping[str, Any]
Draws = Mapping[str, Any]

# Notes below `kept_table`, `budget_table` and `control_table`.
KEPT_NOTE = (
  'blind and kept: shares of the score of all vectors; behind them the fewest'
  ' vectors by k-means++, bytes of features, and bytes of an image codec that'
  ' keep so much'
)
BUDGET_NOTE = (
  'as good: codecs within the bytes whose score is not significantly below the'
  ' best; rival: difference of the best image codec where features are best,'
  ' else of the best features'
)
CONTROL_NOTE = (
  'features: the best within the bytes, on the questions that the best image'
  ' codec within them gets wrong'
)


def best_within(
  records: Sequence[Mapping[str, Any]],
  rows: Sequence[Row],
  budgets: Sequence[float | int],
  *,
  y: columns.Y = None,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Chooses the codec of the best score whose messages have so many bytes.

  All are scored on the same draws of the pictures. The intervals of a budget's
  differences hold at once (`metrics.simultaneous`).

  Args:
    records: From `evaluate`.
    rows: From `summarize`, of the same records.
    budgets: Largest mean bytes of a message.
    y: Metric of the scores; None for the first of the rows.
    resamples: Draws of the bootstrap.
    level: Part of the draws in which the intervals hold.
    seed: Seed of the draws.

  Returns:
    A line for each budget: {'budget', 'codec' (name), 'bytes', 'score', 'kept',
    'tied' (names of the others that are not significantly worse), 'others'
    (number of all), 'rival' (the best image codec if features are best, else
    the best features: {'name', 'value', 'low', 'high'}, by how much it is
    worse)}; 'codec' is None where no message is so small.
  """
  column = columns.column(rows, y)
  features, pictures = rate_lib.split(rows)
  seen = [r for r in [*features, *pictures] if not labels.is_full(r)]
  metric = metrics.make(column.name)
  drawn = selectors.bootstrap_scores(records, metric, resamples, seed)
  lines = []
  for budget in budgets:
    fitting = [row for row in seen if row['bytes'] <= budget]
    if not fitting:
      lines.append({'budget': budget, 'codec': None})
      continue
    best = max(fitting, key=lambda r: (column.quality(r), -r['bytes']))
    others = [row for row in fitting if row is not best]
    intervals = _differences(drawn, best, others, column, level)
    tied = [n for n, each in intervals.items() if each['low'] <= 0]
    unlike = labels.is_picture(best)
    rivals = [row for row in others if labels.is_picture(row) != unlike]
    rival = max(rivals, key=column.quality, default=None)
    lines.append(
      {
        'budget': budget,
        'codec': best['name'],
        'bytes': best['bytes'],
        'score': best[column.name],
        'kept': column.kept(best),
        'tied': tied,
        'others': len(others),
        'rival': rival and {'name': rival['name'], **intervals[rival['name']]},
      }
    )
  return lines


def _differences(
  drawn: Any,
  best: Row,
  others: Sequence[Row],
  column: columns.Column,
  level: float,
) -> dict[str, dict[str, float]]:
  """Returns by how much a row is better than others, on their pictures."""
  if not others:
    return {}
  images, draws = drawn(best['name'])
  for row in others:
    if drawn(row['name'])[0] != images:
      raise ValueError(
        f'{row["name"]} and {best["name"]} were not evaluated on the same'
        ' pictures; finish the evaluation first'
      )
  names = [row['name'] for row in others]
  values = [column.quality(best) - column.quality(row) for row in others]
  each = [column.sign * (draws - drawn(name)[1]) for name in names]
  intervals = metrics.simultaneous(
    np.array(values), np.stack(each, axis=1), level
  )
  return {
    name: interval._asdict()
    for name, interval in zip(names, intervals, strict=True)
  }


def budget_table(
  groups: Mapping[str, Sequence[Mapping[str, Any]]],
  rows: Mapping[str, Sequence[Row]],
) -> str:
  """Returns the best codecs of several tasks as text; see `budget_cells`."""
  return _with_names(budget_cells(groups, rows))


def budget_cells(
  groups: Mapping[str, Sequence[Mapping[str, Any]]],
  rows: Mapping[str, Sequence[Row]],
) -> list[list[str]]:
  """Returns the cells of the best codecs of several tasks, titles first.

  Args:
    groups: From `best_within`, by the name of the task.
    rows: From `summarize`, by the same names.
  """
  head = ['', 'at most', 'bytes', 'score', 'kept', 'as good', 'rival', 'codec']
  cells = [head]
  for title, lines in groups.items():
    column = columns.column(rows[title])
    for line in lines:
      budget = text.size(line['budget'])
      if line['codec'] is None:
        cells.append([title, budget, '-', '-', '-', '-', '-', 'none'])
        continue
      cells.append(
        [
          title,
          budget,
          text.size(line['bytes']),
          column.write(line['score']),
          text.whole_percent(line['kept']),
          f'{len(line["tied"])} of {line["others"]}',
          _rival(line['rival'], column),
          line['codec'],
        ]
      )
  return cells


def _with_names(cells: Sequence[Sequence[str]]) -> str:
  """Pads cells to columns, of which the last, of names, is flush left."""
  *numbers, names = zip(*cells, strict=True)
  padded = text.align([*zip(*numbers, strict=True)]).split('\n')
  width = max(map(len, padded))
  lines = [
    f'{line:{width}}  {name}' for line, name in zip(padded, names, strict=True)
  ]
  return '\n'.join(lines)


def kept_table(
  rows: Mapping[str, Sequence[Row]], k: int = 8, share: float = 0.95
) -> str:
  """Returns what k centroids keep of tasks as text; see `kept_cells`."""
  return text.align(kept_cells(rows, k, share))


def kept_cells(
  rows: Mapping[str, Sequence[Row]], k: int = 8, share: float = 0.95
) -> list[list[str]]:
  """Returns cells of what k centroids keep, and of what keeps a share.

  Args:
    rows: From `summarize`, by the name of the task; those of all vectors among
      them.
    k: Number of centroids of k-means++.
    share: Share of the score of all vectors.
  """
  ends = f'{text.percent(share)} from'
  head = ['', 'asked', 'all vectors', 'blind', f'k = {k} keeps']
  cells = [[*head, ends, 'features', 'image codec']]
  for title, group in rows.items():
    full = labels.full(group)
    if full is None:
      continue
    column = columns.column(group)
    curve = paper_curve(group)
    at_k = labels.at_k(curve, k)
    first = next((r for r in curve if (column.kept(r) or 0) >= share), None)
    coded = [row for row in group if not labels.is_full(row)]
    sizes = (
      'none' if row is None else text.size(row['bytes'])
      for row in cheapest_with(coded, share).values()
    )
    cells.append(
      [
        title,
        f'{full.get("questions", full["images"]):,}',
        column.text(full),
        text.whole_percent(blind_share(group)),
        _kept_interval(column, at_k),
        'no k' if first is None else f'k = {first["sent"]:g}',
        *sizes,
      ]
    )
  return cells


def _kept_interval(column: columns.Column, row: Row | None) -> str:
  """Returns the share that a row keeps, with its interval."""
  if row is None or column.kept(row) is None:
    return '-'
  kept, low, high = (
    f'{100 * (column.kept(row, end) or 0):.0f}' for end in ('', '_low', '_high')
  )
  return f'{kept}% [{low}, {high}]'


def _rival(rival: Mapping[str, Any] | None, column: columns.Column) -> str:
  if rival is None:
    return '-'
  value, low, high = (
    # From 0, so that there is no -0.0.
    f'{0.0 - column.scale * rival[end]:+.1f}'
    for end in ('value', 'high', 'low')
  )
  return f'{value} [{low}, {high}]'


def control_within(
  records: Sequence[Mapping[str, Any]],
  rows: Sequence[Row],
  budgets: Sequence[float | int],
  *,
  y: columns.Y = None,
  **draws: Any,
) -> list[dict[str, Any]]:
  """Scores features on questions that a picture of as many bytes gets wrong.

  The picture is the best image codec within a budget. What it gets right
  needs little of the picture.

  Args:
    records: From `evaluate` of a task, with scores of each answer.
    rows: From `summarize`, of the same records.
    budgets: Largest mean bytes of a message.
    y: Metric of the scores; None for the first of the rows.
    **draws: Settings of the bootstrap, as of `summarize`.

  Returns:
    A line for each budget in which there are features and a picture:
    {'budget', 'control' (name of the image codec), 'questions' (that it gets
    wrong), 'of' (all of them), 'codec' (name of the best features), 'score',
    'low', 'high' (on those questions), 'full' (score of all vectors on them)};
    without 'codec' and scores where it gets none wrong.

  Source: VTC-Bench's control, samples that a downsampled picture gets wrong.
  """
  column = columns.column(rows, y)
  full = labels.full(rows)
  groups = [
    [row for row in group if not labels.is_full(row)]
    for group in rate_lib.split(rows)
  ]
  lines = []
  for budget in budgets:
    fitting = [[r for r in group if r['bytes'] <= budget] for group in groups]
    if full is None or not all(fitting):
      continue
    best, control = (
      max(group, key=lambda r: (column.quality(r), -r['bytes']))
      for group in fitting
    )
    line = {'budget': budget, 'control': control['name']}
    wrong = grids_lib.of_wrong(records, control['name'], column.name)
    of_control = [r for r in wrong if r['name'] == control['name']]
    line |= {'questions': len(of_control), 'of': control['questions']}
    if wrong:
      names = best['name'], full['name']
      shown = [record for record in wrong if record['name'] in names]
      scored = {
        row['name']: row
        for row in summary.summarize(shown, metrics=[column.name], **draws)
      }
      on_best = scored[best['name']]
      line |= {
        'codec': best['name'],
        'score': on_best[column.name],
        'low': on_best[f'{column.name}_low'],
        'high': on_best[f'{column.name}_high'],
        'full': scored[full['name']][column.name],
      }
    lines.append(line)
  return lines


def control_table(
  groups: Mapping[str, Sequence[Mapping[str, Any]]],
  rows: Mapping[str, Sequence[Row]],
) -> str:
  """Returns scores on what a picture gets wrong as text: `control_cells`."""
  return _with_names(control_cells(groups, rows))


def control_cells(
  groups: Mapping[str, Sequence[Mapping[str, Any]]],
  rows: Mapping[str, Sequence[Row]],
) -> list[list[str]]:
  """Returns cells of scores on what a picture gets wrong, titles first.

  Args:
    groups: From `control_within`, by the name of the task.
    rows: From `summarize`, by the same names.
  """
  head = ['', 'at most', 'wrong', 'features', 'all vectors', 'the picture']
  cells = [head]
  for title, lines in groups.items():
    write = columns.column(rows[title]).write
    for line in lines:
      scores = ['-', '-']
      if 'codec' in line:
        ends = f'{write(line["low"])}, {write(line["high"])}'
        scores = [f'{write(line["score"])} [{ends}]', write(line['full'])]
      cells.append(
        [
          title,
          text.size(line['budget']),
          f'{line["questions"]:,} of {line["of"]:,}',
          *scores,
          line['control'],
        ]
      )
  return cells


def cheapest_with(
  rows: Sequence[Row], share: float, y: columns.Y = None
) -> dict[str, Row | None]:
  """Returns the codecs of fewest bytes that keep a share of the score.

  Args:
    rows: From `summarize`, those of all vectors among them.
    share: Share of the score of all vectors; 0.95 keeps 95%.
    y: Metric of the score; None for the first of the rows.

  Returns:
    The row of features and that of an image codec; None where none does.
  """
  column = columns.column(rows, y)
  groups = zip(('features', 'image codec'), rate_lib.split(rows), strict=True)
  return {
    name: min(
      (r for r in group if (column.kept(r) or 0.0) >= share),
      key=lambda row: row['bytes'],
      default=None,
    )
    for name, group in groups
  }


def blind_share(rows: Sequence[Row], y: columns.Y = None) -> float | None:
  """Returns the share of all vectors' score that blind answers have, at most.

  Args:
    rows: From `summarize`.
    y: Metric of the score; None for the first of the rows.
  """
  column = columns.column(rows, y)
  shares = [column.kept(row) for row in rows if labels.is_blind(row)]
  return max((share for share in shares if share is not None), default=None)


def paper_curve(rows: Sequence[Row]) -> list[Row]:
  """Returns the curve of k-means++, whatever its coding; else the first."""
  curves = labels.curves(rows, coding=False)
  return curves.get('k-means++') or next(iter(curves.values()), [])


def paper_label(groups: Mapping[str, Sequence[Row]]) -> str:
  """Returns the label of the curve of several tasks, 'k-means++' if any.

  Args:
    groups: From `summarize`, by the name of the task.
  """
  curves = filter(None, map(paper_curve, groups.values()))
  row = next((curve[0] for curve in curves), None)
  return 'k-means++' if row is None else labels.label(row, coding=False)


def line_of(
  records: Sequence[Mapping[str, Any]], kinds: Sequence[str]
) -> list[Mapping[str, Any]]:
  """Returns the records of a line of a figure: those of some kinds, or all."""
  return grids_lib.of_kinds(records, *kinds) if kinds else [*records]
