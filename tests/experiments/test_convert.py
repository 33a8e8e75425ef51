"""The launcher that converts checkpoints, as users start it."""

import pathlib

import numpy as np
import pytest

from tests import launching

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests/golden/pg1_56'
CONVERT = '-m', 'collab_jax', 'convert'


def test_there_and_back(tmp_path):
  there = launching.alone(
    *CONVERT,
    f'--source={GOLDEN}/model.bf16.npz',
    f'--config={GOLDEN}/config_bv.json',
    f'--target={tmp_path}/hf',
    '--to=huggingface',
  )
  assert there.returncode == 0, there.stderr
  assert 'pg1_56 as huggingface' in there.stdout
  back = launching.run(
    *CONVERT,
    f'--source={tmp_path}/hf',
    f'--target={tmp_path}/back.npz',
    '--to=npz',
  )
  assert back.returncode == 0, back.stderr
  with (
    np.load(GOLDEN / 'model.bf16.npz') as want,
    np.load(tmp_path / 'back.npz') as got,
  ):
    assert all(want[k].tobytes() == got[k].tobytes() for k in want.files)


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (('--source=nowhere.npz', '--to=npz'), 'no such checkpoint: nowhere.npz'),
    ((f'--source={GOLDEN}/model.npz', '--to=npz'), 'has no dimensions'),
    (
      (
        f'--source={GOLDEN}/model.npz',
        '--model=paligemma-3b-mix-224',
        '--to=npz',
      ),
      'expected (27, 1152)',
    ),
  ],
)
def test_errors_are_short(tmp_path, flags, said):
  done = launching.run(*CONVERT, *flags, f'--target={tmp_path}/x')
  assert done.returncode == 1
  assert said in done.stderr
  assert 'Traceback' not in done.stderr
  assert not list(tmp_path.iterdir())
