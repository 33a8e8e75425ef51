"""Records to table rows: scores with their intervals, seeds averaged."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from collab_jax import _validate, metrics
from collab_jax.evaluation.report import labels

Row = dict[str, Any]

_BLEU = 10  # Numbers per image in the statistics of BLEU.


class Scores:
  """Scores of every distinct caption of every image.

  A sweep makes the same caption of an image again and again; each is scored
  once.
  """

  def __init__(self, records: Sequence[Mapping[str, Any]]):
    references: dict[int, list[str]] = {}
    captions: dict[int, dict[str, None]] = collections.defaultdict(dict)
    for record in records:
      references.setdefault(record['image_id'], record['references'])
      captions[record['image_id']].setdefault(record['caption'])
    images = list(references)
    pairs = [(i, caption) for i in images for caption in captions[i]]
    texts = [caption for _, caption in pairs]
    refs = [references[i] for i, _ in pairs]
    self._place = {pair: n for n, pair in enumerate(pairs)}
    self._bleu = metrics.corpus_bleu_stats(texts, refs)
    self._rouge = metrics.rouge_l_scores(texts, refs)
    self._cider = np.zeros(len(pairs))
    cider = metrics.CiderD(list(references.values()))
    # CIDEr weighs words by the whole corpus, so all images are scored at once:
    # first everyone's first caption, then everyone's second...
    lists = [list(captions[i]) for i in images]
    for n in range(max(map(len, lists))):
      column = [own[n] if n < len(own) else '' for own in lists]
      values = cider.scores(column)
      for i, caption, value in zip(images, column, values, strict=True):
        if (i, caption) in self._place:
          self._cider[self._place[i, caption]] = value

  def of(self, records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Statistics per record, in their order."""
    at = [self._place[r['image_id'], r['caption']] for r in records]
    return {
      'bleu': self._bleu[at],
      'cider': self._cider[at],
      'rouge_l': self._rouge[at],
    }


def check_draws(resamples: Any, level: Any, seed: Any) -> None:
  """Raises ValueError unless `summarize` can draw so; costs nothing.

  Args:
    resamples: Draws of the bootstrap, at least 1.
    level: Part of the draws an interval holds, between 0 and 1.
    seed: Seed of the draws, at least 0.
  """
  _validate.integer('resamples', resamples)
  if not isinstance(level, float) or not 0 < level < 1:
    raise _validate.error('level', level, 'a number between 0 and 1')
  _validate.integer('seed', seed, 0)


def summarize(
  records: Sequence[Mapping[str, Any]],
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
    Rows in the order of the records: {'name', 'codec', 'sent', 'vectors',
    'ratio', 'images', 'seeds', 'bleu1'..'bleu4', 'bleu4_low', 'bleu4_high',
    'level' (of the intervals), 'cider' (0 to 10), 'cider_low', 'cider_high',
    'rouge_l' (0 to 1), 'kept', 'kept_low', 'kept_high' (None without all
    vectors among the codecs), 'bytes' (mean of a message),
    'fields' (mean bytes by field), 'distortion', 'seconds' (medians per image
    and stage), 'slots' (means), 'link' (means), 'model', 'data'}.

  Raises:
    ValueError: There are no records, or a setting of the draws is out of
      range.
  """
  check_draws(resamples, level, seed)
  if not records:
    raise ValueError('no records: run experiments/evaluate.py first')
  scores = Scores(records)
  groups: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
  for record in records:
    groups[record['name']].append(record)
  grids = {name: grid_of(group) for name, group in groups.items()}
  full = labels.full([g[0][0] for g in grids.values() if g])
  whole = {}
  if full:
    stats = scores.of([row[0] for row in grids[full['name']]])['bleu']
    ids = [row[0]['image_id'] for row in grids[full['name']]]
    whole = dict(zip(ids, stats, strict=True))
  draws = {'n': resamples, 'level': level, 'seed': seed}
  return [_row(grid, scores, whole, draws) for grid in grids.values() if grid]


def grid_of(group) -> list[list[Mapping[str, Any]]]:
  """Records as [image][seed], only images with every seed."""
  seeds = sorted({record['seed'] for record in group})
  images: dict[int, dict[int, Any]] = collections.defaultdict(dict)
  for record in group:
    images[record['image_id']][record['seed']] = record
  return [
    [found[s] for s in seeds]
    for _, found in sorted(images.items())
    if len(found) == len(seeds)
  ]


def _mean(values) -> float | None:
  known = [v for v in values if v is not None]
  return float(np.mean(known)) if known else None


def _means(flat, field: str, average=_mean) -> dict[str, float | None]:
  names = dict.fromkeys(name for r in flat for name in r.get(field) or {})
  return {
    n: average([(r.get(field) or {}).get(n) for r in flat]) for n in names
  }


def _median(values) -> float | None:
  known = [v for v in values if v is not None]
  return float(np.median(known)) if known else None


def _row(grid, scores: Scores, whole, draws) -> Row:
  flat = [record for image in grid for record in image]
  first, shape = flat[0], (len(grid), len(grid[0]))
  found = scores.of(flat)
  bleu = found['bleu'].reshape(*shape, _BLEU)
  totals = metrics.bleu_from_stats(bleu.sum(0))
  low, high = metrics.bootstrap(bleu, metrics.bleu4, **draws)
  cider = found['cider'].reshape(shape)
  cider_low, cider_high = metrics.bootstrap(
    metrics.mean_stats(cider), metrics.mean, **draws
  )
  row = {
    'name': first['name'],
    'codec': first['codec'],
    'sent': first['sent'],
    'vectors': first['vectors'],
    'ratio': first['ratio'],
    'images': shape[0],
    'seeds': shape[1],
    **{name: float(np.mean(value)) for name, value in totals.items()},
    'bleu4_low': low,
    'bleu4_high': high,
    'level': draws['level'],
    'cider': float(cider.mean()),
    'cider_low': cider_low,
    'cider_high': cider_high,
    'rouge_l': float(found['rouge_l'].mean()),
    'kept': None,
    'kept_low': None,
    'kept_high': None,
    'bytes': _mean([r['total_bytes'] for r in flat]),
    'fields': _means(flat, 'bytes'),
    'distortion': _mean([r['distortion'] for r in flat]),
    'seconds': _means(flat, 'seconds', _median),
    'slots': _means(flat, 'slots'),
    'link': _means(flat, 'link'),
    'model': first.get('model'),
    'data': first.get('data'),
  }
  ids = [image[0]['image_id'] for image in grid]
  shared = [n for n, i in enumerate(ids) if i in whole]
  if shared:
    reference = np.stack([whole[ids[n]] for n in shared])[:, None]
    both = np.concatenate(
      [bleu[shared], np.broadcast_to(reference, bleu[shared].shape)], -1
    )
    row['kept'] = float(np.mean(_kept(both.sum(0))))
    row['kept_low'], row['kept_high'] = metrics.bootstrap(both, _kept, **draws)
  return row


def _kept(stats: np.ndarray) -> np.ndarray:
  """BLEU-4 of the first half of the statistics over that of the second."""
  full = metrics.bleu4(stats[..., _BLEU:])
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(full > 0, metrics.bleu4(stats[..., :_BLEU]) / full, 0.0)
