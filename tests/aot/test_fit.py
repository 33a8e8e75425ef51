"""Command `collab-jax fit`: programs compiled from shapes alone."""

import dataclasses
import importlib.util
import json
import re

import jax
from jax import monitoring
import numpy as np
import pytest

from collab_jax import captioner, checkpoints, codecs
from collab_jax.aot import devices, programs, report
from collab_jax.models import zoo
from collab_jax.serving.engine import engine
from tests import launching

_TINY = checkpoints.config_of('tiny')
_HAS_LIBTPU = importlib.util.find_spec('libtpu') is not None


def _fit(*flags, code=0):
  """Runs the command; returns its output."""
  done = launching.run('-m', 'collab_jax', 'fit', *flags)
  assert done.returncode == code, done.stdout + done.stderr
  return done.stdout + done.stderr


def test_a_sweep_on_the_present_device(tmp_path):
  out = tmp_path / 'fit.json'
  table = _fit(
    *('--batch=2', '--max_tokens=2', '--k=2', '--quantizers=pool'),
    *('--jobs=2', f'--out={out}'),
  )
  content = json.loads(out.read_text())
  names = [program['name'] for program in content['programs']]
  assert names[0] == 'encode'
  assert names[-1] == 'generate, prefix of 256'
  assert all(f'\n{name}' in table for name in names)
  assert content['fits']
  assert 'tiny, 64 px, float32, products of float32, stacked, batch 2' in table
  assert 'cpu, mesh 1 x 1' in table
  assert content['weights'] == 4 * sum(
    np.prod(x.shape) for x in jax.tree.leaves(checkpoints.load('tiny').params)
  )
  for program in content['programs']:
    assert program['total'] >= content['weights']
    assert program['same_as'] or program['seconds'] > 0


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--batch=0', 'batch: got 0, expected an integer of at least 1'),
    ('--max_tokens=0', 'max_tokens: got 0, expected an integer of at least 1'),
    ('--decoding=beam0', 'beams: got 0, expected'),
    ('--out=/none/fit.json', "out: got '/none/fit.json', expected a file in"),
    ('--topology=v5e', "topology: got 'v5e', expected a name such as"),
  ],
)
def test_errors_are_one_line(flag, message):
  text = _fit(flag, code=1)
  assert text.startswith(f'error: {message}')
  assert text.count('\n') == 1


