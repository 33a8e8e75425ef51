"""CIDEr-D: how much of what people agree upon a caption says."""

import collections
from collections.abc import Sequence
import dataclasses
import math
from typing import ClassVar

from jaxtyping import Float
import numpy as np

from collab_jax.metrics import base, tokenize

_ORDERS = 4
_Counts = dict[tuple[str, ...], int]
# Per order: the weights, then their norms; then the number of 2-grams.
_Vector = tuple[tuple[dict[tuple[str, ...], float], ...], list[float], int]


class CiderD:
  """CIDEr-D against fixed references.

  The references are weighed once, so that the many captions that a sweep makes
  for the same images are scored quickly.

  For every order 1 to 4 a text is a vector of n-gram counts times
  log(images / images whose references hold the n-gram). The score is the
  cosine between caption and reference, with the caption's weights clipped to
  the reference's, times exp(-difference in length^2 / (2 sigma^2)), averaged
  over orders and references, times 10.

  Source: Vedantam et al. 2015; pycocoevalcap 1.2's `Cider`, equal to 1e-9. As
  there, the length is the number of 2-grams, and a corpus of one image has no
  weights at all: every score is 0.
  """

  def __init__(self, references: Sequence[Sequence[str]], sigma: float = 6.0):
    """Weighs the references.

    Args:
      references: The references of each image, which are also the corpus of
        the document frequencies.
      sigma: Width of the penalty on the length, in words.
    """
    _, refs = tokenize.tokenize_all([''] * len(references), references)
    counts = [[_ngrams(ref) for ref in image] for image in refs]
    frequency = collections.Counter(
      ngram for image in counts for ngram in set().union(*image)
    )
    self._unseen = math.log(len(counts)) if counts else 0.0
    self._rarity = {
      ngram: self._unseen - math.log(n) for ngram, n in frequency.items()
    }
    self._variance = 2 * sigma**2
    self._references = [[self._weigh(c) for c in image] for image in counts]
    self._index = {tuple(r): n for n, r in enumerate(references)}

  def scores(self, captions: Sequence[str]) -> Float[np.ndarray, 'images']:
    """Computes the score of each caption, in [0, 10].

    Args:
      captions: One caption per image, in the order of the references.

    Returns:
      float64, one score per image.

    Raises:
      ValueError: There are more or fewer captions than images.
    """
    if len(captions) != len(self._references):
      raise ValueError(
        f'got {len(captions)} captions for {len(self._references)} images'
      )
    return np.array(
      [
        self._score(caption, references)
        for caption, references in zip(captions, self._references, strict=True)
      ]
    )

  def scores_against(
    self, captions: Sequence[str], references: Sequence[Sequence[str]]
  ) -> Float[np.ndarray, 'captions']:
    """Computes the score of each caption, several of one image among them.

    Args:
      captions: Captions in any order.
      references: The references of the image of each. Where they are not among
        those of the corpus, words that it lacks weigh most.

    Returns:
      float64, one score per caption.
    """
    scores = np.zeros(len(captions))
    for i, (caption, refs) in enumerate(zip(captions, references, strict=True)):
      index = self._index.get(tuple(refs))
      vectors = (
        [self._weigh(_ngrams(tokenize.tokenize(ref))) for ref in refs]
        if index is None
        else self._references[index]
      )
      scores[i] = self._score(caption, vectors)
    return scores

  def _score(self, caption: str, references: Sequence[_Vector]) -> float:
    vector = self._weigh(_ngrams(tokenize.tokenize(caption)))
    total = sum(self._similarity(vector, ref) for ref in references)
    return 10.0 * total / _ORDERS / len(references)

  def _weigh(self, counts: _Counts) -> _Vector:
    weights: tuple[dict, ...] = tuple({} for _ in range(_ORDERS))
    for ngram, count in counts.items():
      rarity = self._rarity.get(ngram, self._unseen)
      weights[len(ngram) - 1][ngram] = count * rarity
    norms = [sum(w * w for w in order.values()) ** 0.5 for order in weights]
    length = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return weights, norms, length

  def _similarity(self, caption: _Vector, reference: _Vector) -> float:
    """Sum over the orders."""
    weights, norms, length = caption
    other_weights, other_norms, other_length = reference
    total = 0.0
    for order in range(_ORDERS):
      mine, theirs = weights[order], other_weights[order]
      dot = 0.0
      for ngram, weight in mine.items():
        if ngram in theirs:
          other = theirs[ngram]
          dot += min(weight, other) * other
      norm = norms[order] * other_norms[order]
      total += dot / norm if norm else dot
    return total * math.exp(-((length - other_length) ** 2) / self._variance)


def cider_scores(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, 'images']:
  """CIDEr-D of each caption, in [0, 10]; see `CiderD`."""
  tokenize.tokenize_all(captions, references)
  return CiderD(references).scores(captions)


def cider(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
  """Mean CIDEr-D over the images, in [0, 10]; papers print 100 times this.

  Of a single image it is 0, as in coco-caption: words are weighed by how few
  of the images have them.
  """
  return float(np.mean(cider_scores(captions, references)))


@dataclasses.dataclass(frozen=True)
class Cider(base.MeanMetric):
  """Mean CIDEr-D of captions, 0 to 10; shown 100-fold, as papers print it.

  Cider().score(['a red ring', 'a dog'], [['one red ring'], ['a dog barks']])

  Words are weighed by how few images of the corpus have them.
  """

  label: ClassVar[str] = 'CIDEr'
  scale: ClassVar[float] = 100.0
  digits: ClassVar[int] = 0
  bounds: ClassVar[tuple[float, float]] = (0.0, 10.0)
  uses_corpus: ClassVar[bool] = True

  def scores(
    self,
    answers: base.Answers,
    references: base.References,
    corpus: base.References | None = None,
  ) -> Float[np.ndarray, 'images']:
    """Computes the score of each caption; see `CiderD`."""
    tokenize.tokenize_all(answers, references)
    cider = CiderD(references if corpus is None else corpus)
    return cider.scores_against(answers, references)


def _ngrams(text: str) -> _Counts:
  words = text.split()
  return collections.Counter(
    tuple(words[i : i + order])
    for order in range(1, _ORDERS + 1)
    for i in range(len(words) - order + 1)
  )
