"""Share of answers that equal a reference: words, numbers, choices."""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from collab_jax.metrics import base, letter_case

_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen
fourteen fifteen sixteen seventeen eighteen nineteen twenty
"""
_NUMERALS = {word: str(i) for i, word in enumerate(_NUMBER_WORDS.split())}
_NUMERALS['none'] = '0'


@dataclasses.dataclass(frozen=True)
class ExactMatch(base.AnswerMetric):
  """Share of answers that equal a reference to the letter.

    ExactMatch().score(['left', 'Yes'], [['left'], ['yes']])

  Attributes:
    case: 'exact', or 'ignore' where capitals do not count.

  Source: big_vision's `transfers/vqa.py` (OCR-VQA without case), equal
  on tests/golden/answers.json.
  """

  case: str = 'exact'
  label: ClassVar[str] = 'exact match'

  def __post_init__(self):
    letter_case.check(self.case)

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Returns 1 for a right answer, else 0."""
    fold = letter_case.fold(self.case)
    return float(fold(answer) in map(fold, references))


@dataclasses.dataclass(frozen=True)
class CountAccuracy(base.AnswerMetric):
  """Share of right numbers, in digits or in words up to twenty.

    CountAccuracy().score(['two', 'none'], [['2'], ['0']])

  Source: big_vision's `transfers/tallyqa.py`, equal on
  tests/golden/answers.json.
  """

  label: ClassVar[str] = 'right counts'

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Returns 1 for a right number, else 0."""
    return float(_numeral(answer) in map(_numeral, references))


@dataclasses.dataclass(frozen=True)
class ChoiceAccuracy(base.AnswerMetric):
  """Share of right choices: letters or words, capitals aside.

    ChoiceAccuracy().score(['B', ''], [['b'], ['a']])

  An answer that is empty chose nothing, and is wrong.

  Source: big_vision's `transfers/science_qa.py`, equal on
  tests/golden/answers.json after `tasks.ScienceQa.read`.
  """

  label: ClassVar[str] = 'right choices'

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Returns 1 for a right choice, else 0."""
    choice = _folded(answer)
    return float(bool(choice) and choice in map(_folded, references))


def _numeral(text: str) -> str:
  return _NUMERALS.get(text.lower(), text)


def _folded(text: str) -> str:
  return text.strip().lower()
