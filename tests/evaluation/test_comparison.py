"""Runs on the same pictures, their differences and what is refused."""

import json

import numpy as np
import pytest

from collab_jax import evaluation, metrics, plots, studies
from collab_jax.evaluation import comparison as comparison_lib
from collab_jax.evaluation.report import compared
from tests.evaluation import synthetic

KS = (1, 2, 4)
RANDOM = {('kmeans', 'init', 'random'): 0.8}
PLUS = {('kmeans', 'init', '++'): 0.9}


def make(methods=None, images=30, **kw):
  records = synthetic.make(images, KS, methods=methods or RANDOM, **kw)
  return [{**r, 'pixels': f'p{r["image_id"]}'} for r in records]


def worse(records, share):
  """Takes the last words of some captions of kmeans."""
  return [
    {**r, 'caption': ' '.join(r['caption'].split()[:5])}
    if r['image_id'] % 10 < 10 * share and 'kmeans' in r['name']
    else r
    for r in records
  ]


def write(folder, records, settings=None):
  folder.mkdir(parents=True)
  lines = ''.join(json.dumps(record) + '\n' for record in records)
  (folder / 'records.jsonl').write_text(lines)
  if settings is not None:
    text = json.dumps(settings)
    (folder / 'records.settings.json').write_text(text)
  return folder


@pytest.fixture(scope='module')
def records():
  return make()


def test_runs_of_other_tasks_are_refused(records):
  own = [
    {**r, 'task': 'mine:Signs(prompt=a)', 'question': 'q'} for r in records
  ]
  said = r'tasks, captions in a, mine:Signs\(prompt=a\) in b, expected one'
  with pytest.raises(ValueError, match=said):
    evaluation.compare({'a': records, 'b': own})
  with pytest.raises(ValueError, match='got several tasks, mine:Signs'):
    evaluation.compare({'b': own, 'a': records})


def test_what_was_planted_is_found_and_nothing_else(records):
  runs = {'a': records, 'same': records, 'worse': worse(records, 0.5)}
  comparison = evaluation.compare(runs, resamples=300)
  by_run = {run: [] for run in ('same', 'worse')}
  for line in comparison.differences:
    by_run[line['run']].append(line)
  assert [line['codec'] for line in by_run['worse']] == [
    *(f'kmeans(k={k},init=random)' for k in KS),
    'identity',
  ]
  for line in by_run['same']:
    assert line['low'] == line['value'] == line['high'] == 0
  *planted, full = by_run['worse']
  assert full['value'] == full['low'] == full['high'] == 0
  rows = {
    run: {row['name']: row['bleu4'] for row in group}
    for run, group in comparison.rows.items()
  }
  for line in planted:
    gap = rows['worse'][line['other']] - rows['a'][line['codec']]
    assert line['value'] == pytest.approx(gap)
    assert line['low'] < line['value'] < line['high'] < 0
    assert compared.outcome(line) == 'worse'
    assert compared.outcome(line, -1) == 'better'
  table = evaluation.comparison_table(comparison)
  assert 'No setting differs' in table
  assert table.count('worse\n') == len(planted)
  assert comparison.images == 30
  assert comparison.unpaired == {'a': [], 'same': [], 'worse': []}


def test_a_single_difference_is_the_paired_bootstrap():
  """Pictures are drawn for both at once, so that their difficulty cancels."""
  first = [r for r in make() if r['name'] == 'kmeans(k=4,init=random)']
  other = worse(first, 0.2)
  (line,) = evaluation.compare({'a': first, 'b': other}).differences
  stats = [
    np.stack(
      [
        metrics.corpus_bleu_stats(
          [r['caption'] for r in group if r['seed'] == seed],
          [r['references'] for r in group if r['seed'] == seed],
        )
        for seed in range(3)
      ],
      axis=1,
    )
    for group in (other, first)
  ]
  paired = metrics.paired_bootstrap(*stats, metrics.bleu4)
  assert line['value'] == pytest.approx(paired.value)
  widths = (line['high'] - line['low'], paired.high - paired.low)
  assert widths[0] == pytest.approx(widths[1], rel=0.1)
  alone = [metrics.bootstrap(s, metrics.bleu4) for s in stats]
  assert widths[0] < max(high - low for low, high in alone)


def test_runs_may_have_other_seeds(records):
  fewer = [r for r in records if r['seed'] < 2]
  runs = {'a': records, 'b': fewer}
  lines = evaluation.compare(runs, resamples=100).differences
  assert len(lines) == 4
  assert any(line['value'] for line in lines)
  for line in lines:
    assert line['low'] <= line['value'] <= line['high']
    assert not compared.outcome(line)


