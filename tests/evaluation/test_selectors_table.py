"""Selectors side by side, on plausible records."""

import matplotlib as mpl
import numpy as np
import pytest

from collab_jax import codecs, evaluation, metrics, plots
from collab_jax.evaluation.report import (
  grids as grids_lib,
)
from collab_jax.evaluation.report import (
  selectors,
  summary,
)
from tests.evaluation import synthetic


@pytest.fixture(scope='module')
def records():
  return synthetic.make()


@pytest.fixture(scope='module')
def rows(records):
  return evaluation.summarize(records, resamples=50)


@pytest.fixture(scope='module')
def ahead(records, rows):
  return evaluation.paired_differences(records, rows, resamples=50)


def test_leads_are_paired_differences(records, rows, ahead):
  curves = evaluation.curves(rows)
  assert len(ahead) == sum(map(len, curves.values()))
  at = {(line['label'], line['k']): line for line in ahead}
  for k in (1, 8):
    column = {
      n: next(r for r in c if r['sent'] == k) for n, c in curves.items()
    }
    best = max(column, key=lambda n: column[n]['bleu4'])
    assert at[best, k]['best'] is None
    for label, row in column.items():
      line = at[label, k]
      if label != best:
        gap = row['bleu4'] - column[best]['bleu4']
        assert line['best']['value'] == pytest.approx(gap)
      gap = row['bleu4'] - column['k-means++']['bleu4']
      if label == 'k-means++':
        assert line['baseline'] is None
      else:
        assert line['baseline']['value'] == pytest.approx(gap)
  # One of them again, from its parts.
  line = at['random subset, rest zeroed', 8]
  grids = [
    grids_lib.grids_of(records)[name]
    for name in (line['name'], line['baseline']['name'])
  ]
  bleu4 = metrics.make('bleu4')
  scores = summary.Scores(records, [bleu4])
  first, second = (
    metrics.drawn_scores(
      scores.of(g, bleu4),
      bleu4.combine,
      50,
    )
    for g in grids
  )
  # As wide as its deviations, by one factor for all of the column.
  width = line['baseline']['high'] - line['baseline']['low']
  assert 2 * 1.96 < width / np.std(first - second) < 2 * 4
  assert selectors.mark(line) == '- '


def test_of_many_equal_systems_few_look_different():
  draws = np.random.default_rng(0).normal(size=(2000, 20))
  # The measurement is one more draw; of twenty alone, one would look different.
  intervals = metrics.simultaneous(draws[0], draws[1:] + draws[0])
  assert not [d for d in intervals if d.low > 0 or d.high < 0]
  values = np.append(draws[0], 9.0)
  more = np.column_stack([draws[1:] + draws[0], 9 + draws[1:, 0]])
  assert metrics.simultaneous(values, more)[-1].low > 0
  single = metrics.simultaneous(draws[0, :1], draws[1:, :1] + draws[0, 0])[0]
  assert single.high - single.low == pytest.approx(2 * 1.96, rel=0.05)
  same = metrics.simultaneous(np.zeros(2), np.zeros((5, 2)))
  assert same == [(0, 0, 0)] * 2


def test_marks_say_nothing_where_nothing_is_compared():
  assert selectors.mark(None) == '  '
  assert selectors.mark({'best': None, 'baseline': None}) == ' *'
  better = {'low': 1.0, 'high': 2.0}
  assert selectors.mark({'best': None, 'baseline': better}) == '+*'
  worse = {'low': -2.0, 'high': -1.0}
  assert selectors.mark({'best': worse, 'baseline': None}) == '  '


def test_the_table_has_every_selector_and_k(rows, ahead):
  text = evaluation.selector_table(rows, ahead)
  blocks = text.split('\n\n')
  names = [*evaluation.ranked(rows)]
  assert names[0] == 'k-means++'
  assert names[-1] == 'random subset, rest zeroed'
  for block in (blocks[0], *blocks[2:]):
    lines = block.split('\n')[1:]
    assert [any(n in line for n in names) for line in lines] == [True] * 6
  assert blocks[0].split('\n')[1].count('*') >= 1
  selectors_only = [r for r in rows if r['name'] != 'identity']
  with pytest.raises(ValueError, match='no row of all vectors'):
    evaluation.selector_table(selectors_only, ahead)


def test_pictures_of_another_run_are_not_compared(records, rows):
  fewer = [
    r for r in records if r['image_id'] or 'rebuild=zero' not in r['name']
  ]
  with pytest.raises(ValueError, match='finish the evaluation'):
    evaluation.paired_differences(fewer, rows, resamples=5)


def test_the_figure_has_a_panel_for_every_k(rows):
  with mpl.rc_context({'backend': 'agg'}):
    figure = plots.selectors(rows)
  panels = figure.axes
  assert [axes.get_title() for axes in panels] == [
    *('k = 1', 'k = 2', 'k = 4', 'k = 8')
  ]
  labels = [text.get_text() for text in panels[0].get_yticklabels()]
  assert labels == [*evaluation.ranked(rows)]
  points = [
    line.get_xdata()[0]
    for line in panels[-1].lines
    if len(line.get_xdata()) == 1
  ]
  kept = [
    100 * next(r['kept'] for r in curve if r['sent'] == 8)
    for curve in evaluation.ranked(rows).values()
  ]
  assert points == pytest.approx(kept)
  with pytest.raises(ValueError, match='no curves'):
    plots.selectors([])


def test_k_goes_into_what_is_within():
  quantizer = codecs.make_method('centred(vectors=merge(k={k}))', 5)
  assert quantizer.vectors.k == 5
