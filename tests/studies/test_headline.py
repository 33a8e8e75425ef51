"""Headlines of runs: what is ahead, before anything is computed."""

import pytest

from collab_jax import studies
from collab_jax.aot import counting, devices, programs
from collab_jax.evaluation import progress
from collab_jax.models import decoding
from collab_jax.studies import headline
from configs import channel, finetune, tradeoff
from tests import standin


@pytest.fixture(scope='module')
def study():
  config = tradeoff.get_config('mode=smoke')
  config.model = str(standin.folder())
  config.codecs = ('webp(quality=20)', 'top_norm(k=3)')
  return studies.TradeoffStudy(config)


def test_the_headline_says_what_is_ahead(study):
  lines = dict(line.split(maxsplit=1) for line in study.describe().splitlines())
  assert [*lines] == [
    *('model', 'data', 'devices', 'captions', 'programs', 'time')
  ]
  assert 'parameters in float32, products of float32' in lines['model']
  assert lines['data'] == 'scenes/test, 6 pictures'
  assert 'mesh' in lines['devices']
  # Two methods with two k draw; all vectors, a file and `top_norm` do not.
  assert lines['captions'] == (
    '(4 codecs x 2 seeds + 3 codecs + 3 blind) x 6 pictures = 84'
  )
  assert 'large ones to compile' in lines['programs']


def test_counts_agree_with_records(study, tmp_path):
  said = study.describe()
  records = study.run(tmp_path / 'records.jsonl', progress=False)
  assert f'= {len(records)}\n' in said


def test_programs_are_counted_as_fit_traces_them(study):
  specs = [s for s in study.specs if s.family == 'feature']
  bound = [spec.bind(study.model) for spec in specs]
  model = study.model
  vectors = model.config.vision.num_tokens
  count = counting.count(bound, vectors, blind=False)
  settings = programs.Sweep(specs, 2, 2, 4, decoding.Greedy())
  place = devices.Placement.of_present(1, 1)
  traced = programs.sweep(
    programs.abstract_model(model.config, 'float32', place), place, settings
  )
  names = [p.name for p in traced if not p.name.startswith('pad')]
  assert len(names) == count


def test_links_and_pictures_have_programs_too():
  config = channel.get_config('mode=smoke')
  config.model = str(standin.folder())
  lines = studies.ChannelStudy(config).describe()
  assert 'x 6 pictures = ' in lines


@pytest.mark.parametrize(
  ('seconds', 'said'), [(8.6, '9 s'), (200.0, '3 min'), (9000.0, '2.5 h')]
)
def test_durations(seconds, said):
  assert progress.duration(seconds) == said


def test_time_is_measured_after_the_first_batch(monkeypatch, capsys):
  clock = iter([100.0, 102.0, 104.0])
  monkeypatch.setattr(progress.time, 'perf_counter', lambda: next(clock))
  with progress.Progress(100, 'scenes', disable=False) as bar:
    bar.skip(20)
    bar.update(20)
    assert 'left' not in capsys.readouterr().err
    bar.end_batch()
    bar.update(20)
    bar.update(20)
  # 40 in four seconds, 20 more to make.
  assert '10.0 captions/s, 2 s left' in capsys.readouterr().err


def test_empty_lines_are_left_out():
  assert headline.render({'model': 'a', 'of': ''}) == 'model  a'


def test_a_training_is_described():
  dims = standin.small().config
  text = headline.training(dims, 'scenes/train', '8 steps', None)
  lines = dict(line.split(maxsplit=1) for line in text.splitlines())
  assert [*lines] == ['model', 'data', 'devices', 'training']
  assert 'parameters' in lines['model']
  assert 'mesh 1 x 1' in lines['devices']


def test_a_finetuning_is_described():
  config = finetune.get_config('mode=smoke')
  config.model = str(standin.folder())
  text = studies.FinetuneStudy(config).describe()
  assert 'training  8 steps of 4 pictures through the quantizer' in text
