"""Bytes against scores: families of codecs, Pareto fronts, delta rates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from collab_jax import metrics
from collab_jax.evaluation.report import labels, settings, summary, text

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


def front(rows: Sequence[Row], y: str = 'bleu4') -> list[Row]:
  """Returns the Pareto front: the rows that no other one beats.

  Args:
    rows: From `summarize`, at least one.
    y: Column of the score.

  Returns:
    Rows by rising bytes.
  """
  indices = metrics.pareto_front(
    [row['bytes'] for row in rows], [row[y] for row in rows]
  )
  return [rows[i] for i in indices]


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
  """Separates rows of features from those of pictures; drops blind ones."""
  seen = [row for row in rows if not labels.is_blind(row)]
  features = [row for row in seen if not labels.is_picture(row)]
  return features, [row for row in seen if labels.is_picture(row)]


def cheapest(rows: Sequence[Row], score: float) -> Row | None:
  """Returns the row of fewest bytes that reaches a BLEU-4."""
  enough = [row for row in rows if row['bleu4'] >= score]
  return min(enough, key=lambda row: row['bytes'], default=None)


def is_paper_codec(row: Row) -> bool:
  """Returns whether a row is the paper's: k-means in 16 bits with k = 8."""
  return family(row) == 'k-means, random start' and row['sent'] == 8


