"""Study of tasks from its config to files, and tasks in units of a sweep."""

import json
import shutil

import numpy as np
import pytest

from collab_jax import data, evaluation, studies
from collab_jax.evaluation import batches, message_cache, record_store
from collab_jax.evaluation.report import budgets
from collab_jax.serving.client import rate_control
from collab_jax.studies import headline, sweep, unit_files, units
from collab_jax.studies import tasks as tasks_study
from configs import tasks as tasks_config
from configs import tradeoff
from tests import standin
from tests.studies import parsed
from tools import rate_curve


@pytest.fixture(scope='module')
def config():
  config = tasks_config.get_config('mode=smoke')
  config.model = str(standin.folder())
  config.limit, config.ks, config.codecs = 2, (8,), ('webp(quality=20)',)
  config.blind, config.control = ('mean',), 'webp(quality=20)'
  config.lines = (
    ('captions', 'captions(data=scenes)', ()),
    ('counts', 'scenes', ('count',)),
    ('attributes', 'scenes', ('colour', 'shape')),
  )
  return config


@pytest.fixture(scope='module')
def run(config, tmp_path_factory):
  """A run of the study: its records by task, its text and its folder."""
  folder = tmp_path_factory.mktemp('tasks')
  study = studies.TaskStudy(config)
  study.validate()
  assert 'questions about 2 pictures' in study.describe()
  records = study.run(folder, progress=False)
  return records, study.report(records, folder), folder


def test_records_of_a_task_are_a_folder(run):
  records, _, folder = run
  assert [*records] == ['captions(data=scenes)', 'scenes']
  for name, stem, recorded in (
    ('captions(data=scenes)', 'captions_data_scenes', 'captions'),
    ('scenes', 'scenes', 'scenes'),
  ):
    read = evaluation.read_records(folder / stem)
    assert len(read) == len(records[name])
    assert {r['task'] for r in read} == {recorded}
  captions = records['captions(data=scenes)']
  assert {r['prompt'] for r in captions} == {'caption en'}
  assert [*captions[0]['scores']] == ['rouge_l']  # BLEU is of the whole set.


def test_lines_are_read_from_a_folder(config, run):
  records, _, folder = run
  lines = studies.read_task_lines(folder, config.lines)
  assert [*lines] == ['captions', 'counts', 'attributes']
  assert {r['kind'] for r in lines['counts']} == {'count'}
  of_captions = lines['captions']
  assert len(of_captions) == len(records['captions(data=scenes)'])
  with pytest.raises(ValueError, match=r'a folder with scenes/records\.jsonl'):
    studies.read_task_lines(folder / 'scenes', config.lines[1:])


def test_rate_curves_of_a_run(run):
  _, _, folder = run
  curves = rate_curve.of_tasks(folder)
  assert [curve.task for curve in curves] == [
    'captions',
    'counts',
    'attributes',
  ]
  assert [c.metric for c in curves] == ['bleu4', 'exact', 'exact']
  assert {curve.data for curve in curves} == {'scenes/test'}
  rows = json.loads((folder / 'summary.json').read_text())['rows']['counts']
  scores = {row['name']: 100 * row['exact'] for row in rows}
  counts = curves[1]
  assert counts.full == pytest.approx(scores['identity/best'], abs=0.01)
  for point in counts.points:
    name = point.codec
    name = name if name in scores else f'{name}/best'
    assert point.score == pytest.approx(scores[name], abs=0.01)
  path = folder / 'curves.json'
  path.write_text(rate_control.to_json(curves))
  assert [*rate_control.read_curves(path).values()] == curves
  chosen = rate_curve.choices(curves, (10**6,))
  assert counts.keeping()[0].codec in chosen
  assert len(rate_curve.table(curves).split('\n')) > len(curves)


def _plain(records):
  """Returns records without the seconds, which differ between runs."""
  return [{**record, 'seconds': 0} for record in records]


