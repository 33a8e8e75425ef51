"""Other layouts of npz files, and parts that are not read."""

import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest

from collab_jax.checkpoints import npz, trees
from tests.checkpoints.released import GOLDEN, assert_same

DTYPES = {
  'model.npz': np.float32,
  'model.f16.npz': np.float16,
  'model.bf16.npz': ml_dtypes.bfloat16,
}


def unstacked(params):
  """The released layout with the encoder's layers one by one."""
  flat = {}
  for name, array in trees.flatten(params, 'params/').items():
    head, found, tail = name.partition('/encoderblock/')
    if found:
      flat |= {
        f'{head}/encoderblock_{i}/{tail}': row for i, row in enumerate(array)
      }
    else:
      flat[name] = array
  return flat


def void(array):
  return array.view('V2') if array.dtype == ml_dtypes.bfloat16 else array


def write(path, flat):
  np.savez(path, **{name: void(array) for name, array in flat.items()})


@pytest.mark.parametrize('name', DTYPES)
def test_layers_one_by_one_are_stacked(tmp_path, name):
  want = npz.load_npz(GOLDEN / 'pg1_56' / name)
  write(tmp_path / 'model.npz', unstacked(want))
  assert_same(npz.load_npz(tmp_path / 'model.npz', want), want)


def test_a_missing_layer_is_named(tmp_path):
  flat = unstacked(npz.load_npz(GOLDEN / 'pg1_56/model.npz'))
  kept = {k: v for k, v in flat.items() if 'encoderblock_1/' not in k}
  write(tmp_path / 'model.npz', kept)
  with pytest.raises(trees.CheckpointError, match='layer 1 of 3 is missing'):
    npz.load_npz(tmp_path / 'model.npz')


def test_a_layer_of_another_shape_is_named(tmp_path):
  flat = unstacked(npz.load_npz(GOLDEN / 'pg1_56/model.npz'))
  name = 'params/img/Transformer/encoderblock_2/LayerNorm_0/bias'
  write(tmp_path / 'model.npz', flat | {name: np.zeros(3, np.float32)})
  with pytest.raises(trees.CheckpointError, match=r'layer 2: got \(3,\)'):
    npz.load_npz(tmp_path / 'model.npz')


def test_layers_stacked_and_one_by_one(tmp_path):
  params = npz.load_npz(GOLDEN / 'pg1_56/model.npz')
  both = unstacked(params) | trees.flatten(params, 'params/')
  write(tmp_path / 'model.npz', both)
  with pytest.raises(trees.CheckpointError, match='layer by layer'):
    npz.load_npz(tmp_path / 'model.npz')


def test_layers_of_two_dtypes_take_the_wider(tmp_path):
  path = tmp_path / 'model.npz'
  rows = [np.ones(2, np.float16), np.ones(2, np.float32)]
  write(path, {f'img/encoderblock_{i}/w': r for i, r in enumerate(rows)})
  w = npz.load_npz(path)['img']['encoderblock']['w']
  assert (w.shape, w.dtype) == ((2, 2), np.float32)


@pytest.mark.parametrize('dtype', DTYPES.values())
def test_fewer_rows_of_the_vocabulary_are_filled_up(tmp_path, caplog, dtype):
  rng = np.random.default_rng(0)
  table = rng.standard_normal((300, 8)).astype(dtype)
  npz.save_npz(tmp_path / 'model.npz', trees.unflatten({trees.TABLE: table}))
  want = trees.unflatten(
    {trees.TABLE: jax.ShapeDtypeStruct((900, 8), np.float32)}
  )
  got, again = (
    npz.load_npz(tmp_path / 'model.npz', want)['llm']['embedder'][
      'input_embedding'
    ]
    for _ in range(2)
  )
  assert (got.shape, got.dtype) == ((900, 8), table.dtype)
  np.testing.assert_array_equal(got[:300], table)
  np.testing.assert_array_equal(got, again)
  assert 0.018 < got[300:].astype(np.float32).std() < 0.022


@pytest.mark.parametrize('shape', [(1000, 8), (300, 9), (300,), (0, 8)])
def test_no_other_table_is_filled_up(tmp_path, shape):
  path = tmp_path / 'model.npz'
  table = np.zeros(shape, np.float32)
  npz.save_npz(path, trees.unflatten({trees.TABLE: table}))
  want = trees.unflatten(
    {trees.TABLE: jax.ShapeDtypeStruct((900, 8), np.float32)}
  )
  with pytest.raises(trees.CheckpointError, match=r'expected \(900, 8\)'):
    npz.load_npz(path, want)


@pytest.mark.parametrize('order', 'CF')
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', None])
def test_any_order_and_more_than_one_block(tmp_path, monkeypatch, order, dtype):
  monkeypatch.setattr(npz, '_BLOCK', 7)
  array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
  np.savez(tmp_path / 'model.npz', w=np.asarray(array, order=order))
  got = npz.load_npz(tmp_path / 'model.npz', dtype=dtype)['w']
  assert got.dtype == np.dtype(dtype or 'float32')
  np.testing.assert_array_equal(got.astype(np.float32), array)


def test_numbers_of_the_wrong_kind_are_named(tmp_path):
  path = tmp_path / 'model.npz'
  want = {'img': {'head': {'bias': np.zeros(3, np.float32)}}}
  npz.save_npz(path, {'img': {'head': {'bias': np.arange(3)}}})
  with pytest.raises(
    trees.CheckpointError,
    match='img/head/bias: got int64, expected floating-point numbers',
  ):
    npz.load_npz(path, want)


@pytest.mark.parametrize('part', trees.PARTS)
def test_nothing_of_the_other_part_is_read(monkeypatch, part):
  opened = []
  real = zipfile.ZipFile.open

  def spy(self, info, *args, **kw):
    opened.append(getattr(info, 'filename', info))
    return real(self, info, *args, **kw)

  monkeypatch.setattr(zipfile.ZipFile, 'open', spy)
  params = npz.load_npz(GOLDEN / 'pg1_56/model.npz', part=part)
  names = {name.removeprefix('params/') for name in opened}
  assert names == {f'{name}.npy' for name in trees.flatten(params)}
  assert all(name.startswith(trees.PARTS[part]) for name in names)
  assert set(params) == {'edge': {'img'}}.get(part, {'img', 'llm'})


def test_damage_to_the_other_tower_goes_unseen(tmp_path):
  """Its bytes are not looked at, not even for their checksum."""
  data = bytearray((GOLDEN / 'pg1_56/model.npz').read_bytes())
  with zipfile.ZipFile(GOLDEN / 'pg1_56/model.npz') as archive:
    for info in archive.infolist():
      if info.filename.startswith('params/llm/'):
        end = info.header_offset + 30 + len(info.filename) + info.file_size
        data[end - 200 : end] = bytes(200)
  path = tmp_path / 'model.npz'
  path.write_bytes(data)
  npz.load_npz(path, part='edge')
  with pytest.raises(trees.CheckpointError, match='damaged'):
    npz.load_npz(path, part='server')


def test_unknown_part():
  with pytest.raises(ValueError, match="got 'llm', expected one of"):
    npz.load_npz(GOLDEN / 'pg1_56/model.npz', part='llm')


def test_memory_is_aligned_so_that_jax_need_not_copy():
  for size in (1, 63, 1000):
    array = trees.empty((size, 3), ml_dtypes.bfloat16)
    assert array.ctypes.data % 64 == 0
    assert (array.shape, array.flags.c_contiguous) == ((size, 3), True)
