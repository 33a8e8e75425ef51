"""Units of a sweep: passes of about equal cost, and their files."""

import collections
import itertools
import json

import pytest

from collab_jax import evaluation, jsonl, studies
from collab_jax.evaluation import record_store
from collab_jax.studies import sweep, unit_files, units
from configs import channel, tradeoff
from tests import standin

SETTINGS = {'model': 'tiny'}


@pytest.fixture(scope='module')
def config():
  config = tradeoff.get_config('mode=smoke')
  config.model = str(standin.folder())
  config.limit, config.codecs = 3, ('webp(quality=20)', 'top_norm(k=3)')
  return config


@pytest.fixture(scope='module')
def study(config):
  return studies.TradeoffStudy(config)


@pytest.fixture(scope='module')
def plain(study, tmp_path_factory):
  """Records of a run without units, by key."""
  path = tmp_path_factory.mktemp('plain') / 'records.jsonl'
  return path, {record_store.key_of(r): r for r in study.run(path, False)}


def same(records, expected):
  """Whether records are a plain run's, but for the time that they took."""
  records = list(records)
  keys = [record_store.key_of(record) for record in records]
  assert len(set(keys)) == len(keys)
  assert set(keys) == set(expected)
  for record in records:
    other = expected[record_store.key_of(record)]
    assert {**record, 'seconds': 0} == {**other, 'seconds': 0}
  return True


def test_passes_are_those_of_the_records(study, plain):
  _, records = plain
  assert list(dict.fromkeys(key[1:] for key in records)) == study.passes


def test_specs_know_whether_their_codecs_draw():
  config = channel.get_config('mode=smoke')
  config.model, config.seeds = str(standin.folder()), (0, 1)
  links = studies.ChannelStudy(config)
  drawn = {codec.name: codec.uses_key for codec in links.bound_codecs}
  assert set(drawn.values()) == {False, True}
  assert {spec.name: spec.uses_key for spec in links.specs} == drawn
  counts = collections.Counter(name for name, _ in links.passes)
  assert {n: counts[n] == 2 for n in drawn} == drawn
  assert links.passes[-1] == ('blind(mean)', 0)


@pytest.mark.parametrize('count', [1, 2, 5, 9, 12, 48])
def test_units_cover_all_passes_once(study, count):
  plan = units.divide(study, study.passes, count, SETTINGS)
  assert list(itertools.chain(*plan.units)) == study.passes
  # The three baselines are made by one pass.
  assert len(plan.units) == len(plan.costs) == min(count, 12)
  costs = units.pass_costs(study)
  assert max(plan.costs) <= sum(plan.costs) / len(plan.units) + max(
    costs.values()
  )
  again = units.Plan.from_json(json.loads(json.dumps(plan.to_json())))
  assert again == plan


def test_units_are_of_equal_cost_not_of_equal_count():
  """Heavy ones come alone, whatever their place."""
  weights = [1.0, 1.0, 1.0, 1.0, 8.0, 1.0, 1.0, 1.0, 1.0]
  bounds = units._bounds(weights, 3)
  assert [sum(weights[a:b]) for a, b in bounds] == [4, 8, 4]
  assert units._bounds([1.0] * 7, 7) == [(i, i + 1) for i in range(7)]
  assert units._bounds([9.0, 1.0, 1.0], 3) == [(0, 1), (1, 2), (2, 3)]


def test_pictures_cost_the_server_s_encoder_too(study):
  costs = units.pass_costs(study)
  assert costs['webp(quality=20)'] == pytest.approx(1)
  assert 0 < costs['top_norm(k=3)'] < 1


def run_units(study, workdir, plan):
  files = unit_files.UnitFiles(workdir)
  files.write_plan(plan)
  for number in range(len(plan.units)):
    sweep.run_unit(study, workdir, number, plan.count)
  return files


