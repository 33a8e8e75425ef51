"""Bytes against scores: families of codecs, fronts, savings at equal score."""

from collections.abc import Mapping, Sequence
import re
from typing import Any

import numpy as np

from collab_jax import metrics, quantizers
from collab_jax.evaluation.report import (
  labels,
  summary,
)

Row = Mapping[str, Any]

FEATURES, PICTURES = 'all features', 'all image codecs'

# How quantizers are called in figures; others go by their own names.
_NAMES = {
  'ecsq': 'ECSQ',
  'ecvq': 'ECVQ',
  'fsq': 'FSQ',
  'identity': '16 bits',
  'kmeans': 'k-means',
  'merge': 'merging',
  'pca': 'PCA',
  'product_vq': 'product VQ',
  'residual_vq': 'residual VQ',
  'shared_vq': 'shared VQ',
}
_NUMBER = re.compile(r'\w+=-?\d[\d.e+-]*,?')
# An interval needs this share of the draws: in others the curves may part.
_ENOUGH = 0.95


def family(row: Row) -> str:
  """What kind of codec a row is, whatever its numbers: 'merging + PCA'."""
  if labels.is_picture(row):
    return labels.label(row).split()[0]
  label = labels.label(row)
  if labels.is_plain(row) and not label.endswith(')'):
    return label
  # Split and coding stand behind the quantizer, as in 'pool(k=8)@head/best'.
  own = re.sub(r'(@\w+)?(/\w+)?$', '', row['name'])
  parts = re.split('[(),]+', _NUMBER.sub('', own))
  start = '++' if 'init=++' in parts else ''
  names = []
  for part in parts:
    name = part.rpartition('=')[2]
    if name in quantizers.NAMES or ':' in name:
      short = name.rpartition(':')[2]
      names.append(_NAMES.get(short, short.replace('_', ' ')))
  return ' + '.join([names[0] + start, *names[1:]]) if names else row['name']


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Groups codecs that differ in numbers only.

  Args:
    rows: From `summarize`.

  Returns:
    Rows by family, each sorted by bytes; blind rows are left out.
  """
  found: dict[str, list[Row]] = {}
  for row in sorted(rows, key=lambda row: row['bytes']):
    if not labels.is_blind(row):
      found.setdefault(family(row), []).append(row)
  return found


def front(rows: Sequence[Row], y: str = 'bleu4') -> list[Row]:
  """The rows that no other one beats, by rising bytes.

  Args:
    rows: From `summarize`, at least one.
    y: Column of the score.

  Returns:
    Those of the Pareto front.
  """
  chosen = metrics.pareto_front(
    [row['bytes'] for row in rows], [row[y] for row in rows]
  )
  return [rows[i] for i in chosen]


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
  """Rows of features, and of pictures; blind ones are neither."""
  seen = [row for row in rows if not labels.is_blind(row)]
  features = [row for row in seen if not labels.is_picture(row)]
  return features, [row for row in seen if labels.is_picture(row)]


def cheapest(rows: Sequence[Row], score: float) -> Row | None:
  """The row of fewest bytes that reaches a BLEU-4."""
  enough = [row for row in rows if row['bleu4'] >= score]
  return min(enough, key=lambda row: row['bytes'], default=None)


def bd_rates(
  records: Sequence[Mapping[str, Any]],
  *,
  method: str = 'pchip',
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Bjontegaard delta rates of log bytes at equal BLEU-4.

  Of every curve the Pareto front is taken first. The anchor is the front of
  all image codecs: their best at every score. The interval draws the images
  again: in every draw all codecs are scored on the same images, and fronts and
  delta rates are made anew.

  Args:
    records: From `evaluate` or `read_records`.
    method: Of `metrics.bd_rate`.
    resamples: Draws of the bootstrap.
    level: Part of the draws an interval holds.
    seed: Seed of the draws.

  Returns:
    {'curve', 'anchor', 'bd_rate' (-0.75: a quarter of the bytes), 'low',
    'high', 'scores' (the lowest and highest BLEU-4 that both have), 'points'
    (of the curve's front)}: all features first, then each family of features,
    then all features against each kind of image codec. What cannot be compared
    has None, and 'why'.

  Raises:
    ValueError: There are no records, or a setting of the draws is out of range.
  """
  summary.check_draws(resamples, level, seed)
  drawn = _drawn(records, resamples, seed)
  features, pictures = split([point['row'] for point in drawn.values()])
  if not (features and pictures):
    return []
  groups = families([*features, *pictures])
  pairs = [(FEATURES, features, PICTURES, pictures)]
  pairs += [
    (name, rows, PICTURES, pictures)
    for name, rows in groups.items()
    if not (labels.is_picture(rows[0]) or labels.is_full(rows[0]))
  ]
  pairs += [
    (FEATURES, features, name, rows)
    for name, rows in groups.items()
    if labels.is_picture(rows[0])
  ]
  curves = {
    name: _Curve([drawn[row['name']] for row in rows])
    for pair in pairs
    for name, rows in (pair[:2], pair[2:])
  }
  return [
    {
      'curve': name,
      'anchor': anchor,
      **_saved(curves[name], curves[anchor], method, resamples, level),
    }
    for name, _, anchor, _ in pairs
  ]


