"""The comparison of formats tells what is equal from what is not."""

import json
import shutil

import numpy as np
from safetensors import numpy as st

from benchmarks import formats, parity
from collab_jax.checkpoints import shards
from tests.checkpoints.released import GOLDEN


def test_steps_after_another_token_do_not_count():
  recorded = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
  ours = np.array([[1, 2, 3, 4], [1, 9, 3, 4]])
  np.testing.assert_array_equal(
    formats.followed(ours, recorded),
    [[True] * 4, [True, True, False, False]],
  )


def test_same_is_names_dtypes_shapes_and_bytes():
  tree = {'a': {'b': np.zeros((2, 1), np.float32)}}
  assert formats.same(tree, {'a': {'b': np.zeros((2, 1), np.float32)}})
  for other in (
    np.zeros((2, 1), np.int32),
    np.zeros((1, 2), np.float32),
    np.float32([[0], [-0.0]]),
  ):
    assert not formats.same(tree, {'a': {'b': other}})
  assert not formats.same(tree, {'a': {'c': tree['a']['b']}})


def test_other_files_are_told():
  npz = GOLDEN / 'pg1_56/model.npz'
  assert formats.same_npz(npz, npz)
  assert not formats.same_npz(GOLDEN / 'pg1_56/model.f16.npz', npz)


def test_folders_are_the_same_but_for_spelling_and_padding(tmp_path):
  theirs = GOLDEN / 'pg1_56/hf_old_sharded'
  ours = shutil.copytree(GOLDEN / 'pg1_56/hf_saved', tmp_path / 'ours')
  path = ours / shards.SINGLE
  tensors = st.load_file(path)
  table = next(k for k in tensors if k.endswith('embed_tokens.weight'))
  for row, alike in ((-1, True), (511, False)):
    tensors[table][row] = 0
    st.save_file(tensors, path)
    assert formats.same_folder(ours, theirs) == alike


def test_tokens_that_part_are_told():
  golden = parity.load_golden('pg1_56')
  assert formats.tokens_of(golden, golden) == ('identical', [])
  ours = {k: v.copy() for k, v in golden.items()}
  ours['rep/tokens'][1, 5:] += 1
  ours['rep/step_logits_capped'][1, 5] += 0.25
  ours['rep/step_logits'][1, 6:] = np.nan
  shown, (line,) = formats.tokens_of(ours, golden)
  assert shown == '11 of 12 rows'
  assert 'rep row 1 step 5' in line
  assert line.endswith('off by up to 0.250')
  diffs = formats.differences(ours, golden)
  assert diffs['rep/step_logits'] == 0
  assert abs(diffs['rep/step_logits_capped'] - 0.25) < 1e-5


def test_every_recorded_array_is_in_a_group():
  for model in parity.MODELS:
    for array in parity.computed(parity.load_golden(model)):
      assert array.startswith(tuple(f'{g}/' for g in formats.GROUPS))


def test_folders_say_the_window_that_big_vision_lacks():
  """Comparison with big_vision in the first table uses a window of 4096."""
  for source in ('hf_new', 'hf_saved'):
    path = GOLDEN / 'pg2_56' / source / 'config.json'
    assert json.loads(path.read_text())['text_config']['sliding_window'] == 4096
    assert formats.load('pg2_56', source).config.text.window == 4096
