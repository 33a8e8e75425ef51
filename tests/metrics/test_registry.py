"""Metrics by name, and the contract that all of them keep."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from collab_jax import config, metrics, testing
from configs import tradeoff

CAPTIONS = ['a red ring', 'a dog', 'a ring']
REFERENCES = [['one red ring'], ['a dog barks', 'the dog'], ['a blue ring']]


@pytest.mark.parametrize(
  'name', [*metrics.NAMES, 'tests.misses:Misses(most=3)']
)
def test_every_metric_keeps_the_contract(name):
  metric = metrics.make(name)
  assert metrics.name(metric) == name
  testing.check_metric(metric)


def test_scores_are_those_of_the_functions():
  bleu = metrics.bleu(CAPTIONS, REFERENCES)
  for name in ('bleu1', 'bleu2', 'bleu3', 'bleu4'):
    score = metrics.make(name).score(CAPTIONS, REFERENCES)
    assert score == pytest.approx(bleu[name])
  for name, function in (
    ('cider', metrics.cider),
    ('rouge_l', metrics.rouge_l),
  ):
    score = metrics.make(name).score(CAPTIONS, REFERENCES)
    assert score == pytest.approx(function(CAPTIONS, REFERENCES), rel=1e-12)


def test_words_are_weighed_by_the_corpus():
  cider = metrics.Cider()
  alone = cider.score(CAPTIONS[:1], REFERENCES[:1])
  assert alone == 0  # A corpus of one image has no weights.
  among = cider.score(CAPTIONS[:1], REFERENCES[:1], REFERENCES)
  assert among == pytest.approx(metrics.cider_scores(CAPTIONS, REFERENCES)[0])
  strange = cider.scores(['a red ring'], [['a red ring']], REFERENCES)
  assert strange[0] > 0


def test_the_default_is_that_of_configs():
  assert tradeoff.get_config().metrics == metrics.DEFAULT
  assert [*metrics.make_all(metrics.DEFAULT)] == [*metrics.DEFAULT]


class Plain(metrics.Metric):
  label = 'plain'

  def statistics(self, answers, references, corpus=None):
    return np.ones((len(answers), 1))

  def combine(self, sums):
    return sums[..., 0]


@dataclasses.dataclass(frozen=True)
class NoLabel(metrics.MeanMetric):
  def scores(self, answers, references, corpus=None):
    return np.ones(len(answers))


@pytest.mark.parametrize(
  ('name', 'kind', 'said'),
  [
    ('blue4', ValueError, "metric: got 'blue4'; did you mean 'bleu4'?"),
    ('bleu4(n=2)', ValueError, 'field of bleu4'),
    ('x.py', ValueError, "metric: got 'x.py', expected one of anls"),
    ('tests.misses:Mises', ValueError, "did you mean 'Misses'?"),
    (f'{__name__}:Plain', ValueError, 'expected a frozen dataclass'),
    (f'{__name__}:NoLabel', TypeError, 'expected a metric with a label'),
    ('collab_jax.channels:Budget', TypeError, 'inherit collab_jax.metrics'),
    (metrics.Bleu4, TypeError, r'make one, as in Bleu4\(\)'),
    (Plain(), TypeError, 'expected a metric of a frozen dataclass'),
    (4, TypeError, 'metric: got 4, expected a metric'),
  ],
)
def test_what_is_no_metric_is_refused(name, kind, said):
  with pytest.raises(kind, match=said):
    metrics.make(name)


@pytest.mark.parametrize(
  ('names', 'said'),
  [
    ('bleu4', r"got 'bleu4', expected a list of names; write \['bleu4'\]"),
    ((), r'metrics: got \(\), expected one or more names'),
    (('cider', 'bleu4', metrics.Cider()), 'cider is there twice'),
  ],
)
def test_lists_of_metrics_that_are_refused(names, said):
  with pytest.raises(ValueError, match=said):
    metrics.make_all(names)


@dataclasses.dataclass(frozen=True)
class Faulty(metrics.MeanMetric):
  """Breaks one promise."""

  fault: str = ''
  calls: ClassVar[list[int]] = []
  label: ClassVar[str] = 'faulty'
  bounds: ClassVar[tuple[float, float]] = (0, 1)

  @property
  def higher_is_better(self):
    return self.fault != 'direction'

  def scores(self, answers, references, corpus=None):
    exact = [float(a in r) for a, r in zip(answers, references, strict=True)]
    scores = np.array(exact)
    if self.fault == 'random':
      self.calls.append(1)
      return scores * (1 - 0.01 * len(self.calls))
    if self.fault == 'order':
      return scores * np.linspace(0.5, 1, len(scores))
    if self.fault == 'others':
      return scores / (1 + scores.sum())
    if self.fault == 'bounds':
      return 2 * scores
    if self.fault == 'shape':
      return scores[:1]
    return scores / (1 - scores) if self.fault == 'finite' else scores

  def combine(self, sums):
    scores = super().combine(sums)
    if self.fault == 'axes':
      return sums[0] / sums[1]
    return scores * (sums[..., 1] > 2) if self.fault == 'sums' else scores


@pytest.mark.parametrize(
  ('fault', 'kind', 'said'),
  [
    ('random', AssertionError, 'differ for a second call'),
    ('order', AssertionError, 'depend on the order'),
    ('others', AssertionError, 'alone differ from those among others'),
    ('bounds', AssertionError, 'expected a number within the bounds'),
    ('shape', ValueError, 'return a row for each answer'),
    ('finite', ValueError, 'not finite'),
    ('axes', AssertionError, 'use axis -1'),
    ('direction', AssertionError, 'as higher_is_better is False'),
  ],
)
def test_the_contract_finds_faults(fault, kind, said):
  testing.check_metric(Faulty())
  with np.errstate(all='ignore'), pytest.raises(kind, match=said):
    testing.check_metric(Faulty(fault))


@dataclasses.dataclass(frozen=True)
class Count(metrics.MeanMetric):
  """Scores counted things: answers are numbers, not texts."""

  label: ClassVar[str] = 'mean error'
  higher_is_better: ClassVar[bool] = False

  def scores(self, answers, references, corpus=None):
    pairs = zip(answers, references, strict=True)
    return np.array([min(abs(a - r) for r in refs) for a, refs in pairs])


def test_answers_of_another_kind():
  testing.check_metric(Count(), [3, 0, 7], [[3], [1, 2], [4]])
  assert Count().score([3, 0, 7], [[3], [1, 2], [4]]) == pytest.approx(4 / 3)


def test_a_config_names_metrics():
  text = 'tests.misses:Misses(most=2)'
  assert config.call(text, 'metric', 'bleu4')[1] == {'most': 2}
  assert [*metrics.make_all([text, 'bleu4'])] == [text, 'bleu4']
