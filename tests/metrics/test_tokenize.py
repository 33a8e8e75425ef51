from hypothesis import example, given
from hypothesis import strategies as st
import pytest

from collab_jax.metrics.tokenize import check_texts, tokenize, tokenize_all


@pytest.mark.parametrize(
  ('caption', 'words'),
  [
    ('A red circle, above a square.', 'a red circle above a square'),
    ("The dog's here; it doesn't bark!", "the dog 's here it does n't bark"),
    ('a T-shirt (black-and-white)', 'a t-shirt -lrb- black-and-white -rrb-'),
    ("at 3:30 p.m. o'clock", "at 3:30 p.m. o'clock"),
    ('"quoted" -- dash - ... \u2026', 'quoted dash'),
    ('one\ntwo\tthree', 'one two three'),
    ('you cannot', 'you can not'),
    ('', ''),
    (' .,:; ! ? ', ''),
  ],
)
def test_known_answers(caption, words):
  assert tokenize(caption) == words


@given(st.text(st.characters(codec='ascii'), max_size=40))
@example("cannot 'n' don't")
def test_a_second_time_changes_nothing_of_plain_words(text):
  words = tokenize(text)
  assert words == words.strip().lower()
  assert '  ' not in words


@given(st.text(max_size=40))
def test_any_text_is_accepted(text):
  assert '\n' not in tokenize(text)


@pytest.mark.parametrize(
  ('captions', 'references', 'said'),
  [
    (['a'], [], 'got 1 captions'),
    ([], [], 'no captions'),
    (['a', 'b'], [['a'], []], r'references\[1\]'),
    (['a'], ['a cat'], r'references\[0\]'),
    ('ab', [['a'], ['b']], "captions: got 'ab'"),
  ],
)
def test_refuses_what_cannot_be_scored(captions, references, said):
  with pytest.raises(ValueError, match=said):
    tokenize_all(captions, references)


@pytest.mark.parametrize(
  ('texts', 'said'),
  [
    ([None], r'captions\[0\]: got None, expected a caption'),
    (['a', ['a cat']], r'captions\[1\]: got \['),
    ('ab', "captions: got 'ab', expected a list"),
  ],
)
def test_refuses_what_is_no_text(texts, said):
  check_texts('captions', ['a', ''])
  with pytest.raises(ValueError, match=said):
    check_texts('captions', texts)
