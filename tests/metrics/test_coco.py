"""Equality with pycocoevalcap, from its record and where it is installed."""

import json
import pathlib

from hypothesis import given, settings
import numpy as np
import pytest

from collab_jax import metrics
from collab_jax.metrics.tokenize import tokenize
from tests.metrics import texts

_GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'coco_metrics.json'


@pytest.fixture(scope='module')
def golden():
  return json.loads(_GOLDEN.read_text())


def test_tokens_are_those_of_the_original(golden):
  assert [tokenize(c) for c in golden['captions']] == golden[
    'tokenized_captions'
  ]
  assert [[tokenize(t) for t in refs] for refs in golden['references']] == (
    golden['tokenized_references']
  )


def test_recorded_bleu(golden):
  scores = metrics.bleu(golden['captions'], golden['references'])
  np.testing.assert_allclose(list(scores.values()), golden['bleu'], atol=1e-7)


def test_recorded_cider(golden):
  scores = metrics.cider_scores(golden['captions'], golden['references'])
  np.testing.assert_allclose(scores, golden['cider_scores'], atol=1e-9)
  mean = metrics.cider(golden['captions'], golden['references'])
  assert mean == pytest.approx(golden['cider'], abs=1e-9)


def test_recorded_rouge(golden):
  scores = metrics.rouge_l_scores(golden['captions'], golden['references'])
  np.testing.assert_allclose(scores, golden['rouge_l_scores'], atol=1e-9)
  mean = metrics.rouge_l(golden['captions'], golden['references'])
  assert mean == pytest.approx(golden['rouge_l'], abs=1e-9)


def test_installed_pycocoevalcap():
  pytest.importorskip('pycocoevalcap', reason='needs the extra `coco`')
  from pycocoevalcap.bleu import bleu
  from pycocoevalcap.cider import cider
  from pycocoevalcap.rouge import rouge

  @settings(deadline=None, max_examples=200)
  @given(texts.CORPORA)
  def check(corpus):
    captions, references = corpus
    refs = dict(enumerate(references))
    hyps = {i: [caption] for i, caption in enumerate(captions)}
    _, ciders = cider.Cider().compute_score(refs, hyps)
    ours = metrics.cider_scores(captions, references)
    np.testing.assert_allclose(ours, ciders, atol=1e-9)
    _, rouges = rouge.Rouge().compute_score(refs, hyps)
    ours = metrics.rouge_l_scores(captions, references)
    np.testing.assert_allclose(ours, rouges, atol=1e-9)
    theirs, _ = bleu.Bleu(4).compute_score(refs, hyps, verbose=0)
    scores = metrics.bleu(captions, references).values()
    for score, other in zip(scores, theirs, strict=True):
      if score:  # They give a small number where nothing matches.
        assert score == pytest.approx(100 * other, abs=1e-5)

  check()