def bd_rates(
  records: Sequence[Mapping[str, Any]],
  *,
  method: str = 'pchip',
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Returns Bjontegaard delta rates of log bytes at equal BLEU-4.

  Of every curve the Pareto front is taken first. The anchor is the front of
  all image codecs: their best at every score. The interval draws the images
  again: in every draw all codecs are scored on the same images, and fronts and
  delta rates are made anew.

  Args:
    records: From `evaluate` or `read_records`.
    method: Interpolation, see `metrics.bd_rate`.
    resamples: Draws of the bootstrap.
    level: Part of the draws an interval holds.
    seed: Seed of the draws.

  Returns:
    {'curve', 'anchor', 'bd_rate' (-0.75: a quarter of the bytes), 'low',
    'high', 'scores' (the lowest and highest BLEU-4 that both have), 'points'
    (of the curve's front)}: all features first, then each family of features,
    then all features against each kind of image codec. Curves that cannot be
    compared have None, and 'why'.

  Raises:
    ValueError: There are no records, or a setting of the draws is out of range.
  """
  summary.check_draws(resamples, level, seed)
  points = _bootstrap_points(records, resamples, seed)
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
      **_delta_rate(curves[name], curves[anchor], method, resamples, level),
    }
    for name, anchor in pairs
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
  """Returns the Bjontegaard delta rate between two models' features.

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
  images = [{record['image_id'] for record in r} for r in (records, anchors)]
  if images[0] != images[1]:
    raise ValueError(
      f'got records of {len(images[0])} and {len(images[1])} images, expected'
      ' the same images of both models; finish both evaluations first'
    )
  fronts = []
  for group in (records, anchors):
    points = _bootstrap_points(group, resamples, seed)
    features, _ = split([point['row'] for point in points.values()])
    fronts.append(_BootstrapFront([points[row['name']] for row in features]))
  curve, anchor = fronts
  return _delta_rate(curve, anchor, method, resamples, level)


class _BootstrapFront:
  """Pareto front of some codecs in each draw; draw 0 is all images."""

  def __init__(self, points: Sequence[Mapping[str, Any]]):
    self._points = points
    self._fronts: dict[int, tuple[np.ndarray, np.ndarray]] = {}

  def of(self, draw: int) -> tuple[np.ndarray, np.ndarray]:
    if draw not in self._fronts:
      x = np.array([point['bytes'][draw] for point in self._points])
      y = np.array([point['bleu4'][draw] for point in self._points])
      indices = metrics.pareto_front(x, y)
      self._fronts[draw] = x[indices], y[indices]
    return self._fronts[draw]


def _delta_rate(
  curve: _BootstrapFront,
  anchor: _BootstrapFront,
  method: str,
  resamples: int,
  level: float,
) -> dict[str, Any]:
  """Returns the delta rate of a curve with its interval, or why none."""

  def delta(draw):
    return metrics.bd_rate(*anchor.of(draw), *curve.of(draw), method)

  try:
    value = delta(0)
  except ValueError as error:
    return {'bd_rate': None, 'why': str(error)}
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
  return {
    'bd_rate': value,
    'low': low,
    'high': high,
    'scores': metrics.overlap(*scores),
    'points': len(scores[1]),
  }


def _bootstrap_points(
  records: Sequence[Mapping[str, Any]], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
  """Returns bytes and BLEU-4 of each codec: of all images, then of each draw.

  Returns:
    {'row', 'bytes' f[1 + resamples], 'bleu4' f[1 + resamples]} by name, of the
    images that all codecs share.
  """
  grids = summary.grids_of([r for r in records if not labels.is_blind(r)])
  shared = set.intersection(
    *({image[0]['image_id'] for image in grid} for grid in grids.values())
  )
  if not shared:
    raise ValueError(
      'the codecs have no picture in common; finish the evaluation first'
    )
  scores = summary.Scores(records)
  points = {}
  for name, grid in grids.items():
    grid = [image for image in grid if image[0]['image_id'] in shared]
    sizes = [[float(r['total_bytes']) for r in image] for image in grid]
    size = metrics.mean_stats(np.array(sizes))
    point: dict[str, Any] = {}
    for key, stats, fn in (
      ('bleu4', scores.of(grid)['bleu'], metrics.bleu4),
      ('bytes', size, metrics.mean),
    ):
      draws = metrics.drawn_scores(stats, fn, resamples, seed)
      point[key] = np.concatenate([[np.mean(fn(stats.sum(0)))], draws])
    first = {n: v for n, v in grid[0][0].items() if n in _ROW_FIELDS}
    points[name] = {**point, 'row': {**first, 'bytes': point['bytes'][0]}}
  return points


def rate_table(rows: Sequence[Row], fronts_only: bool = False) -> str:
  """Returns codecs by bytes as text, with the Pareto fronts marked.

  Args:
    rows: From `summarize`.
    fronts_only: Leave out codecs on no front.

  Returns:
    A block for features, one for image codecs, and one for blind baselines.
  """
  interval = f'{text.coverage(rows)} interval'
  head = ['', 'bytes', 'BLEU-4', interval, 'kept', 'CIDEr', 'codec']
  lines = []
  for group in split(rows):
    best = [row['name'] for row in front(group)] if group else []
    for row in sorted(group, key=lambda row: (row['bytes'], row['name'])):
      if row['name'] in best or not fronts_only:
        lines.append(['*' if row['name'] in best else '', *_cells(row)])
    lines.append([''] * len(head))
  lines += [['', *_cells(row)] for row in rows if labels.is_blind(row)]
  *columns, last = zip(head, *lines, strict=True)
  padded = text.align([*zip(*columns, strict=True)]).split('\n')
  width = max(map(len, padded))
  named = [
    f'{line:{width}}  {name}'.rstrip()
    for line, name in zip(padded, last, strict=True)
  ]
  return '\n'.join(named).rstrip() + '\n\n* on the Pareto front of its block'


def _cells(row: Row) -> list[str]:
  return [
    f'{row["bytes"]:,.1f}',
    f'{row["bleu4"]:.1f}',
    f'{row["bleu4_low"]:.1f} {row["bleu4_high"]:.1f}',
    '-' if row['kept'] is None else f'{100 * row["kept"]:.0f}%',
    f'{100 * row["cider"]:.0f}',
    labels.text(row),
  ]


def operating_points(
  rows: Sequence[Row], levels: Sequence[float]
) -> dict[str, Row]:
  """Chooses codecs to look at closely.

  Args:
    rows: From `summarize`, those of all vectors among them.
    levels: Shares of the BLEU-4 of all vectors.

  Returns:
    Rows by label: for each level the cheapest features and the cheapest image
    codec that reach it, the cheapest JPEG file, the paper's k-means, and all
    vectors.
  """
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
  for level in levels:
    share = text.percent(level)
    score = level * full['bleu4']
    points[f'features, {share} of BLEU-4'] = cheapest(features, score)
    points[f'image codec, {share} of BLEU-4'] = cheapest(pictures, score)
    points[f'JPEG file, {share} of BLEU-4'] = cheapest(files, score)
  for row in features:
    if is_paper_codec(row):
      points["the paper's k-means, k = 8"] = row
  points['all vectors in 16 bits'] = full
  return {label: row for label, row in points.items() if row}


def rate_findings(
  rows: Sequence[Row],
  deltas: Sequence[Mapping[str, Any]],
  levels: Sequence[float],
) -> list[str]:
  """Returns the findings of the figure, as sentences.

  Args:
    rows: From `summarize`.
    deltas: From `bd_rates`.
    levels: Shares of the BLEU-4 of all vectors.

  Returns:
    Sentences; none where the codecs they need were not evaluated.
  """
  features, pictures = split(rows)
  lines = _cheapest_findings(rows, features, pictures, levels)
  for row in features if pictures else ():
    name = family(row)
    if not (name.startswith('k-means') and labels.is_plain(row)):
      continue
    if row['sent'] != 8:
      continue
    sizes = [
      labels.crossing(front(group), row['bleu4'], 'bytes')
      for group in (pictures, features)
    ]
    needs = ['more' if n is None else f'{n:,.0f} bytes' for n in sizes]
    lines.append(
      f'{name}, 8 centroids in 16 bits: {row["bytes"]:,.0f} bytes, BLEU-4'
      f' {row["bleu4"]:.1f}. For the same score the best image codec needs'
      f' {needs[0]}, the best features {needs[1]}.'
    )
  return lines + [_delta_sentence(delta, rows) for delta in deltas]


def _cheapest_findings(rows, features, pictures, levels) -> list[str]:
  """Returns a sentence about the cheapest codecs for each level."""
  full = labels.full(rows)
  if full is None:
    return []
  lines = []
  for level in levels:
    score = level * full['bleu4']
    parts = [
      f'{name} {row["bytes"]:,.0f} bytes ({labels.text(row)},'
      f' {row["bleu4"]:.1f} [{row["bleu4_low"]:.1f}, {row["bleu4_high"]:.1f}])'
      if (row := cheapest(group, score))
      else f'none of the {name} tried reaches it'
      for name, group in (('features', features), ('image codecs', pictures))
    ]
    lines.append(
      f'For {text.percent(level)} of the BLEU-4 of all vectors'
      f' ({score:.1f} of {full["bleu4"]:.1f}) {parts[0]}; {parts[1]}.'
    )
  return lines


def _delta_sentence(delta: Mapping[str, Any], rows: Sequence[Row]) -> str:
  start = f'BD-rate of {delta["curve"]} against {delta["anchor"]}: '
  if delta['bd_rate'] is None:
    return f'{start}none, {delta["why"]}.'
  sentence = f'{start}{100 * delta["bd_rate"]:+.1f}%'
  if delta['low'] is not None:
    ends = f'{100 * delta["low"]:+.1f}, {100 * delta["high"]:+.1f}'
    sentence += f' [{ends}], {text.coverage(rows)}'
  low, high = delta['scores']
  return f'{sentence}, BLEU-4 from {low:.1f} to {high:.1f}.'
