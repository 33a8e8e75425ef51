"""ANLS: how near the letters of an answer are to those of a reference."""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from collab_jax import _validate
from collab_jax.metrics import base, letter_case


@dataclasses.dataclass(frozen=True)
class Anls(base.AnswerMetric):
  """Average normalized Levenshtein similarity, for text that is read.

    Anls().score(['collab jax'], [['collab_jax', 'Collab JAX']])

  The score is 1 - edits / letters of the longer text, of the best reference;
  0 where that is not above the threshold.

  Attributes:
    threshold: share of edits from which on an answer is wrong, 0 to 1.
    case: 'exact', or 'ignore' where capitals do not count.

  Source: Biten et al., arXiv 1907.00490, equation 1; big_vision's
  `transfers/vqa.py`, equal on tests/golden/answers.json.
  """

  threshold: float = 0.5
  case: str = 'ignore'
  label: ClassVar[str] = 'ANLS'

  def __post_init__(self):
    _validate.number('threshold', self.threshold, 0, 1)
    letter_case.check(self.case)

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Computes the similarity of an answer to its best reference."""
    fold = letter_case.fold(self.case)
    answer = fold(answer)
    return max(self._similarity(answer, fold(ref)) for ref in references)

  def _similarity(self, answer: str, reference: str) -> float:
    longer = max(len(answer), len(reference))
    if not reference or not longer:
      return float(answer == reference)
    share = edits(answer, reference) / longer
    return 1 - share if share < self.threshold else 0.0


def edits(a: str, b: str) -> int:
  """Returns the Levenshtein distance of two texts.

  The letters to insert, delete or replace. A row of the table is two integers,
  whose bits say where the distance rises and falls.

  Source: Hyyro 2001, 'Explaining and extending the bit-parallel approximate
  string matching algorithm of Myers'.
  """
  if not a or not b:
    return len(a) + len(b)
  places: dict[str, int] = {}
  for i, letter in enumerate(a):
    places[letter] = places.get(letter, 0) | 1 << i
  full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
  rises, falls, distance = full, 0, len(a)
  for letter in b:
    same = places.get(letter, 0) | falls
    diagonal = (((same & rises) + rises) ^ rises) | same
    across_rises = falls | (full & ~(diagonal | rises))
    across_falls = rises & diagonal
    distance += bool(across_rises & last) - bool(across_falls & last)
    across_rises = across_rises << 1 | 1
    falls = across_rises & diagonal & full
    rises = (across_falls << 1 | ~(diagonal | across_rises)) & full
  return distance