def test_units_make_the_records_of_a_plain_run(study, plain, tmp_path):
  _, expected = plain
  plan = units.divide(study, study.passes, 3, sweep._settings(study))
  files = run_units(study, tmp_path, plan)
  assert sum(files.count_lines(range(3)).values()) == len(expected)
  assert files.finished() == {0, 1, 2}
  infos = files.gather(plan, 3)
  assert same(evaluation.read_records(tmp_path), expected)
  assert sum(info['records'] for info in infos) == len(expected)
  assert infos[0]['device'].startswith('cpu')
  assert not files.folder.exists()
  assert sweep.missing_passes(study, files) == []
  # A plain run finds nothing to do either.
  before = files.records.read_bytes()
  study.run(files.records, False)
  assert files.records.read_bytes() == before


def test_a_unit_goes_on_where_another_process_stopped(study, plain, tmp_path):
  _, expected = plain
  plan = units.divide(study, study.passes, 1, sweep._settings(study))
  files = unit_files.UnitFiles(tmp_path)
  files.write_plan(plan)
  first = files.begin(0)
  study.run_passes(first, plan.units[0][:4], False)
  # The last line was not finished.
  text = first.read_text()[:-40]
  first.write_text(text)
  second = files.begin(0)
  assert second != first
  assert second.read_text() == text[: text.rindex('\n') + 1]
  seconds = [json.loads(line)['seconds'] for line in second.open()]
  sweep.run_unit(study, tmp_path, 0, 1)
  records = evaluation.read_records(files.path(0))
  assert same(records, expected)
  assert [r['seconds'] for r in records[: len(seconds)]] == seconds
  # The other processes' files are gone: they have nothing to finish.
  files.finish(0, second, {})
  assert [path.name for path in files.folder.glob('attempts/*')] == []
  assert same(evaluation.read_records(files.path(0)), expected)


def test_two_processes_of_one_unit_make_one_file(study, tmp_path):
  """They are slow to learn of each other, as on a network's file system."""
  plan = units.divide(study, study.passes, 4, sweep._settings(study))
  files = unit_files.UnitFiles(tmp_path)
  files.write_plan(plan)
  attempts = [files.begin(3), files.begin(3)]
  for attempt in attempts:
    study.run_passes(attempt, plan.units[3], False)
  for attempt in attempts:
    files.finish(3, attempt, {'records': 1})
  records = evaluation.read_records(files.path(3))
  assert len(records) == 3 * len(plan.units[3])


def test_what_is_there_is_not_made_again(config, study, plain, tmp_path):
  """A plain run is extended by units, and a sweep by more codecs."""
  path, expected = plain
  (tmp_path / 'records.jsonl').write_bytes(path.read_bytes())
  settings = path.with_suffix('.settings.json')
  (tmp_path / settings.name).write_bytes(settings.read_bytes())
  wider = config.copy_and_resolve_references()
  wider.ks = (2, 4, 8)
  more = studies.TradeoffStudy(wider, lambda: study.model)
  files = unit_files.UnitFiles(tmp_path)
  plan = sweep.make_plan(more, files, 2)
  new = [one for one in more.passes if one not in set(study.passes)]
  assert list(itertools.chain(*plan.units)) == new
  assert {name.partition('(k=')[2][0] for name, _ in new} == {'4'}
  for number in range(2):
    sweep.run_unit(more, tmp_path, number, 2)
  files.gather(plan, 3)
  records = evaluation.read_records(tmp_path)
  assert same(
    [r for r in records if record_store.key_of(r) in expected], expected
  )
  assert len(records) == 3 * len(more.passes)


