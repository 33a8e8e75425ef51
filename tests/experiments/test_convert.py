"""The launcher that converts checkpoints, as users start it."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests/golden/pg1_56'


def start(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'collab_jax', 'convert', *map(str, flags)],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )


def test_there_and_back(tmp_path):
  there = start(
    f'--source={GOLDEN}/model.bf16.npz',
    f'--config={GOLDEN}/config_bv.json',
    f'--target={tmp_path}/hf',
    '--to=huggingface',
  )
  assert there.returncode == 0, there.stderr
  assert 'pg1_56 as huggingface' in there.stdout
  back = start(
    f'--source={tmp_path}/hf', f'--target={tmp_path}/back.npz', '--to=npz'
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
    ((f'--source={GOLDEN}/model.npz', '--to=npz'), 'nothing of its dimensions'),
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
  done = start(*flags, f'--target={tmp_path}/x')
  assert done.returncode == 1
  assert said in done.stderr
  assert 'Traceback' not in done.stderr
  assert not list(tmp_path.iterdir())
