"""Accuracy that lets numbers differ a little."""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from collab_jax import _validate
from collab_jax.metrics import base, letter_case


@dataclasses.dataclass(frozen=True)
class RelaxedAccuracy(base.AnswerMetric):
  """Share of answers within 5% of a number, or equal to a text.

    RelaxedAccuracy().score(['10.3', 'Norway'], [['10'], ['norway']])

  A percentage is the number without its sign over 100.

  Attributes:
    tolerance: largest error, relative to the reference; 0 asks for equality.
    case: 'exact', or 'ignore' where capitals do not count.

  Source: Masry et al., arXiv 2203.10244, section 5.1; big_vision's
  `transfers/chartqa.py`, equal on tests/golden/answers.json.
  """

  tolerance: float = 0.05
  case: str = 'ignore'
  label: ClassVar[str] = 'relaxed accuracy'

  def __post_init__(self):
    _validate.number('tolerance', self.tolerance, 0)
    letter_case.check(self.case)

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Returns 1 for an answer that is near enough, else 0."""
    fold = letter_case.fold(self.case)
    answer = fold(answer)
    return float(any(self._near(answer, fold(ref)) for ref in references))

  def _near(self, answer: str, reference: str) -> bool:
    number, expected = _number(answer), _number(reference)
    # A share of 0 is nothing: it needs the same text.
    if number is None or not expected:
      return answer == reference
    return abs(number - expected) / abs(expected) <= self.tolerance


def _number(text: str) -> float | None:
  try:
    if text.endswith('%'):
      return float(text.rstrip('%')) / 100
    return float(text)
  except ValueError:
    return None
