import importlib

import numpy as np
import pytest

from collab_jax import metrics


def _stats(images=200, seed=0):
  rng = np.random.default_rng(seed)
  words = ['a', 'cat', 'dog', 'on', 'the', 'mat']
  captions = [' '.join(rng.choice(words, 8)) for _ in range(images)]
  refs = [[' '.join(rng.choice(words, 8)) for _ in range(5)] for _ in captions]
  return metrics.corpus_bleu_stats(captions, refs)


def test_interval_of_a_mean_is_the_textbooks():
  scores = np.random.default_rng(0).normal(3.0, 2.0, 2000)
  low, high = metrics.bootstrap(
    metrics.mean_stats(scores), metrics.mean, n=4000
  )
  error = 1.96 * scores.std() / len(scores) ** 0.5
  assert low == pytest.approx(scores.mean() - error, abs=0.01)
  assert high == pytest.approx(scores.mean() + error, abs=0.01)


def test_bleu_interval_holds_the_score_and_is_seeded():
  stats = _stats()
  low, high = metrics.bootstrap(stats, metrics.bleu4)
  assert 0 < low < metrics.bleu4(stats.sum(0)) < high < 100
  assert metrics.bootstrap(stats, metrics.bleu4) == (low, high)
  assert metrics.bootstrap(stats, metrics.bleu4, seed=1) != (low, high)
  wide = metrics.bootstrap(stats, metrics.bleu4, level=0.99)
  assert wide[0] < low
  assert wide[1] > high


def test_is_the_same_in_one_chunk_and_in_many(monkeypatch):
  stats = _stats(50)
  whole = metrics.bootstrap(stats, metrics.bleu4, n=100)
  module = importlib.import_module('collab_jax.metrics.bootstrap')
  monkeypatch.setattr(module, '_CHUNK', 7 * 50)
  parts = metrics.bootstrap(stats, metrics.bleu4, n=100)
  assert parts == pytest.approx(whole, abs=1e-9)


def test_seeds_stay_with_their_image():
  stats = _stats(60)
  twice = np.stack([stats, stats], axis=1)
  once = metrics.bootstrap(stats, metrics.bleu4, n=50)
  assert metrics.bootstrap(twice, metrics.bleu4, n=50) == pytest.approx(once)


def test_paired_difference():
  scores = np.random.default_rng(0).normal(0.0, 5.0, 300)
  better = metrics.mean_stats(scores + 0.1)
  gap = metrics.paired_bootstrap(
    better, metrics.mean_stats(scores), metrics.mean
  )
  # The images differ much more than the systems do.
  assert gap == pytest.approx((0.1, 0.1, 0.1))
  stats = _stats(80)
  assert metrics.paired_bootstrap(stats, stats, metrics.bleu4) == (0, 0, 0)


@pytest.mark.parametrize('shape', [(0, 10), (5,)])
def test_refuses_what_is_no_table_of_images(shape):
  with pytest.raises(ValueError, match='at least one image'):
    metrics.bootstrap(np.zeros(shape), metrics.mean)


def test_refuses_different_images():
  a, b = np.ones((3, 2)), np.ones((4, 2))
  with pytest.raises(ValueError, match='same images'):
    metrics.paired_bootstrap(a, b, metrics.mean)
