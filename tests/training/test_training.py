"""Training of the tiny model: examples, steps, resuming after a kill."""

import json
import signal
import time

import jax
import ml_collections
import numpy as np
import pytest

from collab_jax import checkpoints, training
from collab_jax.data import world
from collab_jax.models import paligemma
from collab_jax.training import (
  batches,
  losses,
  pretrain_step,
  train_loop,
)
from configs import train_tiny
from tests import launching

CONFIG = train_tiny.get_config('mode=smoke')


@pytest.fixture(scope='module')
def source():
  return batches.TrainingExamples(
    training.make_tokenizer(CONFIG), CONFIG.prompt, CONFIG.text_length, 8, 0.5
  )


def as_text(source, caption, cut=False):
  return batches.text(
    source.tokenizer, CONFIG.prompt, caption, CONFIG.text_length, cut
  )


def test_vocabulary_spells_words(source):
  pieces = source.tokenizer.pieces('a small red star on grass')
  assert [p.strip('▁') for p in pieces] == [
    'a',
    'small',
    'red',
    'star',
    'on',
    'grass',
  ]
  assert len(source.tokenizer.prompt(CONFIG.prompt)) == 4


def test_every_scene_fits(source):
  for index in range(300):
    assert source[index]['tokens'].shape == (CONFIG.text_length,)


def test_masks_mark_the_suffix(source):
  text = as_text(source, 'a red star')
  prompt = source.tokenizer.prompt(CONFIG.prompt)
  suffix = [*source.tokenizer.encode('a red star'), source.tokenizer.eos_id]
  tokens = text['tokens'].tolist()
  assert tokens[: len(prompt)] == prompt
  assert text['mask_ar'].tolist() == [0] * len(prompt) + [1] * (
    CONFIG.text_length - len(prompt)
  )
  kept = [t for t, m in zip(tokens, text['mask_loss'], strict=True) if m]
  assert kept == suffix


def test_long_captions_are_refused(source):
  with pytest.raises(ValueError, match='text_length is 40'):
    as_text(source, 'a red star ' * 20)
  cut = as_text(source, 'a red star ' * 20, True)
  prompt = len(source.tokenizer.prompt(CONFIG.prompt))
  assert cut['mask_loss'].tolist() == [0] * prompt + [1] * (40 - prompt)
  assert source.tokenizer.eos_id not in cut['tokens']


def test_first_examples_are_dense(source):
  assert all(source[i]['object'].max() >= 5 for i in range(8))
  later = [source[i]['object'].max() > world.MENTIONED for i in range(8, 108)]
  assert 35 <= sum(later) <= 65


def test_batches_do_not_depend_on_where_they_start(source):
  stream = batches.batches(source, 4, 0)
  third = [next(stream) for _ in range(3)][2]
  again = next(batches.batches(source, 4, 2))
  for name, value in third.items():
    np.testing.assert_array_equal(value, again[name])


def test_labels_weigh_objects_more():
  heads = losses.init_heads(jax.random.key(0), 4)
  features = jax.random.normal(jax.random.key(1), (1, 2, 4))
  batch = {n: np.array([[[0, 1]]]) for n in losses.LABELS}
  found = losses.label_losses(heads, features, batch)['shape']
  head = heads['shape']
  logp = jax.nn.log_softmax(features[0] @ head['kernel'] + head['bias'])
  w = losses.EMPTY_WEIGHT
  expected = -(w * logp[0, 0] + logp[1, 1]) / (1 + w)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_muon_takes_every_matrix_of_both_towers():
  dims = paligemma.Config.from_dict(CONFIG.model.to_dict())
  axes = pretrain_step.muon_axes({'model': paligemma.shapes(dims)})
  chosen = jax.tree_util.tree_leaves_with_path(
    axes, is_leaf=lambda a: a is not None and not isinstance(a, dict)
  )
  paths = {'/'.join(str(k.key) for k in path[-2:]) for path, _ in chosen}
  assert paths == set(pretrain_step.MATRICES)


