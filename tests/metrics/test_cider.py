import math

import numpy as np
import pytest

from collab_jax import metrics


def test_by_hand():
  # Two images; every n-gram occurs at one of them, weight log 2. The caption
  # 'a b' against 'a b c': 1-grams 2 / sqrt(2 * 3), 2-grams 1 / sqrt(1 * 2),
  # times the penalty for one 2-gram less.
  scores = metrics.cider_scores(['a b', 'x'], [['a b c'], ['x']])
  penalty = math.exp(-1 / (2 * 6**2))
  expected = 10 / 4 * penalty * (2 / math.sqrt(6) + 1 / math.sqrt(2))
  assert scores[0] == pytest.approx(expected)
  assert scores[1] == pytest.approx(10 / 4)


def test_repetition_is_clipped():
  refs = [['a b c'], ['x y z']]
  plain, _ = metrics.cider_scores(['a b c', ''], refs)
  stuffed, _ = metrics.cider_scores(['a a a b c', ''], refs)
  assert plain == pytest.approx(10 * 3 / 4)  # There are no 4-grams.
  assert stuffed < plain


def test_words_at_every_image_have_no_weight():
  scores = metrics.cider_scores(['a', 'a'], [['a cat'], ['a dog']])
  assert scores.tolist() == [0.0, 0.0]


def test_one_image_has_no_weights():
  assert metrics.cider(['a cat'], [['a cat']]) == 0.0


def test_scorer_is_the_function():
  refs = [['a red cat', 'a cat'], ['a blue dog'], ['the sea']]
  scorer = metrics.CiderD(refs)
  for captions in (['a cat', 'a dog', ''], ['the sea', 'a blue dog', 'a']):
    np.testing.assert_array_equal(
      scorer.scores(captions), metrics.cider_scores(captions, refs)
    )
  with pytest.raises(ValueError, match='2 captions for 3 images'):
    scorer.scores(['a', 'b'])
