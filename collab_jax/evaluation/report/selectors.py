"""Selectors compared at equal numbers of vectors."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import numpy as np

from collab_jax import metrics, registry
from collab_jax.evaluation.report import (
  columns,
  labels,
  latency,
  summary,
  text,
)
from collab_jax.evaluation.report import grids as grids_lib

Row = Mapping[str, Any]

# The method that the others are compared with; see `labels.method`.
BASELINE = ('kmeans', '++')


def paired_differences(
  records: Sequence[Mapping[str, Any]],
  rows: Sequence[Row],
  *,
  y: columns.Y = None,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Compares each selector with the best one and with k-means++.

  All are scored on the same draws of the pictures, seeds averaged in each. The
  intervals of all selectors at a k, of the one kind or the other, hold at once
  (`metrics.simultaneous`). The best is that of all pictures; if several are
  equally good, chance decides which.

  Args:
    records: From `evaluate`.
    rows: From `summarize`, of the same records.
    y: Metric of the scores; None for the first of the rows.
    resamples: Draws of the bootstrap.
    level: Part of the draws in which the intervals hold.
    seed: Seed of the draws.

  Returns:
    {'label', 'name', 'k', 'best' and 'baseline': {'name', 'value', 'low',
    'high'} in scores of the metric}, a line per selector and k; None where
    there is nothing to compare with. An interval without 0 is a significant
    difference.

  Raises:
    ValueError: Two selectors were not evaluated on the same pictures.
  """
  score = columns.column(rows, y)
  if y is None:
    registry.check_data('y', y := score.name)
  drawn = bootstrap_scores(records, metrics.make(y), resamples, seed)
  lines = []
  curves = ranked(rows, y)
  for k in sorted({row['sent'] for curve in curves.values() for row in curve}):
    column = {
      label: row
      for label, curve in curves.items()
      if (row := labels.at_k(curve, k)) is not None
    }
    best = max(column.values(), key=score.quality)
    to_best = _differences(drawn, column, best, score.name, level)
    baselines = [r for r in column.values() if labels.method(r) == BASELINE]
    to_baseline = {}
    if baselines:
      to_baseline = _differences(drawn, column, baselines[0], score.name, level)
    lines += [
      {
        'label': label,
        'name': row['name'],
        'k': k,
        'best': to_best.get(row['name']),
        'baseline': to_baseline.get(row['name']),
      }
      for label, row in column.items()
    ]
  return lines


def bootstrap_scores(
  records: Sequence[Mapping[str, Any]],
  metric: metrics.Metric,
  resamples: int,
  seed: int,
) -> Callable[[str], tuple[list[Any], np.ndarray]]:
  """Returns a function from a codec to its images and scores in each draw.

  Args:
    records: From `evaluate`.
    metric: Metric of the scores.
    resamples: Draws of the bootstrap.
    seed: Seed of the draws.
  """
  scores = summary.Scores(records, [metric])
  grids = grids_lib.grids_of(records)

  @functools.cache
  def drawn(name):
    stats = scores.of(grids[name], metric)
    draws = metrics.drawn_scores(stats, metric.combine, resamples, seed)
    return [grids_lib.key(image[0]) for image in grids[name]], draws

  return drawn


def _differences(
  drawn: Callable[[str], tuple[list[Any], np.ndarray]],
  column: Mapping[str, Row],
  row: Row,
  y: str,
  level: float,
) -> dict[str, dict[str, Any]]:
  """Returns by how much each other row of a column has more than a row."""
  name = row['name']
  others = {other['name']: other for other in column.values()}
  for other in others:
    if drawn(other)[0] != drawn(name)[0]:
      raise ValueError(
        f'{other} and {name} were not evaluated on the same pictures; finish'
        ' the evaluation first'
      )
  intervals = metrics.simultaneous(
    np.array([other[y] - row[y] for other in others.values()]),
    np.stack([drawn(other)[1] - drawn(name)[1] for other in others], axis=1),
    level,
  )
  return {
    other: {'name': name, **interval._asdict()}
    for other, interval in zip(others, intervals, strict=True)
    if other != name
  }


