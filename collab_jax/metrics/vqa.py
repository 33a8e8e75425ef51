"""Accuracy of answers of which people gave several."""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from collab_jax.metrics import base, vqa_text

_AGREED = 3  # As many people make an answer right.


@dataclasses.dataclass(frozen=True)
class VqaAccuracy(base.AnswerMetric):
  """Accuracy of VQA: an answer is right if three of the others gave it.

    VqaAccuracy().score(['two'], [['2'] * 6 + ['3'] * 4])

  Of ten people each is left out in turn; the score is the mean of
  min(1, matches among the others / 3). Answers and references are normalized
  unless all people agree.

  Source: github.com/GT-Vision-Lab/VQA, equal on tests/golden/vqa.json.
  """

  label: ClassVar[str] = 'VQA accuracy'

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Computes the accuracy of an answer, 0 to 1."""
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


@dataclasses.dataclass(frozen=True)
class VqaMatches(base.AnswerMetric):
  """Accuracy of OK-VQA in big_vision: min(1, people with the answer / 3).

    VqaMatches().score(['red'], [['red', 'red', 'pink']])

  Nobody is left out, and nothing is normalized.

  Source: big_vision's `transfers/vqa.py`, equal on tests/golden/vqa.json.
  """

  label: ClassVar[str] = 'accuracy'

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Computes the accuracy of an answer, 0 to 1."""
    return min(1.0, sum(ref == answer for ref in references) / _AGREED)
