import pytest

from collab_jax import metrics


def test_by_hand():
  # Common 'a on mat': 3 of 4 words of the caption, 3 of 5 of the reference;
  # the second reference has the larger recall, 2 of 2.
  score = metrics.rouge_l(['a cat on mat'], [['a dog on the mat', 'a mat']])
  p, r, beta2 = 3 / 4, 1.0, 1.2**2
  assert score == pytest.approx((1 + beta2) * p * r / (r + beta2 * p))


def test_ends_of_the_scale():
  refs = [['a cat'], ['a dog'], ['the sea']]
  scores = metrics.rouge_l_scores(['A cat.', 'x', ''], refs)
  assert scores.tolist() == [pytest.approx(1.0), 0.0, 0.0]
  assert metrics.rouge_l(['A cat.', 'x', ''], refs) == pytest.approx(1 / 3)


def test_a_reference_without_words():
  assert metrics.rouge_l(['a cat'], [['...']]) == 0.0
