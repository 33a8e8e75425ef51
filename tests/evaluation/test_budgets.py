"""Best codecs within bytes, and figures of tasks, from made records."""

import numpy as np
import pytest

from collab_jax import evaluation, plots
from collab_jax.evaluation.report import budgets

# Codec -> bytes and share of right answers.
CODECS = {
  'identity': (8000, 0.98),
  'kmeans(k=8,init=++)': (100, 0.9),
  'kmeans(k=2,init=++)': (40, 0.4),
  'merge(k=8)': (90, 0.88),
  'merge(k=2)': (30, 0.3),
  'jpeg(quality=20)': (95, 0.5),
}


def make(kinds=('count', 'colour'), pictures=120, seed=0):
  """Makes records of two questions a picture, right as often as said."""
  rng = np.random.default_rng(seed)
  records = []
  names = [*CODECS, 'blind(mean)']
  for name in names:
    size, right = CODECS.get(name, (0, 0.2))
    title, _, rest = name.partition('(')
    codec = {'codec': 'feature', 'split': 'encoder', 'quantizer': title}
    sent = 64
    if title == 'jpeg':
      codec = {'codec': 'image', 'kind': 'jpeg', 'quality': 20, 'size': 64}
      codec['strip'] = False
    elif title == 'blind':
      codec, sent = {'codec': 'blind', 'kind': 'mean'}, 0
    elif 'k=' in rest:
      sent = int(rest.partition('k=')[2].strip(')').partition(',')[0])
      codec |= {'k': sent}
      if title == 'kmeans':
        codec['init'] = '++'
    for i in range(pictures):
      for n, kind in enumerate(kinds):
        answer = 'yes' if rng.random() < right else 'no'
        records.append(
          {
            'image_id': i,
            'codec': codec,
            'name': name,
            'seed': 0,
            'caption': answer,
            'answer': answer,
            'references': ['yes'],
            'sent': sent,
            'vectors': 64,
            'ratio': sent / 64,
            'bytes': {'x': size},
            'total_bytes': size,
            'distortion': None,
            'seconds': {},
            'model': 'm',
            'data': 'd/test',
            'task': 'scenes',
            'question': f'{i}/{n}',
            'kind': kind,
            'prompt': 'p',
            'questions': len(kinds),
            'question_bytes': size / len(kinds),
            'scores': {'exact': float(answer == 'yes')},
          }
        )
  return records


@pytest.fixture(scope='module')
def records():
  return make()


def test_the_best_within_bytes(records):
  rows = evaluation.summarize(records, resamples=200)
  lines = evaluation.best_within(
    records, rows, (20, 50, 100, 10_000), resamples=200
  )
  assert [line['codec'] for line in lines[:2]] == [None, 'kmeans(k=2,init=++)']
  best = lines[2]
  by_name = {row['name']: row for row in rows}
  score = max(row['exact'] for row in rows if 0 < row['bytes'] <= 100)
  assert best['score'] == score == by_name[best['codec']]['exact']
  assert best['others'] == 4
  # The two that are right nearly as often are no better than each other.
  good = {'kmeans(k=8,init=++)', 'merge(k=8)'}
  assert {best['codec'], *best['tied']} == good
  assert best['rival']['name'] == 'jpeg(quality=20)'
  assert 0 < best['rival']['low'] < best['rival']['value']
  assert lines[3] == {**best, 'budget': 10_000}  # All vectors are no codec.
  table = evaluation.budget_table({'a': lines}, {'a': rows})
  assert '1 of 4' in table
  assert 'none' in table


def test_bytes_that_keep_a_share(records):
  rows = evaluation.summarize(records, resamples=50)
  cheapest = evaluation.cheapest_with(rows, 0.8)
  assert cheapest['features']['name'] == 'merge(k=8)'
  assert cheapest['image codec'] is None
  assert 0 < evaluation.blind_share(rows) < 0.4


def test_table_of_kinds(records):
  rows = evaluation.summarize(records, resamples=50)
  table = evaluation.kinds_table(rows)
  head, counts, *lines = table.split('\n')
  assert head.split()[-2:] == ['colour', 'count']
  assert counts.split() == ['questions', '240', '120', '120']
  assert len(lines) == len(rows)
  assert lines[-1].startswith('blind(mean)')
  assert evaluation.kinds_table(evaluation.summarize(make(('count',), 5))) == ''


def test_tables_and_curves_take_the_score_of_the_task(records):
  rows = evaluation.summarize(records, resamples=50)
  assert set(rows[0]['metrics']) == {'exact'}
  assert 'exact match' in evaluation.table(rows).split('\n')[0]
  assert 'exact match' in evaluation.pivot(rows)
  deltas = evaluation.bd_rates(records, resamples=20)
  assert {delta['metric'] for delta in deltas} == {'exact'}
  lines = evaluation.paired_differences(records, rows, resamples=50)
  assert {line['k'] for line in lines} == {2, 8}
  compared = evaluation.compare({'a': records, 'b': make(seed=1)}, resamples=20)
  assert {*compared.rows['a'][0]['metrics']} == {'exact'}


def test_figures(records):
  groups = {
    kind: evaluation.summarize(evaluation.of_kinds(records, kind), resamples=50)
    for kind in ('count', 'colour')
  }
  figure = plots.tasks(groups)
  left, right = figure.axes
  drawn = [line for line in left.lines if len(line.get_xdata()) == 2]
  curve = next(line for line in drawn if list(line.get_xdata()) == [2, 8])
  full, row = (
    next(r for r in groups['count'] if r['name'] == name)
    for name in ('identity', 'kmeans(k=8,init=++)')
  )
  assert curve.get_ydata()[1] == pytest.approx(
    100 * row['exact'] / full['exact']
  )
  assert {text.get_text() for text in right.texts} >= {'count', 'colour'}
  panels = plots.task_rates(groups).axes
  assert [axes.get_title(loc='left') for axes in panels] == ['count', 'colour']
  for draw in (plots.tasks, plots.task_rates):
    with pytest.raises(ValueError, match='nothing to draw'):
      draw({})


def test_line_of_kinds(records):
  assert len(budgets.line_of(records, ())) == len(records)
  assert len(budgets.line_of(records, ('count',))) == len(records) // 2


def test_questions_that_a_codec_gets_wrong(records):
  name = 'jpeg(quality=20)'
  hard = evaluation.of_wrong(records, name, 'exact')
  rows = {r['name']: r for r in evaluation.summarize(hard, resamples=5)}
  whole = {r['name']: r for r in evaluation.summarize(records, resamples=5)}
  wrong = whole[name]['questions'] * (1 - whole[name]['exact'])
  assert rows[name]['exact'] == 0
  assert rows[name]['questions'] == pytest.approx(wrong)
  assert {row['questions'] for row in rows.values()} == {
    rows[name]['questions']
  }
  assert (
    rows[name]['bytes'] == 95
  )  # A message counts once, however few are left.
