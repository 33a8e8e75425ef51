"""Tables, curves and figures of any metric."""

import dataclasses
import re
from typing import ClassVar

import numpy as np
import pytest

from collab_jax import evaluation, metrics, plots
from collab_jax.evaluation.report import columns, rate
from tests.evaluation import synthetic

MISSES = 'tests.misses:Misses'
METRICS = ('rouge_l', MISSES, 'bleu4')


@pytest.fixture(scope='module')
def records():
  return synthetic.make(pictures=synthetic.PICTURES)


@pytest.fixture(scope='module')
def rows(records):
  return evaluation.summarize(records, metrics=METRICS, resamples=50)


def test_rows_hold_the_metrics_that_were_asked_for(records, rows):
  assert {'cider', 'bleu1'}.isdisjoint(rows[0])
  assert [*rows[0]['metrics']] == [*METRICS]
  assert rows[0]['metrics'][MISSES]['unit'] == 'words'
  row = next(r for r in rows if r['name'] == 'kmeans(k=4,init=++)')
  group = [r for r in records if r['name'] == row['name']]
  texts = [r['caption'] for r in group], [r['references'] for r in group]
  for name in ('rouge_l', MISSES):
    assert row[name] == pytest.approx(metrics.make(name).score(*texts))
    assert row[f'{name}_low'] < row[name] < row[f'{name}_high']
  assert row['kept'] == row['rouge_l_kept']
  assert row[f'{MISSES}_kept'] is None
  default = evaluation.summarize(group, resamples=50)[0]
  for end in ('', '_low', '_high'):
    assert default[f'bleu4{end}'] == row[f'bleu4{end}']


def test_an_interval_is_the_bootstrap_of_the_captions(records, rows):
  """Every draw is scored anew, and gives what the sums give."""
  row = next(
    r for r in rows if r['name'] == 'jpeg(quality=50,size=64,strip=False)'
  )
  group = [r for r in records if r['name'] == row['name']]
  for metric in metrics.make_all(METRICS).values():
    rng = np.random.default_rng(0)
    scores = []
    for drawn in rng.integers(0, len(group), (50, len(group))):
      sample = [group[i] for i in drawn]
      texts = [r['caption'] for r in sample], [r['references'] for r in sample]
      scores.append(metric.score(*texts))
    low, high = metrics.interval(np.array(scores), 0.95)
    name = metrics.name(metric)
    assert row[f'{name}_low'] == pytest.approx(low)
    assert row[f'{name}_high'] == pytest.approx(high)


@pytest.mark.parametrize('y', [None, *METRICS, metrics.Bleu4()])
def test_every_table_is_of_any_metric(records, rows, y):
  column = columns.column(rows, y)
  label = column.label
  deltas = evaluation.bd_rates(records, y=column.name, resamples=20)
  ahead = evaluation.paired_differences(
    records, rows, y=column.name, resamples=20
  )
  texts = [
    evaluation.table(rows, y),
    evaluation.pivot(rows, y),
    evaluation.scores(rows, y),
    evaluation.rate_table(rows, y=y),
    evaluation.selector_table(rows, ahead, y),
    *evaluation.rate_findings(rows, deltas, (0.5,), y),
  ]
  texts += [] if column.sign < 0 else evaluation.findings(rows, y=y)
  shown = '\n'.join(texts)
  assert shown.count(label) >= 6
  assert not re.search(rf'of the full (?!{label})', shown)
  assert ('the paper: about 80%' in shown) == (column.name == 'bleu4')
  assert {delta['metric'] for delta in deltas} == {column.name}
  points = evaluation.operating_points(rows, (0.5,), y)
  assert ('of ' + label in ''.join(points)) == (column.sign > 0)


