"""A killed run resumes, with the quantizer inside of the model."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from collab_jax import (
  checkpoints,
  studies,
)
from collab_jax.quantizers import pretrained
from collab_jax.training import (
  finetune,
  train_loop,
)
from configs import finetune as finetune_config
from tests import launching, standin

# Within a clustering and over cells, so that the codebook moves with both.
LEARNED = tuple(
  f'{name},centroids=ecvq(stages=2,size=4,weight=0.05,beam=2,book=random))'
  for name in ('merge(k=2', 'pool(k=4,n=64')
)
CHANGES = {
  'model': str(standin.folder()),
  'quantizers': LEARNED,
  'text_length': 80,
  'steps': 6,
  'save_every': 2,
  'eval_every': 6,
}


def _lines(folder):
  text = (folder / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_a_killed_run_goes_on(tmp_path, capsys, monkeypatch):
  config = finetune_config.get_config('mode=smoke')
  config.update(CHANGES)
  with config.unlocked():
    del config.compare
  killed, whole = tmp_path / 'trained_through', tmp_path / 'whole'
  first = launching.Launched(
    'experiments/finetune.py',
    '--config=configs/finetune.py:mode=smoke',
    *(f'--config.{name}={value}' for name, value in CHANGES.items()),
    f'--workdir={tmp_path}',
    '--only_train',
  )
  deadline = time.monotonic() + 300
  while not (killed / 'checkpoints' / '2').is_dir():
    assert first.runs(), first.wait().stderr
    assert time.monotonic() < deadline
    time.sleep(0.02)
  ended = first.kill()
  assert ended.returncode == -signal.SIGKILL
  assert 'checkpoint_manager' not in ended.stderr
  assert not (killed / 'model').exists()
  # Where a run was killed before it saved anything, as Orbax leaves it.
  train_loop.open_run(config, whole)
  (whole / 'checkpoints').mkdir()
  config.name = 'another'  # Which changes nothing that was computed.
  save, there = checkpoints.save, []

  def watched(folder, *arguments):
    there.append((folder.parent / 'book.safetensors').exists())
    save(folder, *arguments)

  monkeypatch.setattr(checkpoints, 'save', watched)
  for folder in (killed, whole):
    finetune.finetune(config, standin.small(), folder)
  assert there == [True, True]
  assert 'goes on from step' in capsys.readouterr().out
  assert _lines(killed) == _lines(whole)
  one, other = (checkpoints.load(f / 'model').params for f in (killed, whole))
  jax.tree.map(np.testing.assert_array_equal, one, other)
  one, other = (
    pretrained.load(str(f / 'book.safetensors')) for f in (killed, whole)
  )
  assert one.fingerprint == other.fingerprint
  # What is done is kept, and other settings are not taken for it.
  with config.unlocked():
    config.compare = {}
  before = (killed / 'metrics.jsonl').read_text()
  found = studies.FinetuneStudy(config).train(tmp_path, both=False)
  assert found['trained through'] == str(killed / 'model')
  config.saved = 'float32'
  with pytest.raises(ValueError, match='saved: got float32, expected bfloat16'):
    studies.FinetuneStudy(config).train(tmp_path, both=False)
  assert (killed / 'metrics.jsonl').read_text() == before