def test_tasks_share_the_messages_of_a_picture(config, run):
  study = studies.TaskStudy(config)
  each = study.studies['scenes']
  codec = next(c for c in each.bound_codecs if c.name.startswith('kmeans'))
  how = {
    **{'data': each.data, 'task': 'scenes', 'progress': False},
    **{'captioner': each.captioner, 'batch_size': 4},
  }
  kept = evaluation.MessageCache()
  once = evaluation.evaluate([codec], kept=kept, **how)
  calls = []
  codec.dispatch_encode = lambda *arguments: calls.append(arguments)
  again = evaluation.evaluate([codec], kept=kept, **how)
  assert not calls
  assert _plain(again) == _plain(once)
  edge = [
    {n: r['seconds'][n] for n in ('encode', 'quantize')}
    for records in (once, again)
    for r in records
  ]
  assert edge[: len(once)] == edge[len(once) :]
  expected = [r for r in run[0]['scenes'] if r['name'] == codec.name]
  assert _plain(once) == _plain(expected)


def test_messages_of_other_pictures_are_not_taken(config):
  each = studies.TaskStudy(config).studies['scenes']
  images = [np.full((2, 4, 4, 3), value, np.uint8) for value in (0, 1)]
  first, second = (
    batches.Batch([data.Example(x, i, ()) for i, x in enumerate(pictures)], 2)
    for pictures in images
  )
  kept = evaluation.MessageCache(max_bytes=5)
  sent = message_cache.SentBatch([b'abc', b'de'], {}, None, [None, None])
  kept.put('kmeans', 0, first, sent)
  assert kept.get('kmeans', 0, first) is sent
  for name, seed, batch in (
    ('kmeans', 0, second),
    ('kmeans', 1, first),
    ('merge', 0, first),
  ):
    assert kept.get(name, seed, batch) is None
  kept.put('merge', 0, first, sent)  # There is no room.
  assert kept.get('merge', 0, first) is None
  assert each.kept is not None


def test_engines_make_the_same_records(config, run, tmp_path):
  study = studies.TaskStudy(config)
  for unit in range(2):
    with pytest.raises(SystemExit):
      study.run_by(sweep.SweepOptions(shard=f'{unit}/2'), tmp_path)
  # All units are finished: the launcher starts none, and joins them.
  other = studies.TaskStudy(config)
  records = other.run_by(sweep.SweepOptions(engine='local', units=2), tmp_path)
  assert [*records] == [*run[0]]
  for name, expected in run[0].items():
    assert _plain(records[name]) == _plain(expected)
  assert other.report(records, tmp_path) == run[1]
  again = studies.TaskStudy(config).run_by(
    sweep.SweepOptions(engine='local', units=2), tmp_path
  )
  assert _plain(again['scenes']) == _plain(records['scenes'])


def test_report(run):
  _, text, folder = run
  table = (folder / 'table.txt').read_text()
  for title in ('captions', 'counts', 'attributes'):
    assert f'{title} ' in text
    assert f'\n{title}\n' in table
  summary = json.loads((folder / 'summary.json').read_text())
  assert [*summary['rows']] == ['captions', 'counts', 'attributes']
  rows = summary['rows']['attributes']
  assert {*rows[0]['kinds']} == {'colour', 'shape'}
  assert rows[0]['questions'] > summary['rows']['counts'][0]['questions']
  budgets = [line['budget'] for line in summary['best']['counts']]
  assert budgets == [20, 50, 100, 300]
  said = ' '.join(text.split())
  assert '8 vectors by k-means++ score, of what all vectors score: c' in said
  assert 'captions' not in summary['control']['rows']  # BLEU is of the set.
  for name in (
    'tasks.png',
    'tasks_rate.svg',
    'tasks_control.png',
    'config.json',
  ):
    assert (folder / name).exists()


def test_report_without_shares_and_budgets(config, run, tmp_path):
  changed = config.copy_and_resolve_references()
  changed.shares, changed.budgets = (), ()
  text = studies.TaskStudy(changed).report(run[0], tmp_path)
  assert 'at most' not in text
  assert 'all vectors  blind' not in text
  assert 'keep of the score of all vectors' in text
  page = parsed.Page(tmp_path / 'report.html')
  assert 'What is kept' not in page.texts['h2']
  assert 'Findings' in page.texts['h2']


_SECTIONS = ['Run', 'Findings', 'Figures', 'What is kept', 'Gallery', 'Scores']


