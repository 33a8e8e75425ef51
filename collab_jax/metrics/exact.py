"""Share of answers that equal a reference: words, numbers, choices."""

import dataclasses
from typing import ClassVar

from jaxtyping import Float
import numpy as np

from collab_jax.metrics import base, letter_case

_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen
fourteen fifteen sixteen seventeen eighteen nineteen twenty
"""
_NUMERALS = {word: str(i) for i, word in enumerate(_NUMBER_WORDS.split())}
_NUMERALS['none'] = '0'


@dataclasses.dataclass(frozen=True)
class ExactMatch(base.MeanMetric):
  """Share of answers that equal a reference to the letter.

    ExactMatch().score(['left', 'Yes'], [['left'], ['yes']])

  Attributes:
    case: 'exact', or 'ignore' where capitals do not count.

  Source: big_vision's `transfers/vqa.py` (OCR-VQA without case), equal
  on tests/golden/answers.json.
  """

  case: str = 'exact'
  label: ClassVar[str] = 'exact match'
  unit: ClassVar[str] = '%'
  scale: ClassVar[float] = 100.0
  bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

  def __post_init__(self):
    letter_case.check(self.case)

  def scores(
    self,
    answers: base.Answers,
    references: base.References,
    corpus: base.References | None = None,
  ) -> Float[np.ndarray, 'examples']:
    """Computes 1 for each answer that is right, else 0."""
    del corpus
    fold = letter_case.fold(self.case)
    return np.array(
      [
        float(fold(answer) in {fold(ref) for ref in refs})
        for answer, refs in zip(answers, references, strict=True)
      ]
    )


@dataclasses.dataclass(frozen=True)
class CountAccuracy(base.MeanMetric):
  """Share of right numbers, in digits or in words up to twenty.

    CountAccuracy().score(['two', 'none'], [['2'], ['0']])

  Source: big_vision's `transfers/tallyqa.py`, equal on
  tests/golden/answers.json.
  """

  label: ClassVar[str] = 'right counts'
  unit: ClassVar[str] = '%'
  scale: ClassVar[float] = 100.0
  bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

  def scores(
    self,
    answers: base.Answers,
    references: base.References,
    corpus: base.References | None = None,
  ) -> Float[np.ndarray, 'examples']:
    """Computes 1 for each number that is right, else 0."""
    del corpus
    return np.array(
      [
        float(_numeral(answer) in map(_numeral, refs))
        for answer, refs in zip(answers, references, strict=True)
      ]
    )


@dataclasses.dataclass(frozen=True)
class ChoiceAccuracy(base.MeanMetric):
  """Share of right choices: letters or words, capitals aside.

    ChoiceAccuracy().score(['B', ''], [['b'], ['a']])

  An answer that is empty chose nothing, and is wrong.

  Source: big_vision's `transfers/science_qa.py`, equal on
  tests/golden/answers.json after `tasks.ScienceQa.read`.
  """

  label: ClassVar[str] = 'right choices'
  unit: ClassVar[str] = '%'
  scale: ClassVar[float] = 100.0
  bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

  def scores(
    self,
    answers: base.Answers,
    references: base.References,
    corpus: base.References | None = None,
  ) -> Float[np.ndarray, 'examples']:
    """Computes 1 for each choice that is right, else 0."""
    del corpus
    return np.array(
      [
        float(bool(choice) and choice in {_folded(ref) for ref in refs})
        for answer, refs in zip(answers, references, strict=True)
        for choice in [_folded(answer)]
      ]
    )


def _numeral(text: str) -> str:
  return _NUMERALS.get(text.lower(), text)


def _folded(text: str) -> str:
  return text.strip().lower()