def selector_table(
  rows: Sequence[Row],
  differences: Sequence[Mapping[str, Any]],
  y: columns.Y = None,
) -> str:
  """Returns the comparison as text: scores kept, bytes and milliseconds.

  Args:
    rows: From `summarize`, those of all vectors among them.
    differences: From `paired_differences`, of the same metric.
    y: Metric of the scores; None for the first of the rows.

  Returns:
    A block each, selectors by their mean share of the score.

  Raises:
    ValueError: All vectors were not evaluated.
  """
  column = columns.column(rows, y)
  full = labels.full(rows)
  if full is None:
    raise ValueError('full: no row of all vectors, which shares are of')
  curves = ranked(rows, y)
  ks = sorted({row['sent'] for curve in curves.values() for row in curve})
  lines = {(line['label'], line['k']): line for line in differences}

  def block(shown):
    def cell(label, row):
      share = _share(shown, row, full)
      line = lines.get((label, row['sent']))
      return share + mark(line, shown.sign) if shown is column else share

    return _block(_title(shown), curves, ks, cell)

  notes = ['* not significantly below the best of the column']
  if any(line['baseline'] for line in differences):
    notes.append('+ - significantly above, below k-means++')
  notes.append(
    f'by simultaneous {text.coverage(rows)} intervals of the paired'
    ' differences of a column'
  )
  return '\n\n'.join(
    [
      block(column),
      '\n'.join(notes),
      *map(block, columns.others(rows, column)),
      _block('bytes', curves, ks, lambda label, row: text.size(row['bytes'])),
      _costs(curves, 8 if 8 in ks else ks[0]),
    ]
  )


def _block(
  title: str,
  curves: Mapping[str, Sequence[Row]],
  ks: Sequence[int],
  cell: Callable[[str, Row], str],
) -> str:
  """Returns a table of one number, by selector and k."""
  lines = [[title, *(f'k={k}' for k in ks)]]
  for label, curve in curves.items():
    cells = {row['sent']: cell(label, row) for row in curve}
    lines.append([label, *(cells.get(k, '') for k in ks)])
  return text.align(lines)


def _costs(curves: Mapping[str, Sequence[Row]], k: int) -> str:
  """Returns a table of the seconds that a picture takes, at one k."""
  title = f'milliseconds of a picture, k={k}'
  lines = [[title, 'edge', 'server', 'quantizer alone']]
  for label, curve in curves.items():
    row = labels.at_k(curve, k)
    if row:
      seconds = *latency.compute_seconds(row), row['seconds'].get('quantize')
      lines.append([label, *(f'{1000 * (s or 0.0):.2f}' for s in seconds)])
  return text.align(lines)


def _title(column: columns.Column) -> str:
  if not column.higher_is_better:
    return column.title
  return f"% of all vectors' {column.label}"


def _share(column: columns.Column, row: Row, full: Row) -> str:
  """Returns the percent kept of a score; itself where lower is better."""
  kept = column.kept(row)
  if column.higher_is_better and kept is None and full[column.name]:
    kept = row[column.name] / full[column.name]
  return column.text(row) if kept is None else f'{100 * kept:.1f}'


def mark(line: Mapping[str, Any] | None, sign: int = 1) -> str:
  """Returns '+' or '-' beside k-means++, and '*' for as good as the best.

  Args:
    line: From `paired_differences`.
    sign: -1 where lower scores are better.

  Returns:
    Two characters; a blank where there is nothing to compare with, or no
    significant difference.
  """
  if line is None:
    return '  '
  base, best = (_better(line[name], sign) for name in ('baseline', 'best'))
  letter = ' '
  if base:
    letter = '+' if base[0] > 0 else '-' if base[1] < 0 else ' '
  return letter + ('*' if best is None or best[1] >= 0 else ' ')


def _better(
  difference: Mapping[str, Any] | None, sign: int
) -> tuple[float, float] | None:
  """Returns the interval by which a row is better than another."""
  if difference is None:
    return None
  ends = sorted(sign * difference[end] for end in ('low', 'high'))
  return ends[0], ends[1]


def ranked(rows: Sequence[Row], y: columns.Y = None) -> dict[str, list[Row]]:
  """Groups rows by `curves`, the best mean score first.

  Args:
    rows: From `summarize`.
    y: Metric of the score; None for the first of the rows.

  Returns:
    Curves by label; labels leave out the coding if all are coded.
  """
  coded = all('coded' in label for label in labels.curves(rows))
  curves = labels.curves(rows, coding=not coded)

  column = columns.column(rows, y)

  def rank(label):
    # Shares, so that codecs are compared on the images that all have.
    shares = [column.kept(row) or 0.0 for row in curves[label]]
    if not column.higher_is_better:
      shares = [column.quality(row) for row in curves[label]]
    return -sum(shares) / len(shares), label

  return {label: curves[label] for label in sorted(curves, key=rank)}
