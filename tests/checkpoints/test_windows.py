"""Parts of arrays, as each of several processes reads them."""

import numpy as np
import pytest

from collab_jax import checkpoints
from collab_jax.checkpoints import formats, npz
from collab_jax.models import paligemma
from tests.checkpoints.released import FOLDERS, GOLDEN, MODELS, config_of


def windows(shape):
  """Yields the whole, and halves of each axis of an even length."""
  whole = tuple(slice(0, n) for n in shape)
  yield whole
  for axis, length in enumerate(shape):
    if length % 2 == 0:
      for half in (slice(0, length // 2), slice(length // 2, length)):
        yield (*whole[:axis], half, *whole[axis + 1 :])


def assert_windows_are_slices(entries):
  cut = 0
  for name, entry in entries.items():
    assert entry.window is not None, name
    whole = np.empty(entry.shape, entry.dtype)
    entry.fill(whole)
    for window in windows(entry.shape):
      part = entry.window(window)
      assert part.dtype == entry.dtype
      np.testing.assert_array_equal(
        part.view(np.uint8), whole[window].copy().view(np.uint8), name
      )
      cut += part.size < whole.size
  assert cut > len(entries)


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('folder', FOLDERS)
def test_tensors_of_hugging_face_are_read_in_parts(model, folder):
  source = formats.find(GOLDEN / model / folder)
  with source.open(config_of(model), None) as entries:
    assert_windows_are_slices(entries)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_arrays_of_an_npz_are_read_in_parts(tmp_path, dtype):
  model = checkpoints.load('tiny', dtype=dtype)
  npz.save_npz(tmp_path / 'model.npz', model.params)
  with npz.open_npz(tmp_path / 'model.npz') as entries:
    assert entries.keys() == dict(paligemma_names(model)).keys()
    assert_windows_are_slices(entries)


def paligemma_names(model):
  flat = checkpoints.trees.flatten(paligemma.shapes(model.config))
  return flat.items()


def test_compressed_and_transposed_arrays_are_read_as_a_whole(tmp_path):
  path = tmp_path / 'model.npz'
  np.savez_compressed(path, a=np.zeros((2, 3), np.float32))
  with npz.open_npz(path) as entries:
    assert entries['a'].window is None
  np.savez(path, a=np.asfortranarray(np.zeros((2, 3), np.float32)))
  with npz.open_npz(path) as entries:
    assert entries['a'].window is None


def test_a_part_that_is_not_finite_is_refused(tmp_path):
  table = np.ones((4, 2), np.float32)
  table[3, 1] = np.nan
  np.savez(tmp_path / 'model.npz', a=table)

  def put(name, shape, read):
    del name, shape
    return read((slice(0, 2), slice(0, 2))), read

  with npz.open_npz(tmp_path / 'model.npz') as entries:
    tree = checkpoints.trees.read(entries, None, 'model.npz', put_windows=put)
    first, read = tree['a']
    np.testing.assert_array_equal(first, table[:2])
    with pytest.raises(checkpoints.CheckpointError, match='got nan'):
      read((slice(2, 4), slice(0, 2)))
