"""A mesh changes where numbers are, not which."""

import json
from pathlib import Path
import re

import jax
from jax.sharding import PartitionSpec
import pytest

from benchmarks import sharding as bench
from collab_jax import (
  checkpoints,
  evaluation,
  sharding,
  studies,
)
from collab_jax.checkpoints import trees
from collab_jax.evaluation import record_store
from collab_jax.models import zoo
from configs import tradeoff
from tests import launching, sharded, standin
from tests.evaluation.runs import assert_same, timeless

ROOT = Path(__file__).parents[1]
MESHES = ((8, 1), (4, 2))
# The flags of each: all devices are used without one.
FLAGS = ((), ('--config.mesh.data=4', '--config.mesh.model=2'))


def child(*arguments):
  """Runs a job of tests/sharded.py with eight devices."""
  done = launching.run('-m', 'tests.sharded', *arguments, **launching.EIGHT)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def launch(script, workdir, *flags):
  """Runs a launcher with the smoke config and eight devices."""
  return launching.run(
    f'experiments/{script}.py',
    '--config=configs/tradeoff.py:mode=smoke',
    f'--config.model={standin.folder()}',
    f'--workdir={workdir}',
    *flags,
    **launching.EIGHT,
  )


@pytest.fixture(scope='module')
def meshes(tmp_path_factory):
  """Folders with the smoke config's records on each mesh."""
  folder = tmp_path_factory.mktemp('meshes')
  scripts = 'evaluate', 'demo'
  for script, (data, model), mesh in zip(scripts, MESHES, FLAGS, strict=True):
    workdir = folder / f'{data}x{model}'
    done = launch(script, workdir, '--config.ks=(2,)', *mesh)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f'8 devices: mesh {data} x {model}\n') == 1
    summary = json.loads((workdir / 'summary.json').read_text())
    assert summary['mesh'] == {'data': data, 'model': model}
  return folder


def alone(folder, **fields):
  """Records of the smoke config on this process's one device."""
  fields |= {'model': str(standin.folder()), 'ks': (2,)}
  config = bench.settings(1, 1, **fields)
  return studies.TradeoffStudy(config).run(
    folder / 'records.jsonl', progress=False
  )


def test_products_of_bfloat16_are_those_of_one_device():
  # A device computes the same rows, or a part of each sum: last bits of
  # float32 then differ, and some of them are rounded to another bfloat16.
  data, model = child('half', standin.folder())
  assert data == 0
  assert model < 2


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return alone(tmp_path_factory.mktemp('whole'))


@pytest.mark.parametrize('sizes', MESHES)
def test_records_are_those_of_one_device(meshes, whole, sizes):
  folder = meshes / '{}x{}'.format(*sizes)
  path = folder / 'records.jsonl'
  got = {record_store.key_of(r): r for r in evaluation.read_records(path)}
  assert len(got) == len(whole)
  ordered = [got[record_store.key_of(r)] for r in whole]
  assert_same(ordered, json.loads(json.dumps(whole)))
  said = json.loads((folder / 'records.settings.json').read_text())
  assert said['model']['name'] == 'stand-in'


def test_a_device_computes_what_one_computes_with_as_many_rows(
  meshes, tmp_path
):
  # 8 pictures on 8 devices, and one at a time on one.
  want = timeless(alone(tmp_path, batch_size=1))
  got = timeless(evaluation.read_records(meshes / '8x1/records.jsonl'))
  blind = {'blind(mean)', 'blind(zeroed)'}

  def of(records):
    kept = [r for r in records if r['name'] not in blind]
    return sorted(json.dumps(r, sort_keys=True) for r in kept)

  assert of(got) == of(want)


def test_records_go_on_where_another_mesh_stopped(meshes, whole, tmp_path):
  lines = (meshes / '4x2/records.jsonl').read_bytes().splitlines(keepends=True)
  (tmp_path / 'records.jsonl').write_bytes(b''.join(lines[:10]))
  sidecar = 'records.settings.json'
  (tmp_path / sidecar).write_bytes((meshes / '4x2' / sidecar).read_bytes())
  assert_same(alone(tmp_path), json.loads(json.dumps(whole)))