def test_less_is_better(records, rows):
  column = columns.column(rows, MISSES)
  features, _ = rate.split(rows)
  front = rate.front(features, MISSES)
  assert [row[MISSES] for row in front] == sorted(
    (row[MISSES] for row in front), reverse=True
  )
  curve = evaluation.curves(rows)['k-means++']
  assert [row['sent'] for row in curve] == [1, 2, 4, 8]
  level = curve[2][MISSES]
  ratio = evaluation.crossing(curve, level, y=MISSES)
  assert ratio == pytest.approx(curve[2]['ratio'])
  assert evaluation.crossing(curve, -1, y=MISSES) is None
  best = min(features, key=lambda row: row[MISSES])
  assert rate.cheapest(features, best[MISSES], MISSES) is best
  assert [*evaluation.ranked(rows, MISSES)][-1].endswith('rest zeroed')
  assert (
    evaluation.ranked(rows, MISSES).keys() == evaluation.ranked(rows).keys()
  )
  # The same front, turned around, has the same delta rate.
  deltas = evaluation.bd_rates(records, y=MISSES, resamples=20)
  known = [delta for delta in deltas if delta['bd_rate'] is not None]
  assert known
  for delta in known:
    assert delta['scores'][0] < delta['scores'][1]
  assert "% of all vectors' misses" not in evaluation.selector_table(
    rows, evaluation.paired_differences(records, rows, y=MISSES), MISSES
  )
  assert column.title == 'misses, words'


@pytest.mark.parametrize('y', [*METRICS])
def test_every_figure_is_of_any_metric(records, rows, y):
  column = columns.column(rows, y)
  for figure in (
    plots.tradeoff(rows, y=y),
    plots.tradeoff(records, y=y),
    plots.rate(rows, y),
    plots.tuned({'one': rows}, y),
  ):
    assert figure.axes[0].get_ylabel() == column.title
  lines = plots.tradeoff(rows, y=y, x='bytes').axes[0].lines
  curve = evaluation.curves(rows)['k-means++']
  drawn = next(line for line in lines if line.get_label() == 'k-means++')
  np.testing.assert_allclose(
    drawn.get_xydata(), [(row['bytes'], column.shown(row)) for row in curve]
  )
  low, high = plots.tradeoff(rows, y=y).axes[0].get_ylim()
  assert low <= min(column.shown(row, '_low') for row in rows)
  assert high >= max(column.shown(row, '_high') for row in rows)
  assert column.label in plots.selectors(rows, y).texts[0].get_text()
  texts = [t.get_text() for t in plots.fields({'x': rows[0]}, y).axes[0].texts]
  assert any(f'{column.label} {column.text(rows[0])}' in t for t in texts)


@dataclasses.dataclass(frozen=True)
class Hits(metrics.MeanMetric):
  """Counts words that the first reference has, too."""

  label: ClassVar[str] = 'hits'

  def scores(self, answers, references, corpus=None):
    pairs = zip(answers, references, strict=True)
    return np.array([len({*a.split()} & {*r[0].split()}) for a, r in pairs])


def test_findings_of_another_metric_without_pictures():
  rows = evaluation.summarize(
    synthetic.make(seeds=(0,)), metrics=[Hits()], resamples=5
  )
  (finding,) = evaluation.rate_findings(rows, [], (0.5,))
  assert finding.startswith('For 50% of the hits of all vectors')
  assert 'none of the image codecs tried reaches it' in finding


def test_a_metric_that_rows_do_not_have(rows):
  said = "y: got 'cider', expected one of bleu4"
  for make in (evaluation.table, plots.rate, plots.selectors, plots.tradeoff):
    with pytest.raises(ValueError, match=said):
      make(rows, y='cider')
  with pytest.raises(ValueError, match='in the metrics of summarize'):
    evaluation.table(rows, y='some.module:Metric')


def test_rows_of_older_versions_have_the_metrics_of_their_time(rows):
  new = ('metrics', *(n for n in rows[0] if '_kept' in n))
  old = [{n: v for n, v in r.items() if n not in new} for r in rows]
  assert [*columns.columns(old)] == ['bleu4', 'rouge_l']
  assert evaluation.pivot(old).count('BLEU-4') == 2
  assert columns.column(old).kept({'kept': 0.5}) == 0.5


def test_nothing_is_imported_for_rows_out_of_a_file(records, rows):
  named = [
    {**row, 'metrics': {'evil:Metric': row['metrics'][MISSES]}} for row in rows
  ]
  for row in named:
    row |= {
      f'evil:Metric{e}': row[f'{MISSES}{e}'] for e in ('', '_low', '_high')
    }
  assert 'misses' in evaluation.table(named)
  with pytest.raises(ValueError, match="without ':', in data"):
    evaluation.paired_differences(records, named)
