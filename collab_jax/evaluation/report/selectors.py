"""Ways to choose what is sent, compared at equal numbers of vectors."""

from collections.abc import Mapping, Sequence
import functools
import re
from typing import Any

import numpy as np

from collab_jax import metrics
from collab_jax.evaluation.report import (
  labels,
  latency,
  summary,
  text,
)

Row = Mapping[str, Any]

_CODED = re.compile(r' \(coded\)|, coded\b')

# What the others are compared with, as `series.kind` has it.
BASELINE = ('kmeans', '++')


def paired_differences(
  records: Sequence[Mapping[str, Any]],
  rows: Sequence[Row],
  *,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """How far each selector is ahead of the best one and of k-means++.

  All are scored on the same draws of the pictures, seeds averaged in each. The
  intervals of all selectors at a k, of the one kind or the other, hold at once
  (`metrics.simultaneous`). The best is that of all pictures; which of several
  equals it is, is left to chance.

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
  """
  scores = summary.Scores(records)
  groups: dict[str, list[Mapping[str, Any]]] = {}
  for record in records:
    groups.setdefault(record['name'], []).append(record)

  @functools.cache
  def of(name):
    grid = summary.grid_of(groups[name])
    flat = scores.of([record for image in grid for record in image])
    stats = flat['bleu'].reshape(len(grid), len(grid[0]), -1)
    drawn = metrics.drawn_scores(stats, metrics.bleu4, resamples, seed)
    return [image[0]['image_id'] for image in grid], drawn

  def ahead(others, row):
    """Of each of the others, by name, how far it is ahead of this one."""
    name = row['name']
    ids, drawn = of(name)
    for other in others:
      if of(other)[0] != ids:
        raise ValueError(
          f'{other} and {name} were not evaluated on the same pictures; finish'
          ' the evaluation first'
        )
    found = metrics.simultaneous(
      np.array([others[other]['bleu4'] - row['bleu4'] for other in others]),
      np.stack([of(other)[1] - drawn for other in others], axis=1),
      level,
    )
    return {
      other: {'name': name, **difference._asdict()}
      for other, difference in zip(others, found, strict=True)
      if other != name
    }

  lines = []
  curves = ranked(rows)
  for k in sorted({row['sent'] for curve in curves.values() for row in curve}):
    found = {label: _at(curve, k) for label, curve in curves.items()}
    own = {label: row for label, row in found.items() if row is not None}
    named = {row['name']: row for row in own.values()}
    best = ahead(named, max(own.values(), key=lambda row: row['bleu4']))
    base = next((r for r in own.values() if labels.kind(r) == BASELINE), None)
    baseline = ahead(named, base) if base else {}
    for label, row in own.items():
      name = row['name']
      lines.append(
        {
          'label': label,
          'name': name,
          'k': k,
          'best': best.get(name),
          'baseline': baseline.get(name),
        }
      )
  return lines


def selector_table(
  rows: Sequence[Row], ahead: Sequence[Mapping[str, Any]]
) -> str:
  """The comparison as text: BLEU-4 and CIDEr kept, bytes and milliseconds.

  Args:
    rows: From `summarize`, those of all vectors among them.
    ahead: From `paired_differences`.

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
  found = {(line['label'], line['k']): line for line in ahead}

  def block(title, cell):
    lines = []
    for label, curve in curves.items():
      at = {row['sent']: cell(label, row) for row in curve}
      lines.append([label, *(at.get(k, '') for k in ks)])
    head = [title, *(f'k={k}' for k in ks)]
    return text.align([head, *lines])

  def bleu(label, row):
    return f'{100 * row["kept"]:.1f}{mark(found.get((label, row["sent"])))}'

  def cider(label, row):
    del label
    return f'{100 * row["cider"] / full["cider"]:.1f}'

  costs = [['milliseconds of a picture', 'edge', 'server', 'quantizer alone']]
  k = 8 if 8 in ks else ks[0]
  costs[0][0] += f', k={k}'
  for label, curve in curves.items():
    row = _at(curve, k)
    if row:
      edge, server = latency.compute(row)
      alone = row['seconds'].get('quantize') or 0.0
      costs.append([label, *(f'{1000 * s:.2f}' for s in (edge, server, alone))])
  notes = ['* not significantly below the best of the column']
  if any(line['baseline'] for line in ahead):
    notes.append('+ - significantly above, below k-means++')
  notes.append(
    f'by simultaneous {text.coverage(rows)} intervals of the paired'
    ' differences of a column'
  )
  return '\n\n'.join(
    [
      block("% of all vectors' BLEU-4", bleu),
      '\n'.join(notes),
      block("% of all vectors' CIDEr", cider),
      block('bytes', lambda label, row: text.size(row['bytes'])),
      text.align(costs),
    ]
  )


def mark(line: Mapping[str, Any] | None) -> str:
  """Two characters: '+', '-' beside k-means++, and '*' for as good as the best.

  A blank where there is nothing to compare with, or no significant difference.
  """
  if line is None:
    return '  '
  base, best = line['baseline'], line['best']
  sign = ' '
  if base:
    sign = '+' if base['low'] > 0 else '-' if base['high'] < 0 else ' '
  return sign + ('*' if best is None or best['high'] >= 0 else ' ')


def ranked(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Curves of `series.curves`, the best mean share of BLEU-4 first.

  Their labels leave out how messages are coded if that is the same for all.
  """
  curves = labels.curves(rows)
  if all('coded' in label for label in curves):
    curves = {_CODED.sub('', label): c for label, c in curves.items()}
  kept = {n: [r['kept'] or 0.0 for r in c] for n, c in curves.items()}
  order = sorted(curves, key=lambda n: (-sum(kept[n]) / len(kept[n]), n))
  return {name: curves[name] for name in order}


def _at(curve: Sequence[Row], k: int) -> Row | None:
  return next((row for row in curve if row['sent'] == k), None)
