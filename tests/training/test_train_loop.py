"""Checkpoints that can no longer be read, and folders with two runs."""

from collections.abc import Iterator
import fcntl
import pathlib
import shutil
from typing import Any

import flax
import jax
from jax import numpy as jnp
import ml_collections
import numpy as np
import pytest

from collab_jax import checkpoints, distributed, jsonl, training
from collab_jax.training import codebooks, finetune, train_loop
from configs import codebook, train_tiny
from configs import finetune as finetune_config
from tests import standin

CONFIG = ml_collections.ConfigDict(
  {'steps': 6, 'log_every': 1, 'save_every': 2}
)


@flax.struct.dataclass
class _State:
  """Sum of the batches so far."""

  sums: jax.Array
  step: jax.Array


def _step(state, steps_done, batch):
  del steps_done
  loss = {'loss': jnp.sum(state.sums)}
  return _State(state.sums + batch, state.step + 1), loss


def _stream(first: int) -> Iterator[Any]:
  while True:
    yield jnp.float32(first)
    first += 1


def _run(folder: pathlib.Path) -> _State:
  state = _State(jnp.zeros(1000), jnp.zeros((), jnp.int32))
  return train_loop.run(CONFIG, folder, state, _step, _stream, lambda *_: [])


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  np.testing.assert_array_equal(_run(folder).sums, np.full(1000, 15))
  return folder


def _empty(checkpoint):
  shutil.rmtree(checkpoint)
  checkpoint.mkdir()


def _cut(name):
  def cut(checkpoint):
    for path in checkpoint.glob(name):
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

  return cut


def _overwrite(name):
  def overwrite(checkpoint):
    for path in checkpoint.glob(name):
      path.write_bytes(b'\xff' * 50)

  return overwrite


DAMAGES = {
  'empty folder': _empty,
  'no arrays': lambda checkpoint: shutil.rmtree(checkpoint / 'default'),
  'no data': lambda checkpoint: shutil.rmtree(checkpoint / 'default' / 'd'),
  'cut data': _cut('default/d/*'),
  'cut metadata': _cut('default/_METADATA'),
  'no text': _overwrite('default/_METADATA'),
  'no manifest': _overwrite('default/manifest.ocdbt'),
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_taken(
  done, tmp_path, damage, capsys
):
  folder = tmp_path / 'run'
  shutil.copytree(done, folder)
  lines = (folder / 'metrics.jsonl').read_text()
  damage(folder / 'checkpoints' / '6')
  np.testing.assert_array_equal(_run(folder).sums, np.full(1000, 15))
  assert (folder / 'metrics.jsonl').read_text() == lines
  out = capsys.readouterr().out
  assert '6 cannot be read' in out
  assert 'goes on from step 4' in out
  # Kept for whoever wants to look, and made anew.
  assert (folder / 'damaged_checkpoint_6').is_dir()
  assert sorted(p.name for p in (folder / 'checkpoints').iterdir()) == [
    '4',
    '6',
  ]
  np.testing.assert_array_equal(_run(folder).sums, np.full(1000, 15))
  assert 'goes on from step 6' in capsys.readouterr().out


def test_no_checkpoint_that_can_be_read_is_one_line(done, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(done, folder)
  for step in (4, 6):
    _empty(folder / 'checkpoints' / str(step))
  with pytest.raises(
    checkpoints.CheckpointError, match='none of the checkpoints of steps 6, 4'
  ):
    _run(folder)
  # Nothing is moved: another version may read them.
  assert not list(folder.glob('damaged*'))


@pytest.mark.parametrize('line', ['{"loss": 1}', '3', '{"step": "a"}', 'x'])
def test_damaged_metrics_are_named(done, tmp_path, line):
  folder = tmp_path / 'run'
  shutil.copytree(done, folder)
  path = folder / 'metrics.jsonl'
  path.write_text(line + '\n' + path.read_text())
  before = path.read_bytes()
  with pytest.raises(ValueError, match=r'metrics\.jsonl:1: got'):
    _run(folder)
  assert path.read_bytes() == before


def _train(folder):
  training.train(train_tiny.get_config('mode=smoke'), folder)


def _finetune(folder):
  config = finetune_config.get_config('mode=smoke')
  config.text_length = 80  # The stand-in's words are short.
  config.quantizers = ('merge(k=2)',)
  with config.unlocked():
    del config.compare
  finetune.finetune(config, standin.small(), folder)


def _train_codebook(folder):
  config = codebook.get_config('mode=smoke')
  codebooks.train(config, standin.small(), [], folder)


@pytest.mark.parametrize('begin', [_train, _finetune, _train_codebook])
def test_a_folder_with_a_run_in_it_is_refused(tmp_path, begin):
  # Another process, which is what a second open file is to flock.
  with jsonl.locked(tmp_path):
    with pytest.raises(BlockingIOError, match='another run is writing to'):
      begin(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['run.lock']


def test_the_lock_ends_with_the_run(tmp_path):
  with jsonl.locked(tmp_path):
    pass
  with open(tmp_path / 'run.lock', 'rb') as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_process_0_says_whether_there_is_a_checkpoint(tmp_path, monkeypatch):
  """Another may look for it when the folder of this run is there already."""
  (tmp_path / 'checkpoints').mkdir()
  monkeypatch.setattr(distributed, 'broadcast', lambda value: False)
  monkeypatch.setattr(train_loop, '_manager', None)
  assert not train_loop.has_checkpoint(tmp_path)