def test_codecs_are_paired_by_name_then_vectors_then_alone(records):
  other = make(PLUS)
  lines = evaluation.compare(
    {'a': records, 'b': other}, resamples=20
  ).differences
  assert [(line['codec'], line['other']) for line in lines] == [
    *((f'kmeans(k={k},init=random)', f'kmeans(k={k},init=++)') for k in KS),
    ('identity', 'identity'),
  ]
  two = [r for r in make(RANDOM | PLUS) if r['sent'] != 2]
  comparison = evaluation.compare({'a': records, 'b': two}, resamples=20)
  assert [line['other'] for line in comparison.differences] == [
    *(f'kmeans(k={k},init=random)' for k in (1, 4)),
    'identity',
  ]
  assert comparison.unpaired['a'] == ['kmeans(k=2,init=random)']
  assert len(comparison.unpaired['b']) == 2
  table = evaluation.comparison_table(comparison)
  assert 'a: without a partner: kmeans(k=2,init=random)' in table
  single = [
    [r for r in group if r['name'] == f'kmeans(k={k},init={init})']
    for group, k, init in ((records, 2, 'random'), (other, 4, '++'))
  ]
  (line,) = evaluation.compare(
    dict(zip('ab', single, strict=True)), resamples=20
  ).differences
  assert line['other'] == 'kmeans(k=4,init=++)'


def test_settings_that_differ_are_said(records, tmp_path):
  settings = {
    'model': {'name': 'tiny', 'checksum': 'x'},
    'data': 'scenes/test',
    'captioner': {'decoding': 'greedy', 'prompt': 'caption en'},
  }
  beam = {
    **settings,
    'captioner': {'decoding': 'beam2', 'prompt': 'caption en'},
  }
  beams = [{**r, 'decoding': 'beam2'} for r in records]
  folders = [
    write(tmp_path / 'greedy', records, settings),
    write(tmp_path / 'beam', beams, beam),
  ]
  comparison = evaluation.compare(folders, resamples=20)
  assert comparison.settings == {
    'captioner.decoding': {'greedy': 'greedy', 'beam': 'beam2'}
  }
  assert 'beam2' in evaluation.comparison_table(comparison)
  (tmp_path / 'beam' / 'records.settings.json').unlink()
  assert evaluation.compare(folders, resamples=20).settings == (
    comparison.settings
  )
  # Versions that did not write a setting say nothing of it.
  older = {**settings, 'model': {'name': 'tiny', 'checksum': 'x', 'dtype': 'f'}}
  text = json.dumps({**older, 'precision': 'default'})
  (tmp_path / 'greedy' / 'records.settings.json').write_text(text)
  (tmp_path / 'beam' / 'records.settings.json').write_text(json.dumps(beam))
  assert evaluation.compare(folders, resamples=20).settings == (
    comparison.settings
  )
  # Under one name, the folders above tell them apart.
  nested = [write(tmp_path / n / 'run', records, settings) for n in 'ab']
  rows = evaluation.compare(nested, resamples=5).rows
  assert [*rows] == ['a/run', 'b/run']


def test_pictures_that_some_lack_are_left_out(records):
  part = [r for r in records if r['image_id'] >= 5]
  comparison = evaluation.compare({'a': records, 'b': part}, resamples=20)
  assert comparison.images == 25
  assert comparison.left_out == {'a': 5, 'b': 0}
  assert {
    row['images'] for rows in comparison.rows.values() for row in rows
  } == {25}


def test_other_pictures_are_refused(records):
  def change(field, value, **more):
    return [
      {**r, **more, field: value} if r['image_id'] == 3 else {**r, **more}
      for r in records
    ]

  for other, said in (
    (change('references', ['a dog']), 'picture 3 of b: got other captions'),
    (change('pixels', 'q'), 'picture 3 of b: got other pixels than in a'),
    (
      [{**r, 'image_id': r['image_id'] + 100} for r in records],
      'got no picture that all codecs of all runs have',
    ),
    ([], 'got no record with references, expected runs that can be scored'),
    ([{**r, 'references': []} for r in records], 'evaluate pictures that have'),
    (change('model', 'other'), 'got several models, data sets or decodings'),
    ([r for r in records if r['sent'] == 0], 'blind captions only'),
  ):
    with pytest.raises(ValueError, match=said):
      evaluation.compare({'a': records, 'b': other})


def test_pictures_without_captions_are_not_scored(records):
  bare = [{**r, 'references': []} for r in records if r['image_id'] < 3]
  mixed = bare + [r for r in records if r['image_id'] >= 3]
  comparison = evaluation.compare({'a': records, 'b': mixed}, resamples=5)
  assert comparison.images == 27
  assert comparison.left_out == {'a': 3, 'b': 3}
  full = evaluation.summarize(mixed, metrics=['cider'], resamples=5)
  some = evaluation.summarize(
    mixed[len(bare) :], metrics=['cider'], resamples=5
  )
  assert full == some