def bd_rate(
  records: Sequence[Mapping[str, Any]],
  anchors: Sequence[Mapping[str, Any]],
  *,
  method: str = 'pchip',
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> dict[str, Any]:
  """Bjontegaard delta rate of one model's features against another's.

  As `bd_rates`, of the fronts of all features of each; a draw of images is the
  same for both.

  Args:
    records: Of one model.
    anchors: Of the other, on the same images.
    method: As of `bd_rates`.
    resamples: As of `bd_rates`.
    level: As of `bd_rates`.
    seed: As of `bd_rates`.

  Returns:
    'bd_rate', 'low', 'high', 'scores' and 'points', or 'why' there is none.

  Raises:
    ValueError: As `bd_rates`, or the images are not the same.
  """
  summary.check_draws(resamples, level, seed)
  pair = []
  images = [{record['image_id'] for record in r} for r in (records, anchors)]
  if images[0] != images[1]:
    raise ValueError(
      f'got records of {len(images[0])} and {len(images[1])} images, expected'
      ' the same images of both models; finish both evaluations first'
    )
  for own in (records, anchors):
    drawn = _drawn(own, resamples, seed)
    features, _ = split([point['row'] for point in drawn.values()])
    pair.append(_Curve([drawn[row['name']] for row in features]))
  curve, anchor = pair
  return {**_saved(curve, anchor, method, resamples, level)}


class _Curve:
  """The Pareto front of some codecs in each draw; draw 0 is all images."""

  def __init__(self, points: Sequence[Mapping[str, Any]]):
    self._points = points
    self._fronts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

  def front(self, draw: int) -> tuple[np.ndarray, np.ndarray]:
    if draw not in self._fronts:
      x = np.array([point['bytes'][draw] for point in self._points])
      y = np.array([point['bleu4'][draw] for point in self._points])
      chosen = metrics.pareto_front(x, y)
      self._fronts[draw] = x[chosen], y[chosen]
    return self._fronts[draw]


def _saved(curve: _Curve, anchor: _Curve, method, resamples, level) -> Row:
  """The delta rate of a curve with its interval, or why there is none."""

  def saved(draw):
    return metrics.bd_rate(*anchor.front(draw), *curve.front(draw), method)

  try:
    made: dict[str, Any] = {'bd_rate': saved(0)}
  except ValueError as error:
    return {'bd_rate': None, 'why': str(error)}
  draws = []
  for draw in range(1, resamples + 1):
    try:
      draws.append(saved(draw))
    except ValueError:  # The fronts of this draw share no score.
      continue
  low, high = None, None
  if len(draws) >= _ENOUGH * resamples:
    low, high = metrics.interval(np.array(draws), level)
  scores = anchor.front(0)[1], curve.front(0)[1]
  made |= {'low': low, 'high': high, 'scores': metrics.overlap(*scores)}
  return made | {'points': len(scores[1])}


def _drawn(records, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
  """Bytes and BLEU-4 of each codec: of all images, then of every draw."""
  groups: dict[str, list[Any]] = {}
  for record in records:
    if not labels.is_blind(record):
      groups.setdefault(record['name'], []).append(record)
  grids = {name: summary.grid_of(group) for name, group in groups.items()}
  shared = set.intersection(
    *({image[0]['image_id'] for image in grid} for grid in grids.values())
  )
  if not shared:
    raise ValueError(
      'the codecs have no picture in common; finish the evaluation first'
    )
  scores = summary.Scores(records)
  found = {}
  for name, grid in grids.items():
    grid = [image for image in grid if image[0]['image_id'] in shared]
    flat = [record for image in grid for record in image]
    shape = len(grid), len(grid[0])
    bleu = scores.of(flat)['bleu'].reshape(*shape, -1)
    sizes = [record['total_bytes'] for record in flat]
    size = metrics.mean_stats(np.reshape(sizes, shape).astype(float))
    made: dict[str, Any] = {}
    for key, stats, fn in (
      ('bleu4', bleu, metrics.bleu4),
      ('bytes', size, metrics.mean),
    ):
      whole = np.mean(fn(stats.sum(0)))
      draws = metrics.drawn_scores(stats, fn, resamples, seed)
      made[key] = np.concatenate([[whole], draws])
    row = {'name': name, 'codec': flat[0]['codec'], 'bytes': made['bytes'][0]}
    found[name] = made | {'row': row}
  return found
