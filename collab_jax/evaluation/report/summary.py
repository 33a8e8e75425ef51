"""Rows of a table from records: scores and intervals, seeds averaged."""

import collections
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
import os
from typing import Any

import numpy as np

from collab_jax import _validate
from collab_jax import metrics as metrics_lib
from collab_jax.evaluation.report import labels, settings, sources

Row = dict[str, Any]
Record = Mapping[str, Any]
Grid = Sequence[Sequence[Record]]  # By image, then by seed.


class Scores:
  """Statistics of every distinct caption of every image, each computed once.

  Many codecs and seeds give an image the same caption.
  """

  def __init__(
    self, records: Sequence[Record], metrics: Iterable[metrics_lib.Metric]
  ):
    """Scores the captions of all records that have references."""
    references: dict[int, list[str]] = {}
    captions: dict[int, dict[str, None]] = collections.defaultdict(dict)
    for record in records:
      if record['references']:
        references.setdefault(record['image_id'], record['references'])
        captions[record['image_id']].setdefault(record['caption'])
    pairs = [(i, caption) for i in references for caption in captions[i]]
    texts = [caption for _, caption in pairs]
    refs = [references[i] for i, _ in pairs]
    corpus = list(references.values())
    self._index = {pair: n for n, pair in enumerate(pairs)}
    self._stats: dict[Hashable, np.ndarray] = {}
    for metric in metrics:
      if metric.statistics_key not in self._stats:
        stats = metrics_lib.checked_statistics(metric, texts, refs, corpus)
        self._stats[metric.statistics_key] = stats

  def of(self, grid: Grid, metric: metrics_lib.Metric) -> np.ndarray:
    """Returns the statistics of records, [images seeds numbers].

    Args:
      grid: From `grids_of`.
      metric: One of those given.
    """
    index = np.array(
      [[self._index[r['image_id'], r['caption']] for r in row] for row in grid]
    )
    return self._stats[metric.statistics_key][index]


def check_draws(resamples: Any, level: Any, seed: Any) -> None:
  """Checks the settings of a bootstrap.

  Args:
    resamples: Draws of the bootstrap, at least 1.
    level: Part of the draws an interval holds, between 0 and 1.
    seed: Seed of the draws, at least 0.

  Raises:
    ValueError: One of them is out of range.
  """
  _validate.integer('resamples', resamples)
  if not isinstance(level, float) or not 0 < level < 1:
    raise _validate.error('level', level, 'a number between 0 and 1')
  _validate.integer('seed', seed, 0)


