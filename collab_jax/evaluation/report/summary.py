"""Rows of a table from records: scores and intervals, seeds averaged."""

import collections
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
import os
from typing import Any

import numpy as np

from collab_jax import _validate
from collab_jax import metrics as metrics_lib
from collab_jax.evaluation.report import grids as grids_lib
from collab_jax.evaluation.report import labels, settings, sources

Row = dict[str, Any]
Record = Mapping[str, Any]


class Scores:
  """Statistics of every distinct text of every image, each computed once.

  Many codecs and seeds give an image the same caption or answer.
  """

  def __init__(
    self, records: Sequence[Record], metrics: Iterable[metrics_lib.Metric]
  ):
    """Scores the texts of all records that have references."""
    references: dict[_Example, list[str]] = {}
    answers: dict[_Example, dict[str, None]] = collections.defaultdict(dict)
    for record in records:
      if record['references']:
        example = _example(record)
        references.setdefault(example, record['references'])
        answers[example].setdefault(grids_lib.answer(record))
    pairs = [(i, answer) for i in references for answer in answers[i]]
    texts = [answer for _, answer in pairs]
    refs = [references[i] for i, _ in pairs]
    corpus = list(references.values())
    self._index = {pair: n for n, pair in enumerate(pairs)}
    self._stats: dict[Hashable, np.ndarray] = {}
    for metric in metrics:
      if metric.statistics_key not in self._stats:
        stats = metrics_lib.checked_statistics(metric, texts, refs, corpus)
        self._stats[metric.statistics_key] = stats

  def of(self, grid: grids_lib.Grid, metric: metrics_lib.Metric) -> np.ndarray:
    """Returns the statistics of records, [images seeds numbers].

    Those of an image are sums over the questions about it.

    Args:
      grid: From `grids.grids_of`.
      metric: One of those given.
    """
    cells = [grids_lib.answers(record) for row in grid for record in row]
    index = np.array([self._place(r) for several in cells for r in several])
    stats = self._stats[metric.statistics_key][index]
    if len(index) > len(cells):
      starts = np.cumsum([0, *map(len, cells)])[:-1]
      stats = np.add.reduceat(stats, starts, axis=0)
    return stats.reshape(len(grid), -1, stats.shape[-1])

  def _place(self, record: Record) -> int:
    return self._index[_example(record), grids_lib.answer(record)]


_Example = tuple[int, str]


def _example(record: Record) -> _Example:
  """Returns the image and the question of a record."""
  return record['image_id'], grids_lib.question(record)


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
  metrics: Iterable[str | metrics_lib.Metric] | None = None,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[Row]:
  """Averages records into one row per codec.

  Intervals come from drawing the images again; the seeds of an image, and the
  questions about it, stay together and are averaged inside. The share of the
  full features' score that is kept is drawn in pairs, on the same images.

  Args:
    records: From `evaluate` or `read_records`; images without references, and
      those that a codec does not have for all of its seeds, are left out.
    metrics: Metrics to compute, by name or themselves; tables and curves are
      of the first. None for those of the records' task, and of captions
      `metrics.DEFAULT`.
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
    of the training, if any)}. Of a task also 'task' (its name), 'questions'
    (their number), 'question_bytes' (mean share of a message) and 'kinds':
    'questions', 'images' and the scores of each kind of questions, by kind.
    'bytes' counts each picture's message once.

  Raises:
    ValueError: There are no records, they are of several models, data sets or
      decodings, a setting of the draws is out of range, or there is no such
      metric.
  """
  check_draws(resamples, level, seed)
  if metrics is not None:
    metrics_lib.make_all(metrics)
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
  if metrics is None:
    metrics = grids_lib.metrics_of(records)
  scored = metrics_lib.make_all(metrics)
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
  grids = grids_lib.grids_of(records)
  full = labels.full([grid[0][0] for grid in grids.values() if grid])
  full_grid = [row[:1] for row in grids[full['name']]] if full else []
  source = {n: sources.names(records, n) for n in ('model', 'data')}
  return [
    _row(grid, metrics, scores, draws, source)
    | _shares_kept(grid, metrics, scores, full_grid, draws)
    | _of_task(grid, metrics, scores, full_grid, draws)
    for grid in grids.values()
    if grid
  ]


def _of_task(
  grid: grids_lib.Grid,
  metrics: Mapping[str, metrics_lib.Metric],
  scores: Scores,
  full_grid: grids_lib.Grid,
  draws: dict[str, Any],
) -> Row:
  """Returns the entries of a row that tasks have; none of captions."""
  first = grid[0][0]
  if first.get('task') is None:
    return {}
  by_kind = {}
  cells = [record for row in grid for record in row]
  texts = [record for cell in cells for record in grids_lib.answers(cell)]
  for kind in sorted(grids_lib.kinds(texts)):
    part, full = (grids_lib.of_kind(g, kind) for g in (grid, full_grid))
    by_kind[kind] = {
      'questions': _count(part),
      'images': len(part),
      **_scores(part, metrics, scores, draws),
      **_shares_kept(part, metrics, scores, full, draws),
    }
  shares = [record.get('question_bytes') for record in texts]
  return {
    'task': first['task'],
    'questions': _count(grid),
    'question_bytes': _average(np.mean, shares),
    'kinds': by_kind,
  }


def _count(grid: grids_lib.Grid) -> int:
  """Returns the number of questions of a grid's pictures."""
  return sum(len(grids_lib.answers(row[0])) for row in grid)


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
  grid: grids_lib.Grid,
  metrics: Mapping[str, metrics_lib.Metric],
  scores: Scores,
  draws: dict[str, Any],
  source: dict[str, str | None],
) -> Row:
  flat = [record for row in grid for record in row]
  first = flat[0]
  unlike = sum(bool(row[0].get('unlike')) for row in grid)
  return {
    'name': first['name'],
    'codec': first['codec'],
    'settings': settings.nested(first),
    'sent': first['sent'],
    'vectors': first['vectors'],
    'ratio': first['ratio'],
    'images': len(grid),
    'seeds': len(grid[0]),
    **_scores(grid, metrics, scores, draws),
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


def _scores(
  grid: grids_lib.Grid,
  metrics: Mapping[str, metrics_lib.Metric],
  scores: Scores,
  draws: dict[str, Any],
) -> dict[str, float]:
  """Returns the scores of a grid with the ends of their intervals."""
  columns: dict[str, float] = {}
  for name, metric in metrics.items():
    stats = scores.of(grid, metric)
    low, high = metrics_lib.bootstrap(stats, metric.combine, **draws)
    columns[name] = metric.mean_score(stats)
    columns |= {f'{name}_low': low, f'{name}_high': high}
  return columns


def _shares_kept(
  grid: grids_lib.Grid,
  metrics: Mapping[str, metrics_lib.Metric],
  scores: Scores,
  full_grid: grids_lib.Grid,
  draws: dict[str, Any],
) -> dict[str, float | None]:
  """Returns the shares of all vectors' scores, over the images of both."""
  by_image = {grids_lib.key(row[0]): row for row in full_grid}
  shared = [row for row in grid if grids_lib.key(row[0]) in by_image]
  full = [by_image[grids_lib.key(row[0])] for row in shared]
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
