"""Faults of Hugging Face folders, and their errors."""

import json

import numpy as np
import pytest
from safetensors import numpy as st

from collab_jax import checkpoints
from collab_jax.checkpoints import shards, trees
from tests.checkpoints.released import SHARD, edit_config


def test_missing_shard_is_named(copy):
  folder = copy('hf_old_sharded')
  (folder / SHARD.format(2)).unlink()
  with pytest.raises(
    trees.CheckpointError,
    match=r'index\.json names model-00002-of-00003\.safetensors, of which',
  ):
    checkpoints.load(folder)


def test_index_naming_a_file_that_never_was(copy):
  folder = copy('hf_old_sharded')
  index = json.loads((folder / shards.INDEX).read_text())
  name = next(iter(index['weight_map']))
  index['weight_map'][name] = 'model-00004-of-00003.safetensors'
  (folder / shards.INDEX).write_text(json.dumps(index))
  with pytest.raises(trees.CheckpointError, match='model-00004-of-00003'):
    checkpoints.load(folder)


@pytest.mark.parametrize(
  'file', ['../other.safetensors', '/etc/passwd', 3, '..', '', 'a' * 300]
)
def test_index_cannot_leave_the_folder(copy, file):
  folder = copy('hf_old_sharded')
  index = {'weight_map': {'model.vision_tower.x': file}}
  (folder / shards.INDEX).write_text(json.dumps(index))
  with pytest.raises(trees.CheckpointError, match='expected one beside it'):
    checkpoints.load(folder)


def test_index_of_another_checkpoint(copy):
  folder = copy('hf_old_sharded')
  index = json.loads((folder / shards.INDEX).read_text())
  index['weight_map']['vision_tower.other'] = SHARD.format(2)
  (folder / shards.INDEX).write_text(json.dumps(index))
  with pytest.raises(
    trees.CheckpointError, match='is not in model-00002-of-00003'
  ):
    checkpoints.load(folder)


@pytest.mark.parametrize('name', ['config.json', shards.INDEX])
@pytest.mark.parametrize('text', ['{"a": 1', '', '[1]', '\x00'])
def test_bad_json_is_named(copy, name, text):
  folder = copy('hf_old_sharded')
  (folder / name).write_text(text)
  with pytest.raises(trees.CheckpointError, match=name.replace('.', r'\.')):
    checkpoints.load(folder)


def test_index_without_a_map(copy):
  folder = copy('hf_old_sharded')
  (folder / shards.INDEX).write_text('{}')
  with pytest.raises(trees.CheckpointError, match='no weight_map'):
    checkpoints.load(folder)


def test_no_config(copy):
  folder = copy()
  (folder / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'config\.json is missing'):
    checkpoints.load(folder)


@pytest.mark.parametrize('length', [0, 7, 8, 300, 4000, 100_000, 600_343])
def test_truncated_file_is_named(copy, length):
  folder = copy()
  path = folder / shards.SINGLE
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(
    trees.CheckpointError, match=r'model\.safetensors is truncated, damaged'
  ):
    checkpoints.load(folder)


@pytest.mark.parametrize(
  'data',
  [
    b'version https://git-lfs.github.com/spec/v1\noid sha256:1234\n',
    b'PK\x03\x04' + bytes(100),
    b'\xff' * 100,
    b'\x10' + bytes(7) + b'{"a": {"dtype": ',
  ],
)
def test_not_safetensors(copy, data):
  folder = copy()
  (folder / shards.SINGLE).write_bytes(data)
  with pytest.raises(trees.CheckpointError, match='not a safetensors file'):
    checkpoints.load(folder)


def test_flipped_header_bytes_never_crash(copy):
  folder = copy()
  path = folder / shards.SINGLE
  data, rng = path.read_bytes(), np.random.default_rng(0)
  end = 8 + int.from_bytes(data[:8], 'little')
  for _ in range(40):
    broken = bytearray(data)
    for at in rng.integers(end, size=3):
      broken[at] = rng.integers(256)
    path.write_bytes(broken)
    try:
      checkpoints.load(folder)
    except trees.CheckpointError:
      continue


def spoil(folder, change):
  tensors = st.load_file(folder / shards.SINGLE)
  change(tensors)
  st.save_file(tensors, folder / shards.SINGLE)


NORM = 'model.language_model.norm.weight'


@pytest.mark.parametrize(
  ('change', 'fault'),
  [
    (
      lambda t: t.pop(NORM),
      'language_model.norm.weight: got nothing, expected (48,)',
    ),
    (
      lambda t: t.update({NORM: np.zeros(47, np.float32)}),
      'language_model.norm.weight: got (47,), expected (48,)',
    ),
    (
      lambda t: t.update({NORM: np.zeros(48, np.int32)}),
      'language_model.norm.weight: got int32, expected floating-point numbers',
    ),
    (
      lambda t: t.update({'model.lora.weight': np.zeros(2, np.float32)}),
      'lora.weight: got (2,), expected nothing',
    ),
  ],
  ids=['missing', 'dims', 'dtype', 'extra'],
)
def test_wrong_tensors_are_named(copy, change, fault):
  folder = copy()
  spoil(folder, change)
  with pytest.raises(trees.CheckpointError) as error:
    checkpoints.load(folder)
  assert str(error.value) == f'{folder} does not fit the config: {fault}'


def test_first_five_are_listed(copy):
  folder = copy()
  edit_config(folder, lambda d: d['vision_config'].update(hidden_size=36))
  with pytest.raises(trees.CheckpointError) as error:
    checkpoints.load(folder)
  lines = str(error.value).splitlines()
  assert len(lines) == 7
  assert lines[1].endswith('got (48, 32), expected (48, 36)')
  assert lines[-1].strip().startswith('and ')


def test_dtype_without_a_counterpart(copy):
  folder = copy()
  spoil(folder, lambda t: t.update({NORM: np.zeros(48, np.uint16)}))
  with pytest.raises(trees.CheckpointError, match='is stored as U16'):
    checkpoints.load(folder)


def test_tensor_that_is_there_twice(copy):
  folder = copy()
  spoil(folder, lambda t: t.update({NORM.removeprefix('model.'): t[NORM]}))
  with pytest.raises(trees.CheckpointError, match='is a duplicate'):
    checkpoints.load(folder)
