"""Corpus BLEU, and its statistics per image for resampling."""

import collections
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any, ClassVar

from jaxtyping import Float, Int
import numpy as np
import sacrebleu

from collab_jax.metrics import base, tokenize

ORDERS = 4
# Layout of the statistics, which is sacrebleu's: caption length, closest
# reference length, matches of order 1..4, n-grams of order 1..4.
STATS = 2 + 2 * ORDERS


def bleu(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
  """Computes corpus BLEU-1 to BLEU-4 by sacrebleu.

  Args:
    captions: One caption per image.
    references: The references of each image; their number may differ.

  Returns:
    'bleu1', ..., 'bleu4', each in [0, 100].

  Raises:
    ValueError: Captions and references do not match.

  Source: Papineni et al. 2002; the COCO evaluation's setting is sacrebleu's
  with tokenize='none' and no smoothing, after our own tokenization. Where
  nothing matches this gives 0, pycocoevalcap about 5e-4.
  """
  texts, refs = tokenize.tokenize_all(captions, references)
  most = max(map(len, refs))
  # sacrebleu wants one stream per reference, padded with None, which its
  # signature does not say.
  streams: Any = [
    [ref[i] if i < len(ref) else None for ref in refs] for i in range(most)
  ]
  scores = {}
  for order in range(1, ORDERS + 1):
    metric = sacrebleu.BLEU(
      tokenize='none', smooth_method='none', max_ngram_order=order, force=True
    )
    scores[f'bleu{order}'] = float(metric.corpus_score(texts, streams).score)
  return scores


def bleu_stats(
  caption: str, references: Sequence[str]
) -> Int[np.ndarray, 'stats']:
  """The counts of one caption; their sum over images gives the corpus BLEU.

  Args:
    caption: The caption.
    references: The references of its image, at least one.

  Returns:
    int64[10]: caption length, closest reference length (the shorter of two
    equally close ones), matches of order 1 to 4, n-grams of order 1 to 4.
  """
  (text,), (refs,) = tokenize.tokenize_all([caption], [references])
  return _stats(text, refs)


def corpus_bleu_stats(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> Int[np.ndarray, 'images stats']:
  """`bleu_stats` of every image, for `bleu_from_stats` and `bootstrap`."""
  texts, refs = tokenize.tokenize_all(captions, references)
  return np.stack([_stats(*pair) for pair in zip(texts, refs, strict=True)])


def bleu_from_stats(
  stats: Int[np.ndarray, '*batch stats'] | Float[np.ndarray, '*batch stats'],
) -> dict[str, Float[np.ndarray, '*batch']]:
  """BLEU-1 to BLEU-4 from summed statistics.

  BLEU-n = 100 min(1, e^(1 - r/c)) (p_1 ... p_n)^(1/n), with p_i = matches over
  n-grams of order i, and 0 if one of them is 0.

  Args:
    stats: Sums of `bleu_stats` over a corpus; the axes in front are kept.

  Returns:
    'bleu1', ..., 'bleu4', each in [0, 100], one per batch element.
  """
  stats = np.asarray(stats, np.float64)
  if stats.shape[-1] != STATS:
    raise ValueError(
      f'got statistics of shape {stats.shape}, expected (..., {STATS}): sums '
      'of bleu_stats over images'
    )
  length, closest = stats[..., 0], stats[..., 1]
  matches, totals = stats[..., 2 : 2 + ORDERS], stats[..., 2 + ORDERS :]
  with np.errstate(divide='ignore', invalid='ignore'):
    brevity = np.minimum(0.0, 1.0 - closest / length)
    logs = np.log(matches / totals)
  # No words, no n-grams of an order, or no match among them: BLEU is 0.
  brevity = np.where(length > 0, brevity, -np.inf)
  logs = np.where(matches > 0, logs, -np.inf)
  means = np.cumsum(logs, axis=-1) / np.arange(1, ORDERS + 1)
  scores = 100.0 * np.exp(brevity[..., None] + means)
  return {f'bleu{i + 1}': scores[..., i] for i in range(ORDERS)}


def bleu4(
  stats: Int[np.ndarray, '*batch stats'] | Float[np.ndarray, '*batch stats'],
) -> Float[np.ndarray, '*batch']:
  """BLEU-4 from summed statistics: what to give to `bootstrap`."""
  return bleu_from_stats(stats)['bleu4']


class _Bleu(base.Metric):
  """Base of corpus BLEU up to one order; all orders share statistics."""

  order: ClassVar[int]
  bounds: ClassVar[tuple[float, float]] = (0.0, 100.0)

  @property
  def statistics_key(self) -> str:
    return 'bleu'

  def statistics(
    self,
    answers: base.Answers,
    references: base.References,
    corpus: base.References | None = None,
  ) -> Int[np.ndarray, 'images stats']:
    """Computes `corpus_bleu_stats`."""
    del corpus
    return corpus_bleu_stats(answers, references)

  def combine(
    self,
    sums: Int[np.ndarray, '*batch stats'] | Float[np.ndarray, '*batch stats'],
  ) -> Float[np.ndarray, '*batch']:
    """Computes BLEU from summed statistics."""
    return np.asarray(bleu_from_stats(sums)[f'bleu{self.order}'])


@dataclasses.dataclass(frozen=True)
class Bleu1(_Bleu):
  """Corpus BLEU-1 of captions: words in common, 0 to 100.

  Bleu1().score(['a red ring'], [['a red ring on grass']])
  """

  label: ClassVar[str] = 'BLEU-1'
  order: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True)
class Bleu2(_Bleu):
  """Corpus BLEU-2 of captions: up to pairs of words, 0 to 100.

  Bleu2().score(['a red ring'], [['a red ring on grass']])
  """

  label: ClassVar[str] = 'BLEU-2'
  order: ClassVar[int] = 2


@dataclasses.dataclass(frozen=True)
class Bleu3(_Bleu):
  """Corpus BLEU-3 of captions: up to three words in a row, 0 to 100.

  Bleu3().score(['a red ring'], [['a red ring on grass']])
  """

  label: ClassVar[str] = 'BLEU-3'
  order: ClassVar[int] = 3


@dataclasses.dataclass(frozen=True)
class Bleu4(_Bleu):
  """Corpus BLEU-4 of captions: up to four words in a row, 0 to 100.

  Bleu4().score(['a red ring on grass'], [['a red ring on green grass']])
  """

  label: ClassVar[str] = 'BLEU-4'
  order: ClassVar[int] = 4


def _ngrams(text: str) -> collections.Counter[tuple[str, ...]]:
  words = text.split()
  return collections.Counter(
    tuple(words[i : i + order])
    for order in range(1, ORDERS + 1)
    for i in range(len(words) - order + 1)
  )


@functools.lru_cache(maxsize=1 << 16)
def _references(
  refs: tuple[str, ...],
) -> tuple[dict[tuple[str, ...], int], tuple[int, ...]]:
  """Largest count of every n-gram in one reference, and their lengths.

  Cached: a sweep scores many captions of the same image.
  """
  most: collections.Counter[tuple[str, ...]] = collections.Counter()
  for ref in refs:
    most |= _ngrams(ref)
  return most, tuple(len(ref.split()) for ref in refs)


def _stats(text: str, refs: tuple[str, ...]) -> Int[np.ndarray, 'stats']:
  most, lengths = _references(refs)
  length = len(text.split())
  stats = np.zeros(STATS, np.int64)
  stats[0] = length
  stats[1] = min(lengths, key=lambda other: (abs(other - length), other))
  for order in range(1, ORDERS + 1):
    stats[1 + ORDERS + order] = max(0, length - order + 1)
  for ngram, count in _ngrams(text).items():
    stats[1 + len(ngram)] += min(count, most.get(ngram, 0))
  return stats
