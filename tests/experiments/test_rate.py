"""The launcher of bytes against scores, and its config."""

import json
import re

import pytest

from collab_jax import codecs, data, evaluation, studies
from collab_jax.studies import units
from configs import baselines, rate
from tests import standin
from tests.launching import ROOT


def test_from_nothing_to_figures(launch, tmp_path):
  flags = (
    '--config=configs/rate.py:mode=smoke',
    f'--config.model={standin.folder()}',
    '--config.limit=3',
    '--config.seeds=(0,)',
    f'--workdir={tmp_path}',
  )
  done = launch('rate', *flags)
  assert done.returncode == 0, done.stderr
  names = {path.name for path in tmp_path.iterdir()}
  figures = {'rate', 'rate_cider', 'rate_fields', 'rate_latency'}
  assert names >= {f'{n}.{s}' for n in figures for s in ('png', 'svg')}
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['settings']['bd'] == 'pchip'
  assert {s['anchor'] for s in summary['bd_rate']} >= {'all image codecs'}
  assert {line['rate_kbps'] for line in summary['latency']} >= {50, 10000}
  assert all(line['joules'] > 0 for line in summary['latency'])
  records = evaluation.read_records(tmp_path / 'records.jsonl')
  # Three pictures; two k, four files, all vectors, blind.
  assert len(records) == 3 * (2 + 4 + 1 + 3)
  table = (tmp_path / 'table.txt').read_text()
  for name in {record['name'] for record in records}:
    assert name in table
  assert all(label in table for label in ('BLEU-4', 'BLEU-1', 'ROUGE-L'))
  assert 'BD-rate of all features' in done.stdout


def test_answers_of_a_task(tmp_path):
  config = rate.get_config('mode=smoke,task=scenes')
  config.model, config.limit, config.seeds = str(standin.folder()), 2, (0,)
  config.codecs, config.max_tokens, config.blind = config.codecs[:1], 4, ()
  study = studies.RateStudy(config)
  records = study.run(tmp_path / 'records.jsonl', progress=False)
  assert 'exact match' in study.report(records, tmp_path)
  asked = {(r['image_id'], r['question']) for r in records}
  assert len(records) == len(asked) * (2 + 1 + 1)
  assert (tmp_path / 'rate.svg').exists()


@pytest.mark.parametrize('mode', rate.MODES)
def test_modes_are_sound(mode):
  config = rate.get_config(f'mode={mode}')
  study = studies.RateStudy(config)
  study.validate()
  plan = units.divide(study, study.passes, 9, {})
  assert [one for unit in plan.units for one in unit] == study.passes
  assert len(plan.units) == min(9, len({name for name, _ in study.passes}))


def test_every_field_is_read():
  files = (ROOT / 'collab_jax/studies').glob('*.py')
  source = ''.join(path.read_text() for path in files)
  read = set(re.findall(r'(?:config|fields|link)\.(\w+)', source))
  read |= {'resamples', 'level', 'seed'}
  config = rate.get_config()
  assert {*config, *config.link} - read == set()


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('bd', 'spline', "method: got 'spline', expected one of pchip"),
    ('levels', (0.9, 95.0), 'levels: got 95.0, expected shares'),
    ('levels', ('0.9',), "levels: got '0.9', expected shares"),
    ('link.rates_kbps', ('50',), "rates_kbps: got '50', expected a number"),
    ('seeds', (), r'seeds: got \(\), expected one or more'),
    ('seeds', (1.5,), 'seeds: got .*whole numbers'),
    ('blind', ('bogus',), "blind: got 'bogus', expected one of"),
    ('batch_size', 0, 'batch_size: got 0, expected at least 1'),
    ('workers', 0, 'workers: got 0, expected at least 1'),
    ('full', False, 'full: got False'),
    ('codecs', ('jpg',), "codec: got 'jpg'; did you mean 'jpeg'"),
    ('link.delay_ms', -1.0, 'delay_ms: got -1'),
    ('budget.edge_watts', -1.0, 'edge_watts: got -1'),
    ('resamples', 0, 'resamples: got 0'),
  ],
)
def test_settings_are_checked_before_work_begins(unchecked, field, value, said):
  config = rate.get_config('mode=smoke')
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=said):
    studies.RateStudy(config).validate()


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'full': False}, 'full: got False'),
    ({'methods': ()}, r'methods, ks: got \(\) and \(2, 8\), and no codecs'),
    ({'ks': ()}, r'methods, ks: got .* and \(\), and no codecs'),
  ],
)
def test_there_is_something_to_compare(unchecked, changes, said):
  config = baselines.get_config('mode=smoke')
  config.update(changes)
  with pytest.raises(ValueError, match=said):
    studies.BaselineStudy(config).validate()


def test_what_was_checked_is_not_checked_again(tmp_path, monkeypatch):
  config = rate.get_config('mode=smoke')
  config.model = str(standin.folder())
  config.blind, config.limit = ('shuffled',), 1  # Refused by the evaluation.
  calls = []
  check, make = codecs.FeatureCodecSpec.validate, data.make
  monkeypatch.setattr(
    codecs.FeatureCodecSpec,
    'validate',
    lambda *args: calls.append('spec') or check(*args),
  )
  monkeypatch.setattr(
    data, 'make', lambda *args, **kw: calls.append('data') or make(*args, **kw)
  )
  study = studies.RateStudy(config)
  study.validate()
  for _ in range(2):
    with pytest.raises(ValueError, match='at least 2 images'):
      study.run(tmp_path / 'r.jsonl')
  assert sorted(calls) == ['data', *['spec'] * 3]
