"""Accuracy of answers of which people gave several."""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from jaxtyping import Float
import numpy as np

from collab_jax.metrics import base, vqa_text

_AGREED = 3  # As many people make an answer right.


@dataclasses.dataclass(frozen=True)
class VqaAccuracy(base.MeanMetric):
  """Accuracy of VQA: an answer is right if three of the others gave it.

    VqaAccuracy().score(['two'], [['2'] * 6 + ['3'] * 4])

  Of ten people each is left out in turn; the score is the mean of
  min(1, matches among the others / 3). Answers and references are normalized
  unless all people agree.

  Source: github.com/GT-Vision-Lab/VQA, equal on tests/golden/vqa.json.
  """

  label: ClassVar[str] = 'VQA accuracy'
  unit: ClassVar[str] = '%'
  scale: ClassVar[float] = 100.0
  bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

  def scores(
    self,
    answers: base.Answers,
    references: base.References,
    corpus: base.References | None = None,
  ) -> Float[np.ndarray, 'examples']:
    """Computes the accuracy of each answer, 0 to 1."""
    del corpus
    return np.array(
      [_accuracy(*pair) for pair in zip(answers, references, strict=True)]
    )


@dataclasses.dataclass(frozen=True)
class VqaMatches(base.MeanMetric):
  """Accuracy of OK-VQA in big_vision: min(1, people with the answer / 3).

    VqaMatches().score(['red'], [['red', 'red', 'pink']])

  Nobody is left out, and nothing is normalized.

  Source: big_vision's `transfers/vqa.py`, equal on tests/golden/vqa.json.
  """

  label: ClassVar[str] = 'accuracy'
  unit: ClassVar[str] = '%'
  scale: ClassVar[float] = 100.0
  bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

  def scores(
    self,
    answers: base.Answers,
    references: base.References,
    corpus: base.References | None = None,
  ) -> Float[np.ndarray, 'examples']:
    """Computes the accuracy of each answer, 0 to 1."""
    del corpus
    return np.array(
      [
        min(1.0, sum(ref == answer for ref in refs) / _AGREED)
        for answer, refs in zip(answers, references, strict=True)
      ]
    )


def _accuracy(answer: str, references: Sequence[str]) -> float:
  refs = [vqa_text.on_one_line(ref) for ref in references]
  answer = vqa_text.on_one_line(answer)
  if len(set(refs)) > 1:
    answer = vqa_text.normalize(answer)
    refs = [vqa_text.normalize(ref) for ref in refs]
  matches = sum(ref == answer for ref in refs)
  # A person who gave the answer has a match less among the others.
  left_out = min(1.0, (matches - 1) / _AGREED) * matches
  others = min(1.0, matches / _AGREED) * (len(refs) - matches)
  return (left_out + others) / len(refs)
