"""ROUGE-L: the longest common subsequence of caption and reference."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import ClassVar

from jaxtyping import Float
import numpy as np

from collab_jax.metrics import base, tokenize

_BETA = 1.2  # Recall's weight in coco-caption.


def rouge_l_scores(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, 'images']:
  """Computes ROUGE-L of each caption.

  With P and R = the common subsequence's length over the caption's and over
  the reference's, each maximised over the references separately, the score is
  (1 + beta^2) P R / (R + beta^2 P), beta = 1.2.

  Args:
    captions: One caption per image.
    references: The references of each image.

  Returns:
    float64 in [0, 1], one per image; 0 for an empty caption.

  Source: Lin 2004; pycocoevalcap 1.2's `Rouge`, equal to 1e-9.
  """
  texts, refs = tokenize.tokenize_all(captions, references)
  return np.array([_score(*pair) for pair in zip(texts, refs, strict=True)])


def rouge_l(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
  """Computes the mean ROUGE-L over images, in [0, 1]."""
  return float(np.mean(rouge_l_scores(captions, references)))


@dataclasses.dataclass(frozen=True)
class RougeL(base.MeanMetric):
  """Mean ROUGE-L of captions, 0 to 1; shown in percent.

  RougeL().score(['a red ring'], [['a red ring on grass']])
  """

  label: ClassVar[str] = 'ROUGE-L'
  scale: ClassVar[float] = 100.0
  bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

  def scores(
    self,
    answers: base.Answers,
    references: base.References,
    corpus: base.References | None = None,
  ) -> Float[np.ndarray, 'images']:
    """Computes `rouge_l_scores`."""
    del corpus
    return rouge_l_scores(answers, references)


def _score(text: str, refs: tuple[str, ...]) -> float:
  words = text.split()
  precision = recall = 0.0
  for length, places in _references(refs):
    if words and length:
      common = _common(words, length, places)
      precision = max(precision, common / len(words))
      recall = max(recall, common / length)
  if not precision:
    return 0.0
  beta2 = _BETA**2
  return (1 + beta2) * precision * recall / (recall + beta2 * precision)


@functools.lru_cache(maxsize=1 << 16)
def _references(refs: tuple[str, ...]) -> list[tuple[int, dict[str, int]]]:
  """Returns each reference's length and its words' places, as bits.

  Cached: a sweep scores many captions of the same image.
  """
  parsed = []
  for ref in refs:
    words, places = ref.split(), {}
    for n, word in enumerate(words):
      places[word] = places.get(word, 0) | 1 << n
    parsed.append((len(words), places))
  return parsed


def _common(words: list[str], length: int, places: dict[str, int]) -> int:
  """Returns the length of the longest common subsequence.

  One row of the table of lengths is one integer, whose zeros are the places
  where the length grows.

  Source: Hyyro 2004, 'Bit-parallel LCS-length computation revisited'.
  """
  row = (1 << length) - 1
  for word in words:
    same = row & places.get(word, 0)
    row = (row + same) | (row - same)
  return length - (row & ((1 << length) - 1)).bit_count()
