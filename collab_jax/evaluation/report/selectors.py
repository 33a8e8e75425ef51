"""Selectors compared at equal numbers of vectors."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import numpy as np

from collab_jax import metrics
from collab_jax.evaluation.report import labels, latency, summary, text

Row = Mapping[str, Any]

# The method that the others are compared with; see `labels.method`.
BASELINE = ('kmeans', '++')


def paired_differences(
  records: Sequence[Mapping[str, Any]],
  rows: Sequence[Row],
  *,
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
    resamples: Draws of the bootstrap.
    level: Part of the draws in which the intervals hold.
    seed: Seed of the draws.

  Returns:
    {'label', 'name', 'k', 'best' and 'baseline': {'name', 'value', 'low',
    'high'} in BLEU-4}, a line per selector and k; None where there is nothing
    to compare with. An interval without 0 is a significant difference.

  Raises:
    ValueError: Two selectors were not evaluated on the same pictures.
  """
  drawn = _bootstrap(records, resamples, seed)
  lines = []
  curves = ranked(rows)
  for k in sorted({row['sent'] for curve in curves.values() for row in curve}):
    column = {
      label: row
      for label, curve in curves.items()
      if (row := _row_with_k(curve, k)) is not None
    }
    best = max(column.values(), key=lambda row: row['bleu4'])
    to_best = _differences(drawn, column, best, level)
    baselines = [r for r in column.values() if labels.method(r) == BASELINE]
    to_baseline = {}
    if baselines:
      to_baseline = _differences(drawn, column, baselines[0], level)
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


def _bootstrap(
  records: Sequence[Mapping[str, Any]], resamples: int, seed: int
) -> Callable[[str], tuple[list[int], np.ndarray]]:
  """Returns a function from a codec to its images and BLEU-4 in each draw."""
  scores, grids = summary.Scores(records), summary.grids_of(records)

  @functools.cache
  def drawn(name):
    bleu = scores.of(grids[name])['bleu']
    draws = metrics.drawn_scores(bleu, metrics.bleu4, resamples, seed)
    return [image[0]['image_id'] for image in grids[name]], draws

  return drawn


def _differences(
  drawn: Callable[[str], tuple[list[int], np.ndarray]],
  column: Mapping[str, Row],
  row: Row,
  level: float,
) -> dict[str, dict[str, Any]]:
  """Returns by how much each other row of a column is better than a row."""
  name = row['name']
  others = {other['name']: other for other in column.values()}
  for other in others:
    if drawn(other)[0] != drawn(name)[0]:
      raise ValueError(
        f'{other} and {name} were not evaluated on the same pictures; finish'
        ' the evaluation first'
      )
  intervals = metrics.simultaneous(
    np.array([other['bleu4'] - row['bleu4'] for other in others.values()]),
    np.stack([drawn(other)[1] - drawn(name)[1] for other in others], axis=1),
    level,
  )
  return {
    other: {'name': name, **interval._asdict()}
    for other, interval in zip(others, intervals, strict=True)
    if other != name
  }


def selector_table(
  rows: Sequence[Row], differences: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the comparison as text: scores kept, bytes and milliseconds.

  Args:
    rows: From `summarize`, those of all vectors among them.
    differences: From `paired_differences`.

  Returns:
    A block each, selectors by their mean share of BLEU-4.

  Raises:
    ValueError: All vectors were not evaluated.
  """
  full = labels.full(rows)
  if full is None:
    raise ValueError('full: no row of all vectors, which shares are of')
  curves = ranked(rows)
  ks = sorted({row['sent'] for curve in curves.values() for row in curve})
  lines = {(line['label'], line['k']): line for line in differences}

  def bleu(label, row):
    return f'{100 * row["kept"]:.1f}{mark(lines.get((label, row["sent"])))}'

  def cider(label, row):
    del label
    return f'{100 * row["cider"] / full["cider"]:.1f}'

  notes = ['* not significantly below the best of the column']
  if any(line['baseline'] for line in differences):
    notes.append('+ - significantly above, below k-means++')
  notes.append(
    f'by simultaneous {text.coverage(rows)} intervals of the paired'
    ' differences of a column'
  )
  return '\n\n'.join(
    [
      _block("% of all vectors' BLEU-4", curves, ks, bleu),
      '\n'.join(notes),
      _block("% of all vectors' CIDEr", curves, ks, cider),
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
    row = _row_with_k(curve, k)
    if row:
      seconds = *latency.compute_seconds(row), row['seconds'].get('quantize')
      lines.append([label, *(f'{1000 * (s or 0.0):.2f}' for s in seconds)])
  return text.align(lines)


def mark(line: Mapping[str, Any] | None) -> str:
  """Returns '+' or '-' beside k-means++, and '*' for as good as the best.

  Args:
    line: From `paired_differences`.

  Returns:
    Two characters; a blank where there is nothing to compare with, or no
    significant difference.
  """
  if line is None:
    return '  '
  base, best = line['baseline'], line['best']
  sign = ' '
  if base:
    sign = '+' if base['low'] > 0 else '-' if base['high'] < 0 else ' '
  return sign + ('*' if best is None or best['high'] >= 0 else ' ')


def ranked(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Groups rows by `curves`, the best mean share of BLEU-4 first.

  Args:
    rows: From `summarize`.

  Returns:
    Curves by label; labels leave out the coding if all are coded.
  """
  coded = all('coded' in label for label in labels.curves(rows))
  curves = labels.curves(rows, coding=not coded)

  def rank(label):
    kept = [row['kept'] or 0.0 for row in curves[label]]
    return -sum(kept) / len(kept), label

  return {label: curves[label] for label in sorted(curves, key=rank)}


def _row_with_k(curve: Sequence[Row], k: int) -> Row | None:
  return next((row for row in curve if row['sent'] == k), None)