def test_report_page(run):
  records, _, folder = run
  page = parsed.Page(folder / 'report.html')
  assert page.texts['h2'] == [*_SECTIONS, 'Settings']
  summary = json.loads((folder / 'summary.json').read_text())
  said = page.texts['body'][0]
  for finding in [*summary['findings'], *summary['control']['findings']]:
    assert finding in said
  # A table of each line, by its task's score, and a gallery of each task.
  assert page.texts['h3'].count('counts') == 1
  assert page.texts['h3'].count('counts, attributes') == 2
  assert page.texts['caption'].count('Best codecs of so many bytes') == 1
  heads = [row for row in page.texts['thead'] if row.startswith('methodk')]
  assert ['exact match' in row for row in heads] == [False, True, True]
  assert len(page.texts['article']) == 4
  for record in records['scenes']:
    assert record['prompt'] in page.texts['article'][2 + record['image_id'] % 2]
  assert 'cannot be read again' not in said
  assert 'What arrives with' in (folder / 'report.html').read_text()


def test_report_page_of_a_run_that_has_ended(run, tmp_path):
  _, _, folder = run
  path = studies.write_html(folder, tmp_path / 'again.html', clusters=False)
  again, before = parsed.Page(path), parsed.Page(folder / 'report.html')
  assert again.texts['h2'] == before.texts['h2']
  assert again.texts['table'] == before.texts['table']
  assert len(again.texts['article']) == len(before.texts['article'])


@pytest.mark.parametrize('has_config', [True, False])
def test_report_page_of_a_killed_run(run, tmp_path, has_config):
  _, _, folder = run
  part = tmp_path / 'scenes' / 'records.jsonl'
  for name in ('captions_data_scenes', 'scenes'):
    shutil.copytree(folder / name, tmp_path / name)
  lines = part.read_bytes().splitlines(keepends=True)
  part.write_bytes(b''.join(lines[:-5]) + lines[-5][:40])  # Torn.
  if has_config:
    shutil.copy(folder / 'config.json', tmp_path)
  page = parsed.Page(studies.write_html(tmp_path, clusters=False))
  said = page.texts['body'][0]
  assert 'This run is not finished' in said
  assert 'answers so far, of some codecs fewer than of others' in said
  assert 'Findings' not in page.texts['h2']
  assert 'What is kept' not in page.texts['h2']
  assert len(page.texts['article']) == 4
  heads = [row for row in page.texts['thead'] if row.startswith('methodk')]
  assert ['exact match' in row for row in heads] == (
    [False, True, True] if has_config else [False, True]
  )
  if has_config:
    assert "Share of each task's score" in said
    shutil.rmtree(tmp_path / 'scenes')
    page = parsed.Page(studies.write_html(tmp_path, clusters=False))
    assert len(page.texts['article']) == 2


def test_report_page_without_records(run, tmp_path):
  shutil.copy(run[2] / 'config.json', tmp_path)
  with pytest.raises(ValueError, match='got no record yet, expected one'):
    studies.write_html(tmp_path)


