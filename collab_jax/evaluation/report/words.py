"""Words of a caption that its references do not have in their place."""

from collections.abc import Sequence
import functools
import re
from typing import NamedTuple

# Of longer texts, which are no captions, the rest is not compared.
_MOST = 120
_MARKS = re.compile(r'[^\w]+')


class Word(NamedTuple):
  """Word of a caption.

  Attributes:
    text: The word as it is written.
    is_right: Whether the closest reference has it in this place; True for
      marks alone, and where there is nothing to compare with.
  """

  text: str
  is_right: bool


class MarkedCaption(NamedTuple):
  """Caption beside the closest of its references.

  Attributes:
    words: The caption's words in their order.
    missing: Number of the reference's words that the caption does not have.
  """

  words: list[Word]
  missing: int


def compare(caption: str, references: Sequence[str]) -> MarkedCaption:
  """Marks the words of a caption that went wrong.

  A word is right if it is in the longest common subsequence of the caption and
  the closest reference, the one with the most words in common. Case and
  punctuation do not count.

  Args:
    caption: The caption.
    references: Texts to compare with; none leaves all words right.
  """
  words = caption.split()
  if not references:
    return MarkedCaption([Word(word, True) for word in words], 0)
  places = [i for i, word in enumerate(words) if _plain(word)][:_MOST]
  spoken = tuple(_plain(words[i]) for i in places)
  pairs = [(_common(spoken, other), other) for other in map(_words, references)]
  # Of equally close ones the shortest: least is missing.
  common, closest = max(pairs, key=lambda pair: (len(pair[0]), -len(pair[1])))
  right = {places[i] for i in common}
  compared = {*places}
  marked = [
    Word(word, i in right or i not in compared) for i, word in enumerate(words)
  ]
  return MarkedCaption(marked, len(closest) - len(common))


def _plain(word: str) -> str:
  """Returns a word in small letters, without punctuation."""
  return _MARKS.sub('', word.casefold())


def _words(text: str) -> tuple[str, ...]:
  return tuple(filter(None, map(_plain, text.split())))[:_MOST]


@functools.lru_cache(maxsize=4096)
def _common(words: tuple[str, ...], others: tuple[str, ...]) -> list[int]:
  """Returns the places in `words` of a longest common subsequence."""
  lengths = [[0] * (len(others) + 1) for _ in range(len(words) + 1)]
  for i, word in reversed([*enumerate(words)]):
    for j, other in reversed([*enumerate(others)]):
      lengths[i][j] = (
        lengths[i + 1][j + 1] + 1
        if word == other
        else max(lengths[i + 1][j], lengths[i][j + 1])
      )
  places, i, j = [], 0, 0
  while i < len(words) and j < len(others):
    if words[i] == others[j]:
      places.append(i)
      i, j = i + 1, j + 1
    elif lengths[i + 1][j] >= lengths[i][j + 1]:
      i += 1
    else:
      j += 1
  return places
