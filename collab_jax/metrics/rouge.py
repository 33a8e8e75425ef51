"""ROUGE-L: the longest common subsequence of caption and reference."""

from collections.abc import Sequence

from jaxtyping import Float
import numpy as np

from collab_jax.metrics import tokenize

_BETA = 1.2  # Recall's weight in coco-caption.


def rouge_l_scores(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> Float[np.ndarray, 'images']:
  """ROUGE-L of each caption.

  With P and R = the common subsequence's length over the caption's and over
  the reference's, each maximised over the references on its own, the score is
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
  """Mean ROUGE-L over the images, in [0, 1]."""
  return float(np.mean(rouge_l_scores(captions, references)))


def _score(text: str, refs: tuple[str, ...]) -> float:
  words = text.split()
  precision = recall = 0.0
  for ref in refs:
    other = ref.split()
    if words and other:
      common = _common(words, other)
      precision = max(precision, common / len(words))
      recall = max(recall, common / len(other))
  if not precision:
    return 0.0
  beta2 = _BETA**2
  return (1 + beta2) * precision * recall / (recall + beta2 * precision)


def _common(a: list[str], b: list[str]) -> int:
  """Length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for word in a:
    diagonal = 0
    for j, other in enumerate(b, 1):
      above = row[j]
      row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
      diagonal = above
  return row[-1]