def test_a_server_has_no_mesh():
  text = _fit('--server', '--mesh.data=2', code=1)
  assert "mesh: got '2 x 1', expected 1 x 1" in text


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (
      lambda: programs.model_config('tinny'),
      "model: got 'tinny'; did you mean 'tiny'?",
    ),
    (
      lambda: programs.model_config('tiny', 224),
      'res: got 224, expected 64, as tiny has, or 0',
    ),
    (
      lambda: programs.make_specs('kmens', ['8'], 'encoder', _TINY),
      "got 'kmens'; did you mean 'kmeans'?",
    ),
    (
      lambda: programs.make_specs('kmeans', ['8', 'x'], 'encoder', _TINY),
      "k: got 'x', expected integers",
    ),
    (
      lambda: programs.make_specs('kmeans', ['257'], 'encoder', _TINY),
      'k: got 257, expected at most',
    ),
    (
      lambda: devices.Placement.of_present(data=4096),
      'mesh: got data=4096, model=1, expected a product of at most',
    ),
  ],
)
def test_refused_settings(call, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    call()


@pytest.mark.parametrize(
  ('name', 'res', 'size'),
  [
    ('tiny', 0, 64),
    ('paligemma2-10b', 448, 448),
    ('paligemma-3b-mix-224', 224, 224),
    (str(checkpoints.folder('tiny')), 0, 64),
  ],
)
def test_models_by_name_and_folder(name, res, size):
  assert programs.model_config(name, res).vision.image_size == size


@pytest.mark.skipif(_HAS_LIBTPU, reason='libtpu is installed')
def test_a_topology_needs_libtpu():
  assert "pip install 'collab_jax[tpu]'" in _fit('--topology=v5e:2x2', code=1)


@pytest.mark.skipif(not _HAS_LIBTPU, reason='libtpu is not installed')
def test_a_topology_without_a_tpu(tmp_path):
  out = tmp_path / 'fit.json'
  flags = '--topology=v5e:2x2', '--mesh.data=2', '--mesh.model=2', '--k=2'
  sizes = '--batch=2', '--max_tokens=2', '--quantizers=random', f'--out={out}'
  _fit(*flags, *sizes)
  content = json.loads(out.read_text())
  assert content['kind'] == 'TPU v5 lite'
  assert content['fits']


@pytest.mark.skipif(not _HAS_LIBTPU, reason='libtpu is not installed')
def test_three_chips_of_four_are_a_mesh():
  assert devices.Placement.of_topology('v5e:2x2', 3).sizes['data'] == 3


@pytest.mark.skipif(not _HAS_LIBTPU, reason='libtpu is not installed')
def test_topologies_that_are_refused():
  for name in ('v9:2x2', 'v5e:3x4'):
    assert f'topology: got {name!r}' in _fit(f'--topology={name}', code=1)
  text = _fit('--topology=v5e:2x2', '--mesh.data=8', code=1)
  assert 'the number of devices of v5e:2x2' in text


def test_a_server_on_the_present_device(tmp_path):
  """The programs are those of the engine's warm-up, and the codecs'."""
  out = tmp_path / 'fit.json'
  flags = '--server', '--batch=2', '--rows=2', '--max_tokens=2'
  _fit(*flags, '--quantizers=pool', '--k=2', f'--out={out}')
  names = [p['name'] for p in json.loads(out.read_text())['programs']]
  assert names[-1] == 'prefill, 2 x 320'
  assert {'empty cache', 'decode, 1 slots', 'decode, 2 slots'} <= {*names}
  assert 'rebuild, pool(k=2), batch of 2' in names


def test_more_than_there_is_does_not_fit():
  placement = devices.Placement.of_present(data=1)
  model = programs.abstract_model(_TINY, 'float32', placement)
  less = devices.Placement(placement.devices, None, 'small', memory=1000)
  traced = programs.sweep(model, placement, _sweep('identity'))
  row = next(report.compile_all(traced, less, model.params))
  assert row.fits is False
  assert row.total > 1000


def _sweep(*texts, batch=2):
  specs = [codecs.parse(text) for text in texts]
  return programs.Sweep(specs, batch, max_tokens=2, prompt=4)


def test_equal_programs_are_compiled_once():
  placement = devices.Placement.of_present(data=1)
  model = programs.abstract_model(_TINY, 'float32', placement)
  settings = _sweep('identity')
  twice = [
    program
    for _ in range(2)
    for program in programs.sweep(model, placement, settings)
  ]
  rows = list(report.compile_all(twice, placement, model.params))
  by_name = [row for row in rows if row.name == 'rebuild, identity']
  assert [row.same_as for row in by_name] == ['', 'rebuild, identity']
  assert by_name[1].seconds == 0


_TRACED = []


def _count_trace(event, seconds, fun_name='', **_):
  if event == '/jax/core/compile/jaxpr_trace_duration':
    _TRACED.append(fun_name)


def test_one_program_for_every_k_of_a_bucket():
  model = programs.abstract_model(
    _TINY, 'float32', devices.Placement.of_present()
  )
  settings = _sweep('kmeans(k=3)', 'kmeans(k=9)', 'kmeans(k=17)')
  names = [
    p.name
    for p in programs.sweep(model, devices.Placement.of_present(), settings)
  ]
  quantize = [name for name in names if name.startswith('quantize')]
  assert quantize == ['quantize, kmeans(k=16)', 'quantize, kmeans(k=128)']


def test_a_server_has_no_other_programs():
  """Programs of a warm-up were all traced before, from shapes alone."""
  model = checkpoints.load('tiny')
  placement = devices.Placement.of_present(data=1)
  abstract = programs.abstract_model(model.config, 'float32', placement)
  abstract = dataclasses.replace(
    abstract, tokenizer=model.tokenizer, statistics=model.statistics
  )
  config = engine.EngineConfig(max_slots=2, max_prefill_batch=1)
  monitoring.register_event_duration_secs_listener(_count_trace)
  jax.clear_caches()
  traced = [p.name for p in programs.server(abstract, placement, [], config)]
  assert 'prefill, 1 x 320' in traced
  del _TRACED[:]
  for step in engine.Engine(model, config).warm_up():
    step()
  assert not {'empty', 'prefill', 'decode'} & {*_TRACED}


@pytest.mark.parametrize(
  'text', ['kmeans(k=3)', 'random(k=3,rebuild=close)', 'visionzip(k=3)']
)
def test_a_run_has_no_other_programs(text):
  """Codec and captioner run what was traced before, from shapes alone."""
  model = checkpoints.load('tiny')
  placement = devices.Placement.of_present(data=1)
  abstract = programs.abstract_model(model.config, 'float32', placement)
  abstract = dataclasses.replace(
    abstract, tokenizer=model.tokenizer, statistics=model.statistics
  )
  codec = codecs.parse(text).bind(model)
  caption = captioner.Captioner(model, max_tokens=2)
  images = np.zeros((2, 64, 64, 3), np.uint8)

  def run():
    del _TRACED[:]
    caption(codec.decode(codec.encode(images, jax.random.key(0))))
    return set(_TRACED)

  monitoring.register_event_duration_secs_listener(_count_trace)
  jax.clear_caches()
  names = {'_quantize', '_rebuild', '_generate'}
  names.add('observed' if codec.quantizer.aux_inputs else 'features')
  assert names <= run()
  jax.clear_caches()
  for _ in programs.sweep(abstract, placement, _sweep(text)):
    pass
  assert not names & run()


def test_the_page_has_the_table_of_fit_s_numbers():
  done = launching.run('tools/fit_table.py')
  assert done.returncode == 0, done.stderr
  page = (launching.ROOT / 'docs/accelerators.md').read_text()
  for block in done.stdout.strip().split('\n\n'):
    assert block in page


def test_weights_of_released_models_are_shapes():
  placement = devices.Placement.of_present(data=1)
  for name in zoo.DECODERS:
    model = programs.abstract_model(
      zoo.config(name, 224), 'bfloat16', placement
    )
    card = zoo.card(f'{name}-pt-224')
    assert report.device_bytes(model.params) == 2 * card.parameters