def test_a_kill_leaves_no_unit_without_its_plan(study, tmp_path, monkeypatch):
  plan = units.divide(study, study.passes, 2, sweep._settings(study))
  files = run_units(study, tmp_path, plan)

  def killed(folder):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(unit_files.shutil, 'rmtree', killed)
    with pytest.raises(KeyboardInterrupt):
      files.gather(plan, 3)
  assert (files.read_plan(), files.finished()) == (None, set())
  # The next units of the folder remove what was left, and only that.
  (left,) = tmp_path.glob('units.*.done')
  files.write_plan(plan)
  for number in range(2):
    (left / f'{number:03}.jsonl').rename(files.path(number))
    (left / f'{number:03}.json').rename(files.folder / f'{number:03}.json')
  before = files.records.read_bytes()
  files.gather(plan, 3)
  assert files.records.read_bytes() == before
  assert list(tmp_path.glob('units*')) == []


def test_records_that_another_run_writes_are_not_replaced(
  study, plain, tmp_path
):
  plan = units.divide(study, study.passes, 2, sweep._settings(study))
  files = run_units(study, tmp_path, plan)
  record = dict(next(iter(plain[1].values())), image_id=10**9)
  with jsonl.JsonlWriter(files.records) as writer:
    with pytest.raises(BlockingIOError):
      files.gather(plan, 3)
    writer.append(record)
  files.gather(plan, 3)
  assert len(evaluation.read_records(tmp_path)) == 3 * len(study.passes) + 1


def test_gaps_and_doubles_are_told(study, tmp_path):
  plan = units.divide(study, study.passes, 2, sweep._settings(study))
  files = run_units(study, tmp_path, plan)
  whole = files.path(1).read_text()
  lines = whole.splitlines(keepends=True)
  name = json.loads(lines[-1])['name']
  files.path(1).write_text(''.join(lines[:-1]))
  with pytest.raises(ValueError, match=r'got 2, expected 3, one a pict'):
    files.gather(plan, 3)
  files.path(1).write_text(whole + lines[-1])
  with pytest.raises(ValueError, match=r'got .1 of them twice., expected') as e:
    files.gather(plan, 3)
  assert name in str(e.value)
  files.path(1).write_text(whole)
  assert not files.records.exists()
  assert len(files.gather(plan, 3)) == 2


@pytest.mark.parametrize(
  ('field', 'value', 'count', 'said'),
  [
    ('max_tokens', 3, 0, 'config.max_tokens: got 3, expected 4, of which'),
    ('ks', (2,), 0, 'expected codecs and seeds of this config'),
    (
      'limit',
      3,
      7,
      'units: got 7, expected 2, as of the sweep',
    ),
  ],
)
def test_another_sweep_is_refused(config, tmp_path, field, value, count, said):
  files = unit_files.UnitFiles(tmp_path)
  sweep.make_plan(studies.TradeoffStudy(config), files, 2)
  other = config.copy_and_resolve_references()
  other[field] = value
  with pytest.raises(ValueError, match=said):
    sweep.make_plan(studies.TradeoffStudy(other), files, count)


def test_records_of_other_settings_are_refused_by_units(
  config, study, plain, tmp_path
):
  path, _ = plain
  for suffix in ('.jsonl', '.settings.json'):
    copy = tmp_path / f'records{suffix}'
    copy.write_bytes(path.with_suffix(suffix).read_bytes())
  other = config.copy_and_resolve_references()
  other.prompt, other.ks = 'describe en', (16,)
  with pytest.raises(record_store.SettingsError, match=r'captioner\.prompt'):
    sweep.run_unit(
      studies.TradeoffStudy(other, lambda: study.model), tmp_path, 0, 1
    )


@pytest.mark.parametrize('text', ['1', '2/2', '-1/2', 'a/b', '0/0'])
def test_bad_shards_are_refused(text):
  with pytest.raises(ValueError, match='shard: got'):
    sweep.SweepOptions(shard=text)


def test_units_get_the_launcher_s_arguments():
  arguments = [
    *('--config=configs/rate.py', '--engine=slurm', '--units', '3'),
    *('-workers=2', '--log=wandb', '--workdir', 'runs/a', '--config.ks=(2,)'),
  ]
  assert sweep.unit_arguments(arguments) == [
    *('--config=configs/rate.py', '--workdir', 'runs/a', '--config.ks=(2,)')
  ]
