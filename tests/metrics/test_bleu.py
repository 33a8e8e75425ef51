import math

from hypothesis import given, settings
import numpy as np
import pytest
import sacrebleu

from collab_jax import metrics
from tests.metrics import texts


def _sacrebleu(captions, references):
  most = max(map(len, references))
  streams = [
    [refs[i] if i < len(refs) else None for refs in references]
    for i in range(most)
  ]
  return [
    sacrebleu.BLEU(
      tokenize='none', smooth_method='none', max_ngram_order=n, force=True
    )
    .corpus_score(captions, streams)
    .score
    for n in range(1, 5)
  ]


def test_by_hand():
  # Matches 4, 3, 2, 1 of 5, 4, 3, 2 n-grams; reference of length 6.
  scores = metrics.bleu(
    ['a cat sits on it'], [['a cat sits on the mat', 'x x x x x x x']]
  )
  brevity = math.exp(1 - 6 / 5)
  assert scores['bleu1'] == pytest.approx(100 * brevity * 4 / 5)
  assert scores['bleu2'] == pytest.approx(
    100 * brevity * (4 / 5 * 3 / 4) ** 0.5
  )
  assert scores['bleu4'] == pytest.approx(
    100 * brevity * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
  )


def test_stats_by_hand():
  stats = metrics.bleu_stats('the the cat', ['The cat!', 'the cat sat on'])
  # 2 and 4 words are equally close to 3: the shorter counts. 'the' is clipped.
  assert stats.tolist() == [3, 2, 2, 1, 0, 0, 3, 2, 1, 0]


def test_perfect_and_blind():
  refs = [['a red circle on green grass'], ['two dogs in the deep snow']]
  same = metrics.bleu([ref[0].upper() + '.' for ref in refs], refs)
  assert same == dict.fromkeys(same, pytest.approx(100.0))
  other = metrics.bleu(['x', 'y'], refs)
  assert other == dict.fromkeys(other, 0.0)


def test_empty_captions():
  refs = [['a cat'], ['a dog sits on the mat', 'a dog']]
  assert metrics.bleu(['', ''], refs)['bleu1'] == 0.0
  stats = metrics.corpus_bleu_stats(['', ''], refs).sum(0)
  assert metrics.bleu_from_stats(stats)['bleu1'] == 0.0
  assert metrics.bleu(['', 'a dog sits on the mat'], refs)['bleu4'] > 0


@settings(deadline=None)
@given(texts.CORPORA)
def test_equal_to_sacrebleu(corpus):
  captions, references = corpus
  expected = _sacrebleu(captions, references)
  scores = metrics.bleu(captions, references)
  np.testing.assert_allclose(list(scores.values()), expected, atol=1e-9)
  stats = metrics.corpus_bleu_stats(captions, references).sum(0)
  again = metrics.bleu_from_stats(stats)
  np.testing.assert_allclose(list(again.values()), expected, atol=1e-9)


def test_stats_keep_the_axes_in_front():
  stats = np.stack(
    [
      metrics.bleu_stats('a cat on a mat', ['a cat on a mat']),
      metrics.bleu_stats('a cat on a mat', ['a dog on a mat']),
    ]
  )
  scores = metrics.bleu_from_stats(stats[None])
  assert scores['bleu4'].shape == (1, 2)
  assert scores['bleu1'].tolist() == [[pytest.approx(100), pytest.approx(80)]]
  np.testing.assert_array_equal(metrics.bleu4(stats[None]), scores['bleu4'])


def test_refuses_other_statistics():
  with pytest.raises(ValueError, match='bleu_stats'):
    metrics.bleu_from_stats(np.zeros(9))