def test_a_run_begins_with_its_config(config, tmp_path, monkeypatch):
  def kill(self, path, progress=True):
    del self, path, progress
    raise KeyboardInterrupt

  monkeypatch.setattr(studies.TradeoffStudy, 'run', kill)
  path = tmp_path / 'config.json'
  for limit in (3, 2):  # Nothing was recorded of the first.
    changed = config.copy_and_resolve_references()
    changed.limit = limit
    with pytest.raises(KeyboardInterrupt):
      studies.TaskStudy(changed).run(tmp_path, progress=False)
    assert json.loads(path.read_text())['limit'] == limit
  (tmp_path / 'scenes').mkdir()
  (tmp_path / 'scenes' / 'records.jsonl').write_text('')
  changed.limit = 4
  with pytest.raises(KeyboardInterrupt):
    studies.TaskStudy(changed).run(tmp_path, progress=False)
  assert json.loads(path.read_text())['limit'] == 2


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'lines': ()}, r'lines: got \(\), expected one or more lines'),
    ({'full': False}, 'full: got False, expected True'),
    ({'lines': (('a', 'scene', ()),)}, "task: got 'scene'.*'scenes'"),
    ({'budgets': (-1,)}, 'budgets: got -1'),
    (
      {'control': 'webp(quality=21)'},
      r"control: got 'webp\(quality=21\)'.*mean 'webp\(quality=20\)'",
    ),
    (
      {'control': 'kmeans(k=8,init=++)'},
      r"control: got 'kmeans\(k=8,init=\+\+\)/best', expected an image codec",
    ),
    ({'shares': (0.5, 0)}, r'shares: got 0, expected shares above 0 up to 1'),
    ({'limit': 0}, r'limit: got 0, expected at least one picture of scenes/te'),
    ({'ks': ()}, r'k: got 8, expected one of ks, of which there are none'),
    (
      {'lines': (('a', 'captions', ()),)},
      r"task: got 'captions', expected captions with their dataset.*data=scene",
    ),
    ({'lines': ((5, 'scenes', ()),)}, 'lines: got .*expected a title, a task'),
    ({'lines': (('a', 5, ()),)}, 'lines: got .*expected a title, a task'),
    ({'shares': (95,)}, r'shares: got 95, expected a number from 0 to 1'),
    ({'k': 0}, 'k: got 0, expected an integer of at least 1'),
    ({'k': 4}, r'k: got 4, expected one of ks, 8; the findings are about k'),
    (
      {'lines': (('a', 'scenes', ('count', 'color')),)},
      "lines: kind of a: got 'color'; did you mean 'colour'",
    ),
    (
      {'lines': (('a', 'captions(data=scenes)', ('count',)),)},
      "lines: kind of a: got 'count', expected one of caption",
    ),
    ({'lines': (('a', 'scenes'),)}, 'lines: got .*expected a title, a task'),
    ({'lines': (('a', 'scenes', 'count'),)}, 'lines: .*expected a title, a'),
    ({'lines': (('a', 'scenes', ()),) * 2}, 'lines: .*expected a title of its'),
    (
      {'lines': (('a', 'scenes(most=1)', ()), ('b', 'scenes( most=1)', ()))},
      'lines: .*expected tasks of their own folders, not scenes_most_1',
    ),
  ],
)
def test_settings_out_of_range_are_refused(config, change, said):
  changed = config.copy_and_resolve_references()
  for name, value in change.items():
    changed[name] = value
  with pytest.raises(ValueError, match=said):
    studies.TaskStudy(changed).validate()


def test_kinds_that_few_pictures_lack_are_said(config):
  """The task knows the kind; the pictures of a short run may not."""
  changed = config.copy_and_resolve_references()
  changed.lines = (('a', 'scenes(most=1)', ('size',)),)
  changed.limit = 1
  said = 'lines: kind of a: got .size., expected some of colour, count,.* about'
  with pytest.raises(ValueError, match=f'{said} 1 pictures; raise limit'):
    studies.TaskStudy(changed).validate()
  changed.lines = (('a', 'scenes(most=1)', ('size', 'colour')),)
  studies.TaskStudy(changed).validate()


def test_control_may_name_the_size_of_the_pictures(config):
  """A size that changes nothing is left out of the codec's name."""
  changed = config.copy_and_resolve_references()
  changed.control = 'webp(quality=20,size=64)'
  studies.TaskStudy(changed).validate()


def _analyzed(run, config, **change):
  """Returns the findings of the records of a run, with some rows changed."""
  records, _, _ = run
  changed = config.copy_and_resolve_references()
  lines = {}
  for title, task, kinds in config.lines:
    answers = budgets.line_of(records[task], kinds)
    metric = 'bleu4' if title == 'captions' else 'exact'
    rows = evaluation.summarize(answers, metrics=[metric], resamples=10)
    lines[title] = tasks_study.TaskLine(answers, rows)
  for name, value in change.items():
    changed[name] = value
  report = tasks_study.analyze(lines, changed, {'resamples': 10})
  return lines, report


def test_a_k_that_no_codec_has_is_said(run, config):
  _, report = _analyzed(run, config, k=5)
  assert report.summary['findings'][0] == (
    'Nothing is said of 5 vectors: of k-means++ the records of captions,'
    ' counts, attributes have 8.'
  )
  assert 'Nothing is said of 5 vectors' in report.text


def test_scores_of_0_are_said(run, config):
  """The random model knows no caption."""
  _, report = _analyzed(run, config)
  assert (
    'captions nothing, as all vectors score 0'
    in (report.summary['findings'][0])
  )


