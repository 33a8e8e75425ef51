"""big_vision's npz layout: round trip, and every way a file can be wrong."""

import pathlib
import pickle
import zipfile

import jax
from jax import numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from collab_jax.checkpoints import npz, trees

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
DTYPES = {
  'model.npz': np.float32,
  'model.f16.npz': np.float16,
  'model.bf16.npz': ml_dtypes.bfloat16,
}


def tree(dtype=np.float32, seed=0):
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.standard_normal(shape).astype(dtype)

  return {
    'img': {'head': {'kernel': draw(4, 3), 'bias': draw(3)}},
    'llm': {'layers': {'mlp': {'linear': draw(2, 5, 3)}}, 'scale': draw()},
  }


def assert_same(got, want):
  got, want = trees.flatten(got), trees.flatten(want)
  assert list(got) == list(want)
  for name in want:
    assert got[name].dtype == want[name].dtype, name
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize('dtype', DTYPES.values())
@pytest.mark.parametrize('prefix', npz.PREFIXES)
def test_round_trip_is_exact(tmp_path, dtype, prefix):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, tree(dtype), prefix)
  assert_same(npz.load_npz(path, tree(dtype)), tree(dtype))
  assert_same(npz.load_npz(path), tree(dtype))


def test_device_arrays_are_saved(tmp_path):
  path = tmp_path / 'model.npz'
  want = tree(ml_dtypes.bfloat16)
  npz.save_npz(path, jax.tree.map(jnp.asarray, want))
  assert_same(npz.load_npz(path, want), want)


def test_bfloat16_is_stored_as_void(tmp_path):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, tree(ml_dtypes.bfloat16))
  with np.load(path) as file:
    assert {file[name].dtype for name in file.files} == {np.dtype('V2')}
    assert all(name.startswith('params/') for name in file.files)


def test_same_parameters_give_the_same_bytes(tmp_path):
  one, two = tmp_path / 'one.npz', tmp_path / 'two.npz'
  params = tree()
  npz.save_npz(one, params)
  npz.save_npz(two, dict(reversed(params.items())))
  assert one.read_bytes() == two.read_bytes()
  assert sorted(p.name for p in tmp_path.iterdir()) == ['one.npz', 'two.npz']


@pytest.mark.parametrize('model', ['pg1_56', 'pg2_56'])
@pytest.mark.parametrize('name', DTYPES)
def test_reads_and_rewrites_the_released_layout(tmp_path, model, name):
  path = GOLDEN / model / name
  params = npz.load_npz(path)
  assert set(params) == {'img', 'llm'}
  assert {p.dtype for p in jax.tree.leaves(params)} == {np.dtype(DTYPES[name])}
  npz.save_npz(tmp_path / name, params)
  with np.load(path) as want, np.load(tmp_path / name) as got:
    assert sorted(want.files) == sorted(got.files)
    assert all(want[k].tobytes() == got[k].tobytes() for k in want.files)


def test_bfloat16_is_the_rounded_float32():
  params = npz.load_npz(GOLDEN / 'pg1_56/model.npz', dtype='bfloat16')
  assert_same(params, npz.load_npz(GOLDEN / 'pg1_56/model.bf16.npz'))


def test_dtype_converts_floats_only(tmp_path):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, {'w': np.ones(2, ml_dtypes.bfloat16), 'i': np.arange(3)})
  params = npz.load_npz(path, dtype='float32')
  assert params['w'].dtype == np.float32
  assert params['i'].dtype == np.arange(3).dtype


def test_training_state_gives_its_target(tmp_path):
  path = tmp_path / 'state.npz'
  state = {f'opt/target/{k}': v for k, v in trees.flatten(tree()).items()}
  np.savez(path, **state, **{'opt/state/step': np.array(3)})
  assert_same(npz.load_npz(path, tree()), tree())


def test_compressed_files_are_read(tmp_path):
  path = tmp_path / 'model.npz'
  np.savez_compressed(path, w=np.zeros((300, 300), np.float32))
  assert npz.load_npz(path)['w'].shape == (300, 300)


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError):
    npz.load_npz(tmp_path / 'none.npz')


@pytest.mark.parametrize(
  'data', [b'', b'version https://git-lfs', b'\x93NUMPY']
)
def test_not_a_zip(tmp_path, data):
  path = tmp_path / 'model.npz'
  path.write_bytes(data)
  with pytest.raises(trees.CheckpointError, match='is not an npz file'):
    npz.load_npz(path)


def test_truncated_at_any_length(tmp_path):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, tree())
  data = path.read_bytes()
  for length in range(4, len(data), 37):
    path.write_bytes(data[:length])
    with pytest.raises(trees.CheckpointError, match='truncated'):
      npz.load_npz(path)


