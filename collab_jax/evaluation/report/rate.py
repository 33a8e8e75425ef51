"""Bytes against scores: families of codecs, Pareto fronts, delta rates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from collab_jax import metrics
from collab_jax.evaluation.report import (
  columns,
  labels,
  settings,
  summary,
  text,
)
from collab_jax.evaluation.report import grids as grids_lib

Row = Mapping[str, Any]

FEATURES, PICTURES = 'all features', 'all image codecs'

# Names of quantizers in figures; others keep their own.
_TITLES = {
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
# Fields of a record that a row keeps, as labels are made from them.
_ROW_FIELDS = 'name', 'codec', 'settings'
# An interval needs this share of the draws: in others the curves may part.
_MIN_DRAWS = 0.95


def family(row: Row) -> str:
  """Returns the kind of a row's codec, whatever its numbers: 'merging + PCA'.

  A link has a family of its own for each transport and channel, which are named
  with their numbers: 'merging + PCA, whole, erasure(p=0.1)'.

  Args:
    row: From `summarize`.
  """
  return ', '.join([_codec_family(row), *labels.links(row)])


def _codec_family(row: Row) -> str:
  """Returns the kind of the codec in a link, or of a codec alone."""
  label = labels.label(row, link=False)
  if labels.is_picture(row):
    return label.split()[0]
  codec = settings.nested(row)
  inner = codec.get('quantizer') or codec
  # In links, methods that are labelled by their class alone have its title.
  bare = labels.links(row) and label == labels.title(inner)
  if labels.is_plain(row) and not label.endswith(')') and not bare:
    return label
  return ' + '.join(_titles(inner))


def _titles(codec: Mapping[str, Any]) -> list[str]:
  """Returns the titles of a quantizer and of those within it, outer first."""
  title = labels.title(codec)
  titles = [_TITLES.get(title, title.replace('_', ' '))]
  if codec.get('init') == '++':
    titles[0] += '++'
  for value in settings.shown(codec).values():
    if isinstance(value, Mapping) and 'quantizer' in value:
      titles += _titles(value)
  return titles


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Groups codecs that differ in numbers only.

  Args:
    rows: From `summarize`.

  Returns:
    Rows by family, each sorted by bytes; blind rows are left out.
  """
  groups: dict[str, list[Row]] = {}
  for row in sorted(rows, key=lambda row: row['bytes']):
    if not labels.is_blind(row):
      groups.setdefault(family(row), []).append(row)
  return groups


def front(rows: Sequence[Row], y: columns.Y = None) -> list[Row]:
  """Returns the Pareto front: the rows that no other one beats.

  Args:
    rows: From `summarize`, at least one.
    y: Metric of the score; None for the first of the rows.

  Returns:
    Rows by rising bytes.
  """
  quality = columns.column(rows, y).quality
  indices = metrics.pareto_front(
    [row['bytes'] for row in rows], [quality(row) for row in rows]
  )
  return [rows[i] for i in indices]


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
  """Separates rows of features from those of pictures; drops blind ones."""
  seen = [row for row in rows if not labels.is_blind(row)]
  features = [row for row in seen if not labels.is_picture(row)]
  return features, [row for row in seen if labels.is_picture(row)]


def cheapest(
  rows: Sequence[Row], score: float | int, y: columns.Y = None
) -> Row | None:
  """Returns the row of fewest bytes that reaches a score of a metric."""
  if not rows:  # Which have no metrics.
    return None
  column = columns.column(rows, y)
  enough = [row for row in rows if column.reaches(row, score)]
  return min(enough, key=lambda row: row['bytes'], default=None)


def is_paper_codec(row: Row) -> bool:
  """Returns whether a row is the paper's: k-means in 16 bits with k = 8."""
  return family(row) == 'k-means, random start' and row['sent'] == 8