def test_loading_quantizing_and_odd_batches():
  assert child('pieces', standin.folder()) == len(sharded.PIECES)


def test_a_kernel_of_a_tpu_is_split_by_rows_and_heads():
  assert child('splash') < 1e-5


def test_training_spreads_its_batches(tmp_path):
  # The only launchers whose results no `Study` makes.
  metrics = []
  for workdir, environment in (('one', {}), ('eight', launching.EIGHT)):
    flags = '--config.eval_scenes=8', f'--workdir={tmp_path / workdir}'
    done = launching.run(
      'experiments/train.py',
      '--config=configs/train_tiny.py:mode=smoke',
      '--config.batch_size=8',
      *flags,
      **environment,
    )
    assert done.returncode == 0, done.stderr
    assert ('8 devices: mesh 8 x 1' in done.stdout) == (workdir == 'eight')
    lines = (tmp_path / workdir / 'metrics.jsonl').read_text().splitlines()
    metrics.append([json.loads(line) for line in lines])
  for one, eight in zip(*metrics, strict=True):
    assert eight == pytest.approx(one, rel=1e-3)


def test_passes_of_all_codecs_overlap_on_a_mesh():
  # 12 images; own codecs and JPEG draw nothing, two baselines.
  same, count = child('overlapped', standin.folder())
  assert same
  assert count == 12 * (2 + 1 + 1 + 2 + 2 + 2)


def test_the_flags(meshes, tmp_path):
  saved = json.loads((meshes / '4x2/config.json').read_text())
  assert saved['mesh'] == {'data': 4, 'model': 2}
  assert (meshes / '4x2/fig2.png').exists()
  mesh = '--config.mesh.data=4', '--config.mesh.model=3'
  done = launch('sweep', tmp_path, *mesh)
  assert done.returncode != 0
  assert 'error: mesh: got data=4, model=3' in done.stderr
  assert 'Traceback' not in done.stderr


def flat(decoder, data, model, size=224):
  mesh = bench.abstract_mesh(data, model)
  config = zoo.config(decoder, size)
  return trees.flatten(bench.abstract_model(config, mesh).params)


# Gigabytes in bfloat16: of all, of a device on 1 x 8 and on 2 x 4.
@pytest.mark.parametrize(
  ('decoder', 'total', 'eight', 'four'),
  [
    ('paligemma-3b', 5.85, 0.77, 1.50),
    ('paligemma2-3b', 6.06, 0.98, 1.52),
    ('paligemma2-10b', 19.32, 2.43, 4.84),
    ('paligemma2-28b', 55.30, 6.93, 13.84),
  ],
)
def test_every_big_array_is_split(decoder, total, eight, four):
  for data, model, most in ((1, 8, eight), (2, 4, four)):
    params = flat(decoder, data, model)
    assert sum(2 * x.size for x in params.values()) / 1e9 == pytest.approx(
      total, abs=0.005
    )
    here = {name: sharding.device_bytes(x) for name, x in params.items()}
    assert sum(here.values()) / 1e9 == pytest.approx(most, abs=0.005)
    heads = zoo.DECODERS[decoder].num_kv_heads
    for name, x in params.items():
      if here[name] * model == 2 * x.size:
        continue
      assert here[name] == 2 * x.size, name
      # What stays whole is small, or has fewer heads than there are devices.
      few = 'kv_einsum' in name and heads % model
      assert few or x.size < 6e6, name


@pytest.mark.parametrize('size', [448, 896])
def test_other_sizes_differ_in_what_stays_whole_only(size):
  small, large = (flat('paligemma2-3b', 2, 4, s) for s in (224, size))
  moved = [
    name
    for name in small
    if sharding.device_bytes(small[name]) != sharding.device_bytes(large[name])
  ]
  assert moved == ['img/pos_embedding']


def test_released_models_lower_for_eight_devices():
  done = child('lower')
  assert len(done) == 2 * len(sharded.LOWERED)
  for name, (eight, axes, shape) in done.items():
    assert eight, name
    assert axes > 0, name
    assert shape == ([8, 256, 1152] if 'encode' in name else [8, 20]), name


