"""Words that went wrong, against known cases and as properties."""

import difflib

import hypothesis
from hypothesis import strategies as st
import pytest

from collab_jax.evaluation.report import words


def marked(caption, *references):
  """The caption with its wrong words in brackets."""
  comparison = words.compare(caption, references)
  return ' '.join(
    w.text if w.is_right else f'[{w.text}]' for w in comparison[0]
  )


@pytest.mark.parametrize(
  ('caption', 'references', 'shown', 'missing'),
  [
    ('a red ring', ['a red ring'], 'a red ring', 0),
    ('A red, ring.', ['a red ring'], 'A red, ring.', 0),
    ('a blue ring', ['a red ring'], 'a [blue] ring', 1),
    ('a red ring', [], 'a red ring', 0),
    ('a red ring', ['one dog', 'the red ring'], '[a] red ring', 1),
    # The same words in another order are right once.
    ('a star left of a ring', ['a ring left of a star'], None, None),
    ('a ring', ['a ring on a wet green lawn', 'a ring on grass'], 'a ring', 2),
    ('', ['a ring'], '', 2),
    ('- a ring', ['a ring'], '- a ring', 0),
    ('寿司 と ring', ['寿司 ring'], '寿司 [と] ring', 0),
  ],
)
def test_known_cases(caption, references, shown, missing):
  if shown is None:
    assert marked(caption, *references).count('[') == 2
    return
  assert marked(caption, *references) == shown
  assert words.compare(caption, references).missing == missing


TEXTS = st.lists(st.sampled_from('abcd'), max_size=12).map(' '.join)


@hypothesis.given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_right_words_are_a_subsequence_of_a_reference(caption, references):
  comparison = words.compare(caption, references)
  assert [w.text for w in comparison.words] == caption.split()
  right = [w.text for w in comparison.words if w.is_right]

  def is_in(reference):
    rest = iter(reference.split())
    return all(word in rest for word in right)

  assert any(map(is_in, references))
  # As long as any matching of difflib, which does not look for the longest.
  for reference in references:
    matcher = difflib.SequenceMatcher(
      None, caption.split(), reference.split(), autojunk=False
    )
    blocks = matcher.get_matching_blocks()
    assert len(right) >= sum(block.size for block in blocks)


def test_a_long_text_takes_no_long_time():
  comparison = words.compare('word ' * 50_000, ['other ' * 50_000])
  assert len(comparison.words) == 50_000
  assert sum(not word.is_right for word in comparison.words) == 120