def test_damaged_bytes_are_found(tmp_path):
  path = tmp_path / 'model.npz'
  params = {'w': np.arange(4096, dtype=np.float32)}
  npz.save_npz(path, params)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)
  with pytest.raises(trees.CheckpointError, match='damaged'):
    npz.load_npz(path, params)


def test_flipped_bytes_never_crash(tmp_path):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, tree())
  data, rng = path.read_bytes(), np.random.default_rng(0)
  for _ in range(300):
    broken = bytearray(data)
    for at in rng.integers(len(data), size=3):
      broken[at] = rng.integers(256)
    path.write_bytes(broken)
    try:
      got = npz.load_npz(path, tree())
    except trees.CheckpointError:
      continue
    # A zip has bytes that mean nothing: dates, versions, attributes.
    assert_same(got, tree())


def test_missing_arrays_are_named(tmp_path):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, {'img': tree()['img']})
  with pytest.raises(trees.CheckpointError) as error:
    npz.load_npz(path, tree())
  assert '2 of 4 arrays differ' in str(error.value)
  assert 'llm/scale: got nothing, expected ()' in str(error.value)


def test_unexpected_arrays_are_named(tmp_path):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, tree())
  with pytest.raises(
    trees.CheckpointError, match=r'llm/scale: got .*, expected n'
  ):
    npz.load_npz(path, {'img': tree()['img']})


def test_first_five_wrong_shapes_are_named(tmp_path):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, {f'w{i}': np.zeros(2) for i in range(8)})
  want = {f'w{i}': jax.ShapeDtypeStruct((3, 1), np.float32) for i in range(8)}
  with pytest.raises(trees.CheckpointError) as error:
    npz.load_npz(path, want)
  lines = str(error.value).splitlines()
  assert lines[1].strip() == 'w0: got (2,), expected (3, 1)'
  assert lines[-1].strip() == 'and 3 more'
  assert len(lines) == 7


def test_pickles_are_refused(tmp_path):
  class Bomb:
    def __reduce__(self):
      return pathlib.Path.touch, (tmp_path / 'exploded',)

  path = tmp_path / 'model.npz'
  bomb = np.array([Bomb()], dtype=object)
  assert pickle.dumps(bomb)
  np.savez(path, allow_pickle=True, w=bomb)
  with pytest.raises(trees.CheckpointError, match='pickled'):
    npz.load_npz(path)
  assert not (tmp_path / 'exploded').exists()


def test_text_is_refused(tmp_path):
  path = tmp_path / 'model.npz'
  np.savez(path, w=np.array(['text']))
  with pytest.raises(trees.CheckpointError, match='expected numbers'):
    npz.load_npz(path)


def test_claimed_size_is_checked_before_it_is_allocated(tmp_path):
  path = tmp_path / 'model.npz'
  with zipfile.ZipFile(path, 'w') as archive, archive.open('w.npy', 'w') as f:
    np.lib.format.write_array_header_1_0(
      f, {'descr': '<f4', 'fortran_order': False, 'shape': (1 << 40, 1 << 40)}
    )
  with pytest.raises(trees.CheckpointError, match='are stored'):
    npz.load_npz(path)


def test_member_that_is_no_array(tmp_path):
  path = tmp_path / 'model.npz'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('w.npy', b'hello')
  with pytest.raises(trees.CheckpointError, match='w is not a NumPy array'):
    npz.load_npz(path)


def test_empty_archive(tmp_path):
  path = tmp_path / 'model.npz'
  np.savez(path)
  with pytest.raises(trees.CheckpointError):
    npz.load_npz(path)


def test_unflatten_inverts_flatten():
  assert_same(trees.unflatten(trees.flatten(tree())), tree())


@pytest.mark.parametrize('names', [('a', 'a/b'), ('a/b', 'a')])
def test_array_and_folder_of_one_name(names):
  with pytest.raises(trees.CheckpointError, match='folder'):
    trees.unflatten(dict.fromkeys(names, 0))


@pytest.mark.parametrize('dtype', ['>f4', '>f2', np.longdouble])
def test_any_byte_order_and_size(tmp_path, dtype):
  path = tmp_path / 'model.npz'
  want = {'w': np.arange(6, dtype=np.float16).reshape(2, 3)}
  for order in 'CF':
    np.savez(path, w=want['w'].astype(dtype, order=order))
    got = npz.load_npz(path)['w']
    assert got.dtype.isnative
    assert got.itemsize <= 8
    np.testing.assert_array_equal(jnp.asarray(got), want['w'])
    assert_same(npz.load_npz(path, dtype='float16'), want)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_array_that_is_there_twice(tmp_path):
  path = tmp_path / 'model.npz'
  npz.save_npz(path, tree())
  with zipfile.ZipFile(path, 'a') as archive:
    name = 'params/img/head/bias.npy'
    archive.writestr(name, archive.read(name))
  with pytest.raises(trees.CheckpointError, match='holds params/img/head/bias'):
    npz.load_npz(path)
