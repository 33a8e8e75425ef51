"""Best codecs within bytes, and figures of tasks, from made records."""

import numpy as np
import pytest

from collab_jax import evaluation, plots
from collab_jax.evaluation.report import budgets
from tests.evaluation import synthetic

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
        row = codec, name, sent, size, len(kinds), i, n, answer
        records.append(synthetic.answered(*row, kind=kind))
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


def test_table_of_what_is_kept(records):
  rows = evaluation.summarize(records, resamples=50)
  head, line = evaluation.kept_table({'a': rows}, 8, 0.9).split('\n')
  assert '90% from' in head
  name, asked, *_, features, picture = line.split()
  assert (name, asked) == ('a', '240')
  by_name = {row['name']: row for row in rows}
  shares = [
    100 * by_name[name]['exact'] / by_name['identity']['exact']
    for name in ('blind(mean)', 'kmeans(k=8,init=++)')
  ]
  assert f' {shares[0]:.0f}% ' in line
  assert f' {shares[1]:.0f}% [' in line
  assert ' k = 8 ' in line.partition(']')[2]
  assert (features, picture) == ('B', 'none')  # 90 B, and no picture.
  assert evaluation.kept_table({'a': rows}, 3, 0.99).endswith('none')
  seen = [r for r in rows if r['name'] != 'identity']
  assert len(evaluation.kept_table({'a': seen}).split('\n')) == 1


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
  cheapest = evaluation.cheapest_with(groups['count'], 0.95)['features']
  assert cheapest['name'] == 'identity'  # Which is no codec of the figure.
  assert {text.get_text() for text in right.texts} == {
    'count: 95% by none',
    'colour: 95% at 90 B',
  }
  alone = plots.tasks({'colour': groups['colour']}, beside=['count'])
  colours = {
    text.get_color() for text in alone.axes[0].texts if '%' in text.get_text()
  }
  assert colours == {left.texts[1].get_color()} != {left.texts[0].get_color()}
  share = f'{100 * row["exact"] / full["exact"]:.0f}%'
  assert share in {text.get_text() for text in left.texts}
  panels = plots.task_rates(groups).axes
  assert [axes.get_title(loc='left') for axes in panels] == [
    'count: 95% by none',
    'colour: 95% at 90 B (merge)',
  ]
  for draw in (plots.tasks, plots.task_rates):
    with pytest.raises(ValueError, match='nothing to draw'):
      draw({})


def _labels_are_inside(figure):
  """Whether no text and no line leaves a figure that is drawn."""
  figure.draw_without_rendering()
  width, height = figure.bbox.width, figure.bbox.height
  shown = list(figure.texts)
  for axes in figure.axes:
    shown += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
    for axis in (axes.xaxis, axes.yaxis):
      low, high = axis.get_view_interval()  # Ticks outside are not drawn.
      ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
      shown += [tick.label1 for tick in ticks]
    shown += [line for line in axes.lines if not line.get_clip_on()]
  for artist in shown:
    box = artist.get_window_extent()
    if not box.width or not artist.get_visible():
      continue
    assert box.x0 >= -1, artist
    assert box.y0 >= -1, artist
    assert box.x1 <= width + 1, artist
    assert box.y1 <= height + 1, artist
  return True


def _changed(rows, scores, **fields):
  """Returns rows with other scores by the name of the codec."""
  changed = []
  for row in rows:
    score = scores.get(row['name'], row['exact'])
    ends = {f'exact{end}': score for end in ('', '_low', '_high')}
    kept = {
      f'exact_kept{end}': score / scores.get('identity', 0.5)
      if scores.get('identity', 0.5)
      else None
      for end in ('', '_low', '_high')
    }
    changed.append({**row, **ends, **kept, **fields})
  return changed


@pytest.mark.parametrize(
  'scores',
  [
    dict.fromkeys([*CODECS, 'blind(mean)'], 0.0),  # Nothing is right.
    dict.fromkeys([*CODECS, 'blind(mean)'], 0.5),  # All are at the floor.
    {'identity': 0.1, 'kmeans(k=8,init=++)': 0.9, 'jpeg(quality=20)': 0.8},
    {'identity': 0.9, 'merge(k=2)': 0.89},
  ],
)
def test_figures_of_any_scores_stay_inside(records, scores):
  rows = _changed(evaluation.summarize(records, resamples=5), scores)
  for count in (1, 5, 6):
    groups = {f'task {n}': rows for n in range(count)}
    for draw in (plots.tasks, plots.task_rates):
      assert _labels_are_inside(draw(groups))


@pytest.mark.parametrize('names', [['kmeans(k=8,init=++)'], ['merge(k=2)'], []])
def test_figures_of_one_codec_or_none(records, names):
  shown = ('identity', 'blind(mean)', *names)
  few = [record for record in records if record['name'] in shown]
  groups = {'count': evaluation.summarize(few, resamples=5)}
  for draw in (plots.tasks, plots.task_rates):
    assert _labels_are_inside(draw(groups))


def test_control_is_of_the_same_bytes(records):
  rows = evaluation.summarize(records, resamples=20)
  lines = evaluation.control_within(
    records, rows, (20, 50, 100, 10_000), resamples=20
  )
  # Below 95 bytes there is no picture.
  assert [line['budget'] for line in lines] == [100, 10_000]
  line = lines[0]
  assert line['control'] == 'jpeg(quality=20)'
  wrong = evaluation.of_wrong(records, 'jpeg(quality=20)', 'exact')
  scored = {r['name']: r for r in evaluation.summarize(wrong, resamples=5)}
  assert (
    line['questions'] == scored['identity']['questions'] < line['of'] == 240
  )
  assert line['score'] == scored[line['codec']]['exact']
  assert line['full'] == scored['identity']['exact']
  assert line['low'] <= line['score'] <= line['high']
  table = evaluation.control_table({'a': lines}, {'a': rows})
  assert f'{line["questions"]} of 240' in table
  right = [
    {**r, 'scores': {'exact': 1.0}} if r['name'] == line['control'] else r
    for r in records
  ]
  (none, _) = evaluation.control_within(right, rows, (100, 9999), resamples=5)
  assert none['questions'] == 0
  assert 'codec' not in none
  assert '0 of 240' in evaluation.control_table({'a': [none]}, {'a': rows})


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


def test_runs_of_other_questions_are_not_compared(records):
  fewer = evaluation.of_kinds(records, 'count')
  fewer = [{**r, 'question': f'{r["question"]}/b'} for r in fewer]
  with pytest.raises(ValueError, match='got other questions about the pictur'):
    evaluation.compare({'a': records, 'b': fewer}, resamples=20)