def test_one_picture_in_two_sizes_is_the_same(records, tmp_path):
  larger = [{**r, 'pixels': f'q{r["image_id"]}', 'model': 'b'} for r in records]
  with pytest.raises(ValueError, match='other pixels'):
    evaluation.compare({'a': records, 'b': larger})
  folders = [
    write(tmp_path / name, group, {'model': {'name': name, 'config': name}})
    for name, group in (('a', records), ('b', larger))
  ]
  assert evaluation.compare(folders, resamples=5).images == 30


@pytest.mark.parametrize(
  ('runs', 'said'),
  [
    (['runs/a'], r"runs: got \['runs/a'\], expected two or more"),
    ([], r'runs: got \[\], expected two or more'),
    ('runs/a', 'write a list of folders'),
    (['runs/a', 'runs/a/records.jsonl'], 'runs/a is there twice'),
  ],
)
def test_what_is_no_list_of_runs(runs, said):
  with pytest.raises(ValueError, match=said):
    evaluation.compare(runs)


def test_any_metric_and_any_direction(records):
  runs = {'a': records, 'b': worse(records, 0.5)}
  name = 'tests.misses:Misses'
  comparison = evaluation.compare(runs, y=name, resamples=50)
  line = comparison.differences[0]
  assert line['low'] > 0
  table = evaluation.comparison_table(comparison)
  assert 'misses in words.' in table
  assert 'worse' in table
  assert 'better' not in table


@pytest.mark.parametrize('x', ['bytes', 'vectors'])
def test_the_figure_holds_the_numbers(x):
  pictures = {('jpeg', 50, 64, False): (900, 0.9)}
  records = make(pictures=pictures)
  runs = {'a': records, 'b': worse(records, 0.5)}
  comparison = evaluation.compare(runs, resamples=20)
  figure = plots.compare(comparison, x)
  scores, differences = figure.axes
  lines = {line.get_label(): line for line in scores.lines}
  assert len(lines) == (6 if x == 'bytes' else 4)
  curve = evaluation.curves(comparison.rows['b'])['k-means, random start']
  field = 'bytes' if x == 'bytes' else 'sent'
  np.testing.assert_allclose(
    lines['b: k-means, random start'].get_xydata(),
    [(row[field], row['bleu4']) for row in curve],
  )
  drawn = [[*line.get_ydata()] for line in differences.lines]
  shown = [
    line
    for line in comparison.differences
    if x == 'bytes' or 'jpeg' not in line['codec']
  ]
  assert len(drawn) == 1 + 2 * len(shown)
  for line in shown:
    assert [line['low'], line['high']] in drawn
    assert [line['value']] in drawn
  assert '30 pictures' in figure.texts[1].get_text()


def test_figures_that_cannot_be_drawn(records):
  runs = {str(n): records for n in range(9)}
  comparison = evaluation.compare(runs, resamples=2)
  with pytest.raises(ValueError, match='got 9 runs, expected at most 8'):
    plots.compare(comparison)
  with pytest.raises(ValueError, match="x: got 'k', expected 'bytes'"):
    plots.compare(comparison, 'k')


def test_runs_without_a_pair_are_drawn_apart(records):
  left = [r for r in records if r['sent'] in (1, 2)]
  right = [r for r in make(PLUS) if r['sent'] in (4, 0)]
  two = right + [
    {**r, 'name': f'{r["name"]} again'} for r in right if r['sent']
  ]
  comparison = evaluation.compare({'a': left, 'b': two}, resamples=5)
  assert comparison.differences == []
  assert len(plots.compare(comparison).axes) == 1
  assert 'without a partner' in evaluation.comparison_table(comparison)


def test_files_of_a_comparison(records, tmp_path):
  folders = [
    write(tmp_path / 'one', records, {'data': 'scenes/test'}),
    write(tmp_path / 'two', worse(records, 0.5), {'data': 'scenes/test'}),
  ]
  out = tmp_path / 'out'
  table = studies.compare_runs(folders, out, x='vectors', resamples=20)
  assert (out / 'table.txt').read_text() == f'{table}\n'
  assert (out / 'compare.svg').stat().st_size > 1000
  summary = json.loads((out / 'summary.json').read_text())
  assert [line['run'] for line in summary['differences']] == ['two'] * 4
  assert [*summary['rows']] == ['one', 'two']


def test_names_are_as_short_as_they_may_be():
  names = comparison_lib._names(['x/a/records.jsonl', 'x/b', 'y/c/units'])
  assert names == ['a', 'b', 'units']