def test_devices_exchange_activations_not_parameters():
  done = child('compile')
  rows, slots, width = 8, 256 + 5, 4608
  assert done['encode']['collectives'] == {'all-reduce': rows * 256 * 1152}
  got = done['generate']
  assert got['collectives'].pop('all-reduce') == rows * slots * width
  # Each device's best token and its score.
  assert got['collectives'] == {'all-gather': rows * 8}
  assert got['cache']
  params = bench.abstract_model(
    bench.shallow(zoo.config('paligemma2-28b', 224), 2),
    bench.abstract_mesh(1, 8),
  ).params
  decoder = sum(
    sharding.device_bytes(x) for x in jax.tree.leaves(params['llm'])
  )
  prefix = rows * 256 * width * 4
  assert got['arguments'] == pytest.approx(decoder + prefix, rel=1e-3)


def test_the_table_of_the_documentation():
  page = (ROOT / 'docs/sharding.md').read_text()
  assert '\n'.join(bench.memory()) in page


MESH = bench.abstract_mesh(2, 4)


@pytest.mark.parametrize(
  ('path', 'shape', 'want'),
  [
    ('llm/embedder/input_embedding', (640, 16), ('model', None)),
    ('llm/embedder/input_embedding', (642, 16), (None, None)),
    ('llm/layers/attn/kv_einsum/w', (3, 2, 4, 16, 8), (None, None, 'model')),
    ('llm/layers/attn/kv_einsum/w', (3, 2, 1, 16, 8), (None, None, None)),
    ('llm/layers/mlp/linear', (3, 32, 16), (None, 'model')),
    ('llm/layers/pre_ffw_norm/scale', (3, 16), ()),
    ('img/head/kernel', (16, 24), ()),
  ],
)
def test_rules(path, shape, want):
  want = want[:1] if 'embedding' in path else want
  assert sharding.spec(path, shape, MESH) == PartitionSpec(*want)


@pytest.mark.parametrize(
  ('rules', 'said'),
  [
    ([], r'a/b: no sharding rule is for it'),
    (
      [('a', ('data', None, 'model'))],
      r'got shape \(4, 4\), expected at least',
    ),
    ([('b', ('rows',))], r"the axis 'rows', expected one of \('data', 'model'"),
  ],
)
def test_rules_that_do_not_fit(rules, said):
  with pytest.raises(ValueError, match=said):
    sharding.spec('a/b', (4, 4), MESH, rules)


@pytest.mark.parametrize(
  ('sizes', 'said'),
  [
    ({'data': 0}, 'mesh.data: got 0, expected at least 1'),
    ({'model': -1}, 'mesh.model: got -1, expected at least 1'),
    ({'data': 2.0}, 'mesh.data: got 2.0, expected at least 1'),
    ({'model': True}, 'mesh.model: got True, expected at least 1'),
    ({'data': 999}, r'data=999, model=1, .*device_count=999 makes'),
  ],
)
def test_meshes_that_cannot_be(sizes, said, without_types):
  with pytest.raises(ValueError, match=said):
    sharding.make_mesh(**sizes)
  if not all(type(size) is int for size in sizes.values()):
    return
  config = tradeoff.get_config('mode=smoke')
  config.mesh.update(sizes)
  with pytest.raises(ValueError, match=re.escape('mesh')):
    studies.TradeoffStudy(config).validate()


def test_one_device_needs_no_mesh():
  assert studies.make_mesh(tradeoff.get_config()) is None
  mesh = sharding.make_mesh()
  model = standin.small()
  assert sharding.mesh_of(model.params) is None
  assert sharding.mesh_of(sharding.place(model.params, mesh)) == mesh
  loaded = checkpoints.load(standin.folder(), mesh=mesh)
  assert sharding.mesh_of(loaded.params) is None
  assert sharding.describe(None) == '1 device: mesh 1 x 1'
  assert sharding.padded(5, model.params) == 5
