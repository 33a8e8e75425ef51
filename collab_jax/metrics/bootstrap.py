"""Bootstrap confidence intervals: images are drawn with replacement."""

from collections.abc import Callable, Iterator
import functools
from typing import NamedTuple

from jaxtyping import Float, Shaped
import numpy as np

Stats = Shaped[np.ndarray, 'images *rest']
Function = Callable[[np.ndarray], np.ndarray]

_CHUNK = 1 << 22  # Drawn images held at once: 32 MiB of indices.


class Difference(NamedTuple):
  """Difference of two systems' scores, with its confidence interval.

  Attributes:
    value: The difference, first - second, on all images.
    low: Lower end of its interval; above 0 means that the first is better.
    high: Upper end of its interval.
  """

  value: float
  low: float
  high: float


def mean_stats(scores: Float[np.ndarray, 'images *seeds']) -> np.ndarray:
  """Turns one score per image into statistics whose `mean` is their mean."""
  scores = np.asarray(scores, np.float64)
  return np.stack([scores, np.ones_like(scores)], axis=-1)


def mean(stats: np.ndarray) -> np.ndarray:
  """Computes the mean from summed `mean_stats`, for use in `bootstrap`."""
  return stats[..., 0] / stats[..., 1]


def bootstrap(
  stats: Stats,
  fn: Function,
  n: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> tuple[float, float]:
  """Computes the percentile interval of a corpus score.

  Draws all images with replacement, `n` times. Only statistics are summed, and
  no caption is scored again, so that 1000 draws of BLEU over 500 images take
  milliseconds.

  Args:
    stats: Statistics per image, [images ... stats]; axes between the two, such
      as seeds, stay together when an image is drawn, and the scores are
      averaged over them.
    fn: The score from summed statistics, [... stats] -> [...]: `bleu4`,
      `mean`.
    n: Number of draws.
    seed: Seed of the draws, which determines the interval.
    level: Share of the draws within the interval.

  Returns:
    Its lower and upper end.

  Raises:
    ValueError: There are no images, or no axis of statistics.
  """
  return interval(drawn_scores(stats, fn, n, seed), level)


def paired_bootstrap(
  first: Stats,
  second: Shaped[np.ndarray, '...'],
  fn: Function,
  n: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> Difference:
  """Compares two systems on the same images.

  Both are scored on the same draws, so that the difficulty of images cancels.

  Args:
    first: Statistics of the first, [images ... stats].
    second: Statistics of the second, of the same images in the same order.
    fn: The score from summed statistics, see `bootstrap`.
    n: Number of draws.
    seed: Seed of the draws.
    level: Share of the draws within the interval.

  Returns:
    The difference of the scores, first - second, and its interval.

  Raises:
    ValueError: The numbers of images differ.
  """
  first, second = _checked(first), _checked(second)
  if len(first) != len(second):
    raise ValueError(
      f'got statistics of {len(first)} and {len(second)} images, expected the '
      'same images in both'
    )
  draws = np.concatenate(
    [
      _score(fn, _sums(counts, first)) - _score(fn, _sums(counts, second))
      for counts in _draws(len(first), n, seed)
    ]
  )
  everything = np.ones((1, len(first)))
  value = _score(fn, _sums(everything, first)) - _score(
    fn, _sums(everything, second)
  )
  return Difference(float(value[0]), *interval(draws, level))


def simultaneous(
  values: Float[np.ndarray, ' m'],
  draws: Float[np.ndarray, 'n m'],
  level: float = 0.95,
) -> list[Difference]:
  """Computes simultaneous intervals of several differences.

  The width of each, in its own standard deviations, is that quantile of the
  largest deviation among all differences: of twenty comparisons at 95%, one
  without a difference would otherwise look significant on average.

  Args:
    values: The differences on all images.
    draws: The differences on every draw of the images.
    level: Share of the draws in which all intervals hold.

  Source: the max-t method of Westfall and Young 1993, as of Romano and Wolf
  2005, in one step.
  """
  values, draws = np.asarray(values), np.asarray(draws)
  spread = draws.std(axis=0)
  safe = np.where(spread > 0, spread, 1.0)
  largest = (np.abs(draws - values) / safe).max(axis=1, initial=0.0)
  reach = np.quantile(largest, level) * spread
  return [
    Difference(float(v), float(v - r), float(v + r))
    for v, r in zip(values, reach, strict=True)
  ]


def drawn_scores(
  stats: Stats, fn: Function, n: int = 1000, seed: int = 0
) -> Float[np.ndarray, ' {n}']:
  """Computes the score of every draw.

  Calls with equal numbers of images, `n` and `seed` draw the same images.

  Args:
    stats: Statistics per image, see `bootstrap`.
    fn: The score from summed statistics, see `bootstrap`.
    n: Number of draws.
    seed: Seed of the draws.

  Returns:
    Scores in the order of the draws.

  Raises:
    ValueError: There are no images, or no axis of statistics.
  """
  stats = _checked(stats)
  return np.concatenate(
    [_score(fn, _sums(counts, stats)) for counts in _draws(len(stats), n, seed)]
  )


def interval(
  draws: Float[np.ndarray, ' n'], level: float
) -> tuple[float, float]:
  """Returns the ends of the central interval with a share of the draws."""
  low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def _checked(stats: np.ndarray) -> np.ndarray:
  stats = np.asarray(stats, np.float64)
  if stats.ndim < 2 or not len(stats):
    raise ValueError(
      f'got statistics of shape {stats.shape}, expected [images ... stats] '
      'with at least one image; use mean_stats for one score per image'
    )
  return stats


def _draws(
  images: int, n: int, seed: int
) -> Iterator[Float[np.ndarray, 'draws images']]:
  """Yields the counts of each image, a bounded number of draws at a time."""
  rng = np.random.default_rng(seed)
  size = max(1, _CHUNK // images)
  if n <= size:
    yield _one_chunk(images, n, seed)
    return
  for start in range(0, n, size):
    yield _counts(rng, images, min(size, n - start))


@functools.lru_cache(maxsize=2)
def _one_chunk(
  images: int, n: int, seed: int
) -> Float[np.ndarray, 'draws images']:
  """Draws once for all metrics and codecs of the same images."""
  counts = _counts(np.random.default_rng(seed), images, n)
  counts.flags.writeable = False
  return counts


def _counts(
  rng: np.random.Generator, images: int, rows: int
) -> Float[np.ndarray, 'draws images']:
  drawn = rng.integers(0, images, (rows, images))
  drawn += np.arange(rows)[:, None] * images
  counts = np.bincount(drawn.ravel(), minlength=rows * images)
  return counts.reshape(rows, images).astype(np.float64)


def _sums(counts: np.ndarray, stats: np.ndarray) -> np.ndarray:
  """Sums over drawn images; exact, since counts are far below 2^53."""
  return np.tensordot(counts, stats, axes=1)


def _score(fn: Function, sums: np.ndarray) -> Float[np.ndarray, 'draws']:
  scores = np.asarray(fn(sums), np.float64)
  return scores.reshape(len(sums), -1).mean(axis=1)