def bd_rates(
  records: Sequence[Mapping[str, Any]],
  *,
  y: columns.Y = None,
  method: str = 'pchip',
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Returns Bjontegaard delta rates of log bytes at equal scores.

  Of every curve the Pareto front is taken first. The anchor is the front of
  all image codecs: their best at every score. The interval draws the images
  again: in every draw all codecs are scored on the same images, and fronts and
  delta rates are made anew.

  Args:
    records: From `evaluate` or `read_records`.
    y: Metric of the scores; None for the first of the records' task.
    method: Interpolation, see `metrics.bd_rate`.
    resamples: Draws of the bootstrap.
    level: Part of the draws an interval holds.
    seed: Seed of the draws.

  Returns:
    {'curve', 'anchor', 'bd_rate' (-0.75: a quarter of the bytes), 'low',
    'high', 'scores' (the lowest and highest that both have), 'points' (of the
    curve's front), 'metric'}: all features first, then each family of features,
    then all features against each kind of image codec. Curves that cannot be
    compared have None, and 'why'.

  Raises:
    ValueError: There are no records, or a setting of the draws is out of range.
  """
  summary.check_draws(resamples, level, seed)
  metric = _metric(records, y)
  scores = summary.Scores(records, [metric])
  points = _bootstrap_points(records, scores, metric, resamples, seed)
  features, pictures = split([point['row'] for point in points.values()])
  if not (features and pictures):
    return []
  groups = families([*features, *pictures])
  curves = {
    name: _BootstrapFront([points[row['name']] for row in rows])
    for name, rows in {
      FEATURES: features,
      PICTURES: pictures,
      **groups,
    }.items()
  }
  of_features = [n for n, r in groups.items() if not labels.is_picture(r[0])]
  pairs = [(FEATURES, PICTURES)]
  pairs += [
    (name, PICTURES)
    for name in of_features
    if not labels.is_full(groups[name][0])
  ]
  pairs += [(FEATURES, name) for name in groups if name not in of_features]
  return [
    {
      'curve': name,
      'anchor': anchor,
      **delta_rate(
        curves[name], curves[anchor], metric, resamples, level, method
      ),
    }
    for name, anchor in pairs
  ]


def bd_rate(
  records: Sequence[Mapping[str, Any]],
  anchors: Sequence[Mapping[str, Any]],
  *,
  y: columns.Y = None,
  method: str = 'pchip',
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> dict[str, Any]:
  """Returns the Bjontegaard delta rate between two models' features.

  As `bd_rates`, of the fronts of all features of each; a draw of images is the
  same for both.

  Args:
    records: Of one model.
    anchors: Of the other, on the same images.
    y: As of `bd_rates`.
    method: As of `bd_rates`.
    resamples: As of `bd_rates`.
    level: As of `bd_rates`.
    seed: As of `bd_rates`.

  Returns:
    'bd_rate', 'low', 'high', 'scores', 'points' and 'metric', or 'why' there
    is none.

  Raises:
    ValueError: As `bd_rates`, or the images are not the same.
  """
  summary.check_draws(resamples, level, seed)
  images = [
    {(record['image_id'], grids_lib.question(record)) for record in r}
    for r in (records, anchors)
  ]
  if images[0] != images[1]:
    raise ValueError(
      f'got records of {len(images[0])} and {len(images[1])} images, expected'
      ' the same images of both models; finish both evaluations first'
    )
  metric = _metric(records, y)
  curve, anchor = (
    feature_front(
      group, summary.Scores(group, [metric]), metric, resamples, seed
    )
    for group in (records, anchors)
  )
  return delta_rate(curve, anchor, metric, resamples, level, method)


def _metric(
  records: Sequence[Mapping[str, Any]], y: columns.Y
) -> metrics.Metric:
  """Returns a metric; the first of the records' task for None."""
  return metrics.make(grids_lib.metrics_of(records)[0] if y is None else y)


def feature_front(
  records: Sequence[Mapping[str, Any]],
  scores: summary.Scores,
  metric: metrics.Metric,
  resamples: int,
  seed: int,
) -> '_BootstrapFront':
  """Returns the front of all features of a model.

  Args:
    records: Records of the model.
    scores: Scores of the records.
    metric: Metric of the scores.
    resamples: Draws of the bootstrap.
    seed: Seed of the draws.
  """
  points = _bootstrap_points(records, scores, metric, resamples, seed)
  features, _ = split([point['row'] for point in points.values()])
  return _BootstrapFront([points[row['name']] for row in features])


class _BootstrapFront:
  """Pareto front of some codecs in each draw; draw 0 is all images."""

  def __init__(self, points: Sequence[Mapping[str, Any]]):
    self._points = points
    self._fronts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

  def of(self, draw: int) -> tuple[np.ndarray, np.ndarray]:
    if draw not in self._fronts:
      x = np.array([point['bytes'][draw] for point in self._points])
      y = np.array([point['quality'][draw] for point in self._points])
      indices = metrics.pareto_front(x, y)
      self._fronts[draw] = x[indices], y[indices]
    return self._fronts[draw]


def delta_rate(
  curve: _BootstrapFront,
  anchor: _BootstrapFront,
  metric: metrics.Metric,
  resamples: int,
  level: float,
  method: str = 'pchip',
) -> dict[str, Any]:
  """Returns the delta rate of a curve with its interval, or why none.

  Args:
    curve: Front of one model or family of codecs.
    anchor: Front that it is compared with.
    metric: Metric of the scores.
    resamples: Draws of both fronts.
    level: Part of the draws an interval holds.
    method: As of `bd_rates`.
  """

  def delta(draw):
    return metrics.bd_rate(*anchor.of(draw), *curve.of(draw), method)

  try:
    value = delta(0)
  except ValueError as error:
    return {'bd_rate': None, 'why': str(error), 'metric': metrics.name(metric)}
  draws = []
  for draw in range(1, resamples + 1):
    try:
      draws.append(delta(draw))
    except ValueError:  # The fronts of this draw share no score.
      continue
  low, high = None, None
  if len(draws) >= _MIN_DRAWS * resamples:
    low, high = metrics.interval(np.array(draws), level)
  scores = anchor.of(0)[1], curve.of(0)[1]
  sign = 1 if metric.higher_is_better else -1
  common = sorted(sign * score for score in metrics.overlap(*scores))
  return {
    'bd_rate': value,
    'low': low,
    'high': high,
    'scores': tuple(common),
    'points': len(scores[1]),
    'metric': metrics.name(metric),
  }


def _bootstrap_points(
  records: Sequence[Mapping[str, Any]],
  scores: summary.Scores,
  metric: metrics.Metric,
  resamples: int,
  seed: int,
) -> dict[str, dict[str, Any]]:
  """Returns bytes and scores of each codec: of all images, then of each draw.

  Returns:
    {'row', 'bytes' f[1 + resamples], 'quality' f[1 + resamples]} by name, of
    the images that all codecs share; the quality is the score with the sign by
    which more is better.
  """
  grids = grids_lib.grids_of([r for r in records if not labels.is_blind(r)])
  shared = set.intersection(
    *({grids_lib.key(image[0]) for image in grid} for grid in grids.values())
  )
  if not shared:
    raise ValueError(
      'the codecs have no picture in common; finish the evaluation first'
    )
  sign = 1 if metric.higher_is_better else -1
  points = {}
  for name, grid in grids.items():
    grid = [image for image in grid if grids_lib.key(image[0]) in shared]
    sizes = [[float(r['total_bytes']) for r in image] for image in grid]
    size = metrics.mean_stats(np.array(sizes))
    point: dict[str, Any] = {}
    for key, stats, fn, factor in (
      ('quality', scores.of(grid, metric), metric.combine, sign),
      ('bytes', size, metrics.mean, 1),
    ):
      draws = metrics.drawn_scores(stats, fn, resamples, seed)
      whole = np.mean(fn(stats.sum(0)))
      point[key] = factor * np.concatenate([[whole], draws])
    first = {n: v for n, v in grid[0][0].items() if n in _ROW_FIELDS}
    points[name] = {**point, 'row': {**first, 'bytes': point['bytes'][0]}}
  return points


def rate_table(
  rows: Sequence[Row], fronts_only: bool = False, y: columns.Y = None
) -> str:
  """Returns codecs by bytes as text, with the Pareto fronts marked.

  Args:
    rows: From `summarize`.
    fronts_only: Leave out codecs on no front.
    y: Metric of the fronts; None for the first of the rows.

  Returns:
    A block for features, one for image codecs, and one for blind baselines.
  """
  interval = f'{text.coverage(rows)} interval'
  column = columns.column(rows, y)
  others = columns.others(rows, column)
  head = ['', 'bytes', column.label, interval, 'kept']
  head += [*(other.label for other in others), 'codec']

  def cells(row):
    return [
      f'{row["bytes"]:,.1f}',
      column.text(row),
      column.interval(row),
      text.whole_percent(column.kept(row)),
      *(other.text(row, other.digits) for other in others),
      labels.text(row),
    ]

  lines = []
  for group in split(rows):
    best = [row['name'] for row in front(group, y)] if group else []
    for row in sorted(group, key=lambda row: (row['bytes'], row['name'])):
      if row['name'] in best or not fronts_only:
        lines.append(['*' if row['name'] in best else '', *cells(row)])
    lines.append([''] * len(head))
  lines += [['', *cells(row)] for row in rows if labels.is_blind(row)]
  *numbers, last = zip(head, *lines, strict=True)
  padded = text.align([*zip(*numbers, strict=True)]).split('\n')
  width = max(map(len, padded))
  named = [
    f'{line:{width}}  {name}'.rstrip()
    for line, name in zip(padded, last, strict=True)
  ]
  return '\n'.join(named).rstrip() + '\n\n* on the Pareto front of its block'


def operating_points(
  rows: Sequence[Row], levels: Sequence[float], y: columns.Y = None
) -> dict[str, Row]:
  """Chooses codecs to look at closely.

  Args:
    rows: From `summarize`, those of all vectors among them.
    levels: Shares of the score of all vectors; of no use where lower scores
      are better.
    y: Metric of the score; None for the first of the rows.

  Returns:
    Rows by label: for each level the cheapest features and the cheapest image
    codec that reach it, the cheapest JPEG file, the paper's k-means, and all
    vectors.
  """
  column = columns.column(rows, y)
  full = labels.full(rows)
  if full is None:
    return {}
  features, pictures = split(rows)
  files = [
    row
    for row in pictures
    if row['codec']['kind'] == 'jpeg' and not row['codec']['strip']
  ]
  points: dict[str, Row | None] = {}
  for level in levels if column.higher_is_better else ():
    share = f'{text.percent(level)} of {column.label}'
    score = level * full[column.name]
    points[f'features, {share}'] = cheapest(features, score, y)
    points[f'image codec, {share}'] = cheapest(pictures, score, y)
    points[f'JPEG file, {share}'] = cheapest(files, score, y)
  for row in features:
    if is_paper_codec(row):
      points["the paper's k-means, k = 8"] = row
  points['all vectors in 16 bits'] = full
  return {label: row for label, row in points.items() if row}


def rate_findings(
  rows: Sequence[Row],
  deltas: Sequence[Mapping[str, Any]],
  levels: Sequence[float],
  y: columns.Y = None,
) -> list[str]:
  """Returns the findings of the figure, as sentences.

  Args:
    rows: From `summarize`.
    deltas: From `bd_rates`, of the same metric.
    levels: Shares of the score of all vectors; of no use where lower scores
      are better.
    y: Metric of the score; None for the first of the rows.

  Returns:
    Sentences; none where the codecs they need were not evaluated.
  """
  features, pictures = split(rows)
  column = columns.column(rows, y)
  lines = _cheapest_findings(rows, column, levels)
  for row in features if pictures else ():
    name = family(row)
    if not (name.startswith('k-means') and labels.is_plain(row)):
      continue
    if row['sent'] != 8:
      continue
    sizes = [
      labels.crossing(front(group, y), row[column.name], 'bytes', y)
      for group in (pictures, features)
    ]
    needs = ['more' if n is None else f'{n:,.0f} bytes' for n in sizes]
    lines.append(
      f'{name}, 8 centroids in 16 bits: {row["bytes"]:,.0f} bytes,'
      f' {column.label} {column.text(row)}. For the same score the best image'
      f' codec needs'
      f' {needs[0]}, the best features {needs[1]}.'
    )
  return lines + [_delta_sentence(delta, rows, column) for delta in deltas]


def _cheapest_findings(
  rows: Sequence[Row], column: columns.Column, levels: Sequence[float]
) -> list[str]:
  """Returns a sentence about the cheapest codecs for each level."""
  full = labels.full(rows)
  if full is None or not column.higher_is_better:
    return []
  features, pictures = split(rows)
  lines = []
  for level in levels:
    score = level * full[column.name]
    parts = [
      f'{name} {row["bytes"]:,.0f} bytes ({labels.text(row)},'
      f' {column.text(row)} [{column.interval(row, ", ")}])'
      if (row := cheapest(group, score, column.name))
      else f'none of the {name} tried reaches it'
      for name, group in (('features', features), ('image codecs', pictures))
    ]
    lines.append(
      f'For {text.percent(level)} of the {column.label} of all vectors'
      f' ({column.write(score)} of {column.text(full)}) {parts[0]}; {parts[1]}.'
    )
  return lines


def _delta_sentence(
  delta: Mapping[str, Any], rows: Sequence[Row], column: columns.Column
) -> str:
  start = f'BD-rate of {delta["curve"]} against {delta["anchor"]}: '
  if delta['bd_rate'] is None:
    return f'{start}none, {delta["why"]}.'
  sentence = f'{start}{100 * delta["bd_rate"]:+.1f}%'
  if delta['low'] is not None:
    ends = f'{100 * delta["low"]:+.1f}, {100 * delta["high"]:+.1f}'
    sentence += f' [{ends}], {text.coverage(rows)}'
  low, high = map(column.write, delta['scores'])
  return f'{sentence}, {column.label} from {low} to {high}.'