def test_findings_name_the_method_that_was_run(run, config):
  lines, _ = _analyzed(run, config)
  for line in lines.values():
    for row in line.rows:
      quantizer = row['settings'].get('quantizer')
      if isinstance(quantizer, dict) and quantizer['quantizer'] == 'kmeans':
        quantizer['init'] = 'random'
        row['codec']['init'] = 'random'
  report = tasks_study.analyze(lines, config, {'resamples': 10})
  said = '8 of 64 vectors by k-means, random start'
  assert report.summary['findings'][0].startswith(said)
  assert 'k-means, random start' in (
    axes.get_title(loc='left') for axes in report.figures['tasks'].axes
  )


def test_a_control_without_wrong_answers_is_said(run, config):
  lines, report = _analyzed(run, config)
  control = 'webp(quality=20)'
  right = {
    title: line._replace(
      records=[{**r, 'scores': dict.fromkeys(r['scores'], 1)} for r in records]
    )
    for title, line in lines.items()
    if title != 'captions'
    for records in [line.records]
  }
  draws = {'resamples': 10}
  said = tasks_study.with_control(report, right, control, config, draws)
  assert said.summary['control']['findings'] == [
    f'{control} is no control: it gets no question of counts, attributes wrong.'
  ]
  captions = {'captions': lines['captions']}
  said = tasks_study.with_control(report, captions, control, config, draws)
  assert 'the scores are of whole sets, not of each answer' in said.table


@pytest.fixture(scope='module')
def asking():
  """A tradeoff study of questions about two scenes."""
  config = tradeoff.get_config('mode=smoke')
  config.model = str(standin.folder())
  config.limit, config.ks, config.methods = 2, (2,), ('kmeans(init=++)',)
  config.blind, config.seeds = (), (0,)
  config.task, config.data, config.data_split = 'scenes(kind=count)', '', ''
  config.prompt, config.preprocess, config.metrics = '', '', ()
  return studies.TradeoffStudy(config)


def test_units_of_a_sweep_make_the_same_answers(asking, tmp_path):
  whole = asking.run(tmp_path / 'whole' / 'records.jsonl', False)
  for unit in range(2):
    sweep.run_unit(asking, tmp_path, unit, 2)
  files = unit_files.UnitFiles(tmp_path)
  plan = files.read_plan()
  files.gather(plan, len(asking.data))
  joined = evaluation.read_records(files.records)
  texts = [
    {record_store.key_of(r): r['caption'] for r in some}
    for some in (joined, whole)
  ]
  assert texts[0] == texts[1]
  assert len(joined) > 2 * len(asking.data)
  assert sweep.missing_passes(asking, files) == []


def test_missing_answers_of_units_are_found(asking, tmp_path):
  records = asking.run(tmp_path / 'records.jsonl', False)
  passes = asking.passes
  unit_files.check_complete(records, passes, 2)
  with pytest.raises(ValueError, match=r'got 1, expected those of 2 pictures'):
    unit_files.check_complete(records[1:], passes, 2)
  with pytest.raises(
    ValueError, match=r'1 of them twice.*expected one a quest'
  ):
    unit_files.check_complete([*records, records[0]], passes, 2)


def test_report_of_questions(asking, tmp_path):
  records = asking.run(tmp_path / 'records.jsonl', False)
  text = asking.report(records, tmp_path)
  assert 'exact match' in text
  page = (tmp_path / 'report.html').read_text()
  assert 'answer en how many' in page
  assert 'all of its questions; answers are right or wrong by exact' in page
  again = studies.write_html(tmp_path, tmp_path / 'again.html', clusters=False)
  assert 'exact match' in again.read_text()
  assert 'BLEU' not in again.read_text()
  first = asking.data[0].questions
  assert len(first) > 1
  assert all(page.count(f'>{question.prompt}<') for question in first)


def test_headline_counts_questions(asking):
  text = asking.describe()
  count = sum(len(asking.data[i].questions) for i in range(2))
  assert f' x {count} questions about 2 pictures = {2 * count}' in text
  assert 'scenes: count, exact match' in text
  assert headline.questions(asking.data) == count
  assert headline.questions(data.scenes('test', 2)) is None
  assert units.pass_costs(asking)