def summarize(
  records: Sequence[Record],
  *,
  metrics: Iterable[str | metrics_lib.Metric] = metrics_lib.DEFAULT,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[Row]:
  """Averages records into one row per codec.

  Intervals come from drawing the images again; the seeds of an image stay
  together and are averaged inside. The share of the full features' score that
  is kept is drawn in pairs, on the same images.

  Args:
    records: From `evaluate` or `read_records`; images without references, and
      those that a codec does not have for all of its seeds, are left out.
    metrics: Metrics to compute, by name or themselves; tables and curves are
      of the first.
    resamples: Draws of the bootstrap.
    level: Part of the draws an interval holds.
    seed: Seed of the draws.

  Returns:
    Rows in the order of the records: {'name', 'codec', 'settings' (nested),
    'sent', 'vectors', 'ratio', 'images', 'seeds', of each metric its score by
    its name, such as 'bleu4', with 'bleu4_low' and 'bleu4_high', and the share
    of all vectors' score that is kept, 'bleu4_kept', 'bleu4_kept_low' and
    'bleu4_kept_high' (None without all vectors among the codecs, or where
    lower scores are better), 'level' (of the intervals), 'kept', 'kept_low',
    'kept_high' (of the first metric), 'metrics' (their labels, units, ..., by
    name), 'bytes' (mean of a message), 'fields' (mean bytes by field),
    'distortion', 'seconds' (medians per image and stage), 'slots' (means),
    'link' (means), 'model', 'data'; 'unlike' (number of pictures unlike those
    of the training, if any)}.

  Raises:
    ValueError: There are no records, they are of several models, data sets or
      decodings, a setting of the draws is out of range, or there is no such
      metric.
  """
  check_draws(resamples, level, seed)
  scored = metrics_lib.make_all(metrics)
  if isinstance(records, str | os.PathLike):
    raise TypeError(
      f'records: got the path {os.fspath(records)!r}, expected records; read'
      ' them by collab_jax.evaluation.read_records(path)'
    )
  if not records:
    raise ValueError('no records: run experiments/evaluate.py first')
  records = [record for record in records if record['references']]
  if not records:
    raise ValueError(
      'records: got pictures without captions, expected references to score'
      ' with; give some, or read the captions in the records'
    )
  sources.check_one(records)
  draws = {'n': resamples, 'level': level, 'seed': seed}
  return rows_of(records, scored, Scores(records, scored.values()), draws)


def rows_of(
  records: Sequence[Record],
  metrics: Mapping[str, metrics_lib.Metric],
  scores: Scores,
  draws: dict[str, Any],
) -> list[Row]:
  """Returns the rows of `summarize` from scores that are at hand.

  Args:
    records: Records of one source, with references.
    metrics: Metrics by name.
    scores: Scores of the records by these metrics.
    draws: Arguments of `metrics.bootstrap`: 'n', 'level', 'seed'.
  """
  grids = grids_of(records)
  full = labels.full([grid[0][0] for grid in grids.values() if grid])
  full_grid = [row[:1] for row in grids[full['name']]] if full else []
  source = {n: sources.names(records, n) for n in ('model', 'data')}
  return [
    _row(grid, metrics, scores, draws, source)
    | _shares_kept(grid, metrics, scores, full_grid, draws)
    for grid in grids.values()
    if grid
  ]


def grids_of(records: Sequence[Record]) -> dict[str, Grid]:
  """Groups records by codec name, then by image and seed.

  Args:
    records: Of any codecs.

  Returns:
    Grids in the order of the records, of the images that have every seed.
  """
  groups: dict[str, list[Record]] = collections.defaultdict(list)
  for record in records:
    if record['references']:
      groups[record['name']].append(record)
  return {name: _grid(group) for name, group in groups.items()}


def _grid(group: Sequence[Record]) -> Grid:
  seeds = sorted({record['seed'] for record in group})
  images: dict[int, dict[int, Any]] = collections.defaultdict(dict)
  for record in group:
    images[record['image_id']][record['seed']] = record
  return [
    [by_seed[seed] for seed in seeds]
    for _, by_seed in sorted(images.items())
    if len(by_seed) == len(seeds)
  ]


def _average(fn: Callable[..., Any], values) -> float | None:
  known = [v for v in values if v is not None]
  return float(fn(known)) if known else None


def _averages(
  records: Sequence[Record], field: str, fn: Callable[..., Any] = np.mean
) -> dict[str, float | None]:
  """Averages each part of a field that holds numbers by name."""
  parts = [record.get(field) or {} for record in records]
  names = dict.fromkeys(name for part in parts for name in part)
  return {n: _average(fn, [part.get(n) for part in parts]) for n in names}


def _row(
  grid: Grid,
  metrics: Mapping[str, metrics_lib.Metric],
  scores: Scores,
  draws: dict[str, Any],
  source: dict[str, str | None],
) -> Row:
  flat = [record for row in grid for record in row]
  first = flat[0]
  unlike = sum(bool(row[0].get('unlike')) for row in grid)
  columns: dict[str, Any] = {}
  for name, metric in metrics.items():
    stats = scores.of(grid, metric)
    low, high = metrics_lib.bootstrap(stats, metric.combine, **draws)
    columns[name] = metric.mean_score(stats)
    columns |= {f'{name}_low': low, f'{name}_high': high}
  return {
    'name': first['name'],
    'codec': first['codec'],
    'settings': settings.nested(first),
    'sent': first['sent'],
    'vectors': first['vectors'],
    'ratio': first['ratio'],
    'images': len(grid),
    'seeds': len(grid[0]),
    **columns,
    'level': draws['level'],
    'metrics': {name: metric.describe() for name, metric in metrics.items()},
    'bytes': _average(np.mean, [r['total_bytes'] for r in flat]),
    'fields': _averages(flat, 'bytes'),
    'distortion': _average(np.mean, [r['distortion'] for r in flat]),
    'seconds': _averages(flat, 'seconds', np.median),
    'slots': _averages(flat, 'slots'),
    'link': _averages(flat, 'link'),
    **source,
    **({'unlike': unlike} if unlike else {}),
  }


def _shares_kept(
  grid: Grid,
  metrics: Mapping[str, metrics_lib.Metric],
  scores: Scores,
  full_grid: Grid,
  draws: dict[str, Any],
) -> dict[str, float | None]:
  """Returns the shares of all vectors' scores, over the images of both."""
  by_image = {row[0]['image_id']: row for row in full_grid}
  shared = [row for row in grid if row[0]['image_id'] in by_image]
  full = [by_image[row[0]['image_id']] for row in shared]
  columns: dict[str, float | None] = {}
  for name, metric in metrics.items():
    share: tuple[float | None, ...] = (None, None, None)
    if shared and metric.higher_is_better:
      stats = scores.of(shared, metric)
      share = _share_kept(metric, stats, scores.of(full, metric), draws)
    for end, value in zip(('', '_low', '_high'), share, strict=True):
      columns[f'{name}_kept{end}'] = value
      columns.setdefault(f'kept{end}', value)  # Of the first.
  return columns


def _share_kept(
  metric: metrics_lib.Metric,
  stats: np.ndarray,
  full: np.ndarray,
  draws: dict[str, Any],
) -> tuple[float, float, float]:
  """Returns the share that a codec keeps of a full score, and its interval."""
  count = stats.shape[-1]

  def ratio(sums):
    whole = metric.combine(sums[..., count:])
    with np.errstate(divide='ignore', invalid='ignore'):
      part = metric.combine(sums[..., :count]) / whole
      return np.where(whole > 0, part, 0.0)

  both = np.concatenate([stats, np.broadcast_to(full, stats.shape)], -1)
  low, high = metrics_lib.bootstrap(both, ratio, **draws)
  return float(np.mean(ratio(both.sum(0)))), low, high
