"""Rows of a table from records: scores and intervals, seeds averaged."""

import collections
from collections.abc import Callable, Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from collab_jax import _validate, metrics
from collab_jax.evaluation.report import labels, settings

Row = dict[str, Any]
Record = Mapping[str, Any]
Grid = Sequence[Sequence[Record]]  # By image, then by seed.

_BLEU = 10  # Numbers per image in the statistics of BLEU.


class Scores:
  """Scores of every distinct caption of every image, each computed once.

  Many codecs and seeds give an image the same caption.
  """

  def __init__(self, records: Sequence[Record]):
    """Scores the captions of all records against their references."""
    references: dict[int, list[str]] = {}
    captions: dict[int, dict[str, None]] = collections.defaultdict(dict)
    for record in records:
      references.setdefault(record['image_id'], record['references'])
      captions[record['image_id']].setdefault(record['caption'])
    images = list(references)
    pairs = [(i, caption) for i in images for caption in captions[i]]
    texts = [caption for _, caption in pairs]
    refs = [references[i] for i, _ in pairs]
    self._index = {pair: n for n, pair in enumerate(pairs)}
    self._bleu = metrics.corpus_bleu_stats(texts, refs)
    self._rouge = metrics.rouge_l_scores(texts, refs)
    self._cider = np.zeros(len(pairs))
    cider = metrics.CiderD(list(references.values()))
    # CIDEr weighs words by the whole corpus, so all images are scored at once:
    # first the first caption of each, then the second...
    for column in itertools.zip_longest(*captions.values(), fillvalue=''):
      values = cider.scores(list(column))
      for i, caption, value in zip(images, column, values, strict=True):
        if (i, caption) in self._index:
          self._cider[self._index[i, caption]] = value

  def of(self, grid: Grid) -> dict[str, np.ndarray]:
    """Returns the statistics of records.

    Args:
      grid: From `grid_of`.

    Returns:
      'bleu' f[images seeds 10], 'cider' and 'rouge_l' f[images seeds].
    """
    index = np.array(
      [[self._index[r['image_id'], r['caption']] for r in row] for row in grid]
    )
    return {
      'bleu': self._bleu[index],
      'cider': self._cider[index],
      'rouge_l': self._rouge[index],
    }


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
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> list[Row]:
  """Averages records into one row per codec.

  Intervals come from drawing the images again; the seeds of an image stay
  together and are averaged inside. The share of the full features' BLEU-4
  that is kept is drawn in pairs, on the same images.

  Args:
    records: From `evaluate` or `read_records`; images that a codec does not
      have for all of its seeds are left out of its row.
    resamples: Draws of the bootstrap.
    level: Part of the draws an interval holds.
    seed: Seed of the draws.

  Returns:
    Rows in the order of the records: {'name', 'codec', 'settings' (nested),
    'sent', 'vectors', 'ratio', 'images', 'seeds', 'bleu1'..'bleu4',
    'bleu4_low', 'bleu4_high', 'level' (of the intervals), 'cider' (0 to 10),
    'cider_low', 'cider_high', 'rouge_l' (0 to 1), 'kept', 'kept_low',
    'kept_high' (None without all vectors among the codecs), 'bytes' (mean of a
    message), 'fields' (mean bytes by field), 'distortion', 'seconds' (medians
    per image and stage), 'slots' (means), 'link' (means), 'model', 'data'}.

  Raises:
    ValueError: There are no records, or a setting of the draws is out of
      range.
  """
  check_draws(resamples, level, seed)
  if not records:
    raise ValueError('no records: run experiments/evaluate.py first')
  scores = Scores(records)
  grids = grids_of(records)
  full = labels.full([grid[0][0] for grid in grids.values() if grid])
  full_bleu = {}
  if full:
    grid = [row[:1] for row in grids[full['name']]]
    stats = scores.of(grid)['bleu'][:, 0]
    ids = [row[0]['image_id'] for row in grid]
    full_bleu = dict(zip(ids, stats, strict=True))
  draws = {'n': resamples, 'level': level, 'seed': seed}
  return [
    _row(grid, scores, draws) | _share_kept(grid, scores, full_bleu, draws)
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


def _row(grid: Grid, scores: Scores, draws: dict[str, Any]) -> Row:
  flat = [record for row in grid for record in row]
  first = flat[0]
  stats = scores.of(grid)
  totals = metrics.bleu_from_stats(stats['bleu'].sum(0))
  low, high = metrics.bootstrap(stats['bleu'], metrics.bleu4, **draws)
  cider_low, cider_high = metrics.bootstrap(
    metrics.mean_stats(stats['cider']), metrics.mean, **draws
  )
  return {
    'name': first['name'],
    'codec': first['codec'],
    'settings': settings.nested(first),
    'sent': first['sent'],
    'vectors': first['vectors'],
    'ratio': first['ratio'],
    'images': len(grid),
    'seeds': len(grid[0]),
    **{name: float(np.mean(value)) for name, value in totals.items()},
    'bleu4_low': low,
    'bleu4_high': high,
    'level': draws['level'],
    'cider': float(stats['cider'].mean()),
    'cider_low': cider_low,
    'cider_high': cider_high,
    'rouge_l': float(stats['rouge_l'].mean()),
    'bytes': _average(np.mean, [r['total_bytes'] for r in flat]),
    'fields': _averages(flat, 'bytes'),
    'distortion': _average(np.mean, [r['distortion'] for r in flat]),
    'seconds': _averages(flat, 'seconds', np.median),
    'slots': _averages(flat, 'slots'),
    'link': _averages(flat, 'link'),
    'model': first.get('model'),
    'data': first.get('data'),
  }


def _share_kept(
  grid: Grid,
  scores: Scores,
  full_bleu: Mapping[int, np.ndarray],
  draws: dict[str, Any],
) -> dict[str, float | None]:
  """Returns the share of all vectors' BLEU-4, over the images of both."""
  shared = [row for row in grid if row[0]['image_id'] in full_bleu]
  if not shared:
    return dict.fromkeys(('kept', 'kept_low', 'kept_high'))
  bleu = scores.of(shared)['bleu']
  full = np.stack([full_bleu[row[0]['image_id']] for row in shared])[:, None]
  both = np.concatenate([bleu, np.broadcast_to(full, bleu.shape)], -1)
  low, high = metrics.bootstrap(both, _ratio, **draws)
  kept = float(np.mean(_ratio(both.sum(0))))
  return {'kept': kept, 'kept_low': low, 'kept_high': high}


def _ratio(stats: np.ndarray) -> np.ndarray:
  """Divides the BLEU-4 of the first half of statistics by the second's."""
  full = metrics.bleu4(stats[..., _BLEU:])
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(full > 0, metrics.bleu4(stats[..., :_BLEU]) / full, 0.0)