def test_captions_can_be_learned(source):
  # Two pictures by heart: the loss must fall far below chance, ln 640 = 6.5.
  config = train_tiny.get_config('mode=smoke')
  config.learning_rate, config.steps = 1e-2, 1000
  dims = paligemma.Config.from_dict(config.model.to_dict())
  tx = pretrain_step.optimizer(config)
  state = pretrain_step.init(config, dims, tx)
  batch = next(batches.batches(source, 2, 4))
  for _ in range(40):
    state, metrics = pretrain_step.train_step(dims, tx, True, state, batch)
  assert metrics['caption'] < 2.0


def _metrics(folder):
  return [
    json.loads(line)
    for line in (folder / 'metrics.jsonl').read_text().splitlines()
  ]


def test_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
  killed = tmp_path / 'killed'
  first = launching.Launched(
    'experiments/train.py',
    '--config=configs/train_tiny.py:mode=smoke',
    f'--workdir={killed}',
  )
  deadline = time.monotonic() + 300
  # After the labels, so that what is left compiles one kind of step.
  while not (killed / 'checkpoints' / str(CONFIG.label_steps)).is_dir():
    assert first.runs(), first.wait().stderr
    assert time.monotonic() < deadline
    time.sleep(0.02)
  assert first.kill().returncode == -signal.SIGKILL
  training.train(CONFIG, killed)
  training.train(CONFIG, tmp_path / 'whole')
  assert _metrics(killed) == _metrics(tmp_path / 'whole')
  one, other = (
    checkpoints.load(tmp_path / name / 'model') for name in ('killed', 'whole')
  )
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_other_settings_are_refused(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": 1}')
  with pytest.raises(ValueError, match='other settings'):
    training.train(CONFIG, tmp_path)


@pytest.mark.parametrize('text', ['{"seed": 0, "ste', '3', ''])
def test_damaged_settings_are_refused(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(
    ValueError, match=r'config\.json: got .*expected a JSON object'
  ):
    training.train(CONFIG, tmp_path)


def test_settings_that_are_gone_are_refused(tmp_path):
  settings = CONFIG.to_dict()
  (tmp_path / 'config.json').write_text(json.dumps(settings | {'old': 1}))
  with pytest.raises(ValueError, match='old: got None, expected 1'):
    training.train(CONFIG, tmp_path)
  (tmp_path / 'config.json').unlink()
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(ValueError, match=r'holds checkpoints, but config\.json'):
    training.train(CONFIG, tmp_path)


def test_settings_are_written_once(tmp_path):
  path = tmp_path / 'config.json'
  train_loop.open_run(CONFIG, tmp_path)
  assert json.loads(path.read_text()) == CONFIG.to_dict()
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']
  path.chmod(0o444)
  before = path.stat()
  train_loop.open_run(CONFIG, tmp_path)
  assert path.stat().st_mtime_ns == before.st_mtime_ns
  assert path.stat().st_ino == before.st_ino


def test_settings_of_earlier_versions_say_no_products(tmp_path):
  def settings(**more):
    return ml_collections.ConfigDict({'steps': 8, **more})

  train_loop.open_run(settings(), tmp_path)
  for dtype in ('', 'float32'):
    now = settings(compute_dtype=dtype, precision='default')
    train_loop.open_run(now, tmp_path)
  for change in ({'compute_dtype': 'bfloat16'}, {'precision': 'highest'}):
    with pytest.raises(ValueError, match='holds a run with other settings'):
      train_loop.open_run(settings(**change), tmp_path)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'save_every': 3}, 'save_every: got 3, expected a multiple of log_every'),
    ({'label_steps': 5}, 'label_steps: got 5, expected a multiple'),
    ({'log_every': 0}, 'log_every: got 0, expected at least 1'),
  ],
)
def test_settings_that_lose_metrics_are_refused(tmp_path, change, said):
  config = CONFIG.copy_and_resolve_references()
  config.update(change)
  with pytest.raises(ValueError, match=said):
    training.train(config, tmp_path)
  assert not list(tmp_path.iterdir())
