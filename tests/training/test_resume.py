"""Training goes on with what it began with, by content."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from collab_jax import checkpoints, data
from collab_jax.quantizers import pretrained
from collab_jax.training import finetune, train_loop
from configs import codebook as codebook_config
from configs import finetune as finetune_config
from tests import standin


def _config(**changes):
  config = finetune_config.get_config('mode=smoke')
  config.model, config.quantizers = str(standin.folder()), ('merge(k=2)',)
  config.update_from_flattened_dict(changes)
  return config


def _open(folder, model=None, /, **changes):
  config = _config(**changes)
  model = model or standin.small()
  depends_on = finetune.depends_on(config, model)
  train_loop.open_run(config, folder, finetune.FREE, depends_on)


def _files(folder):
  return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


# Of each setting, another value; dicts by their fields.
_CHANGES = {
  'seed': 1,
  'dtype': 'bfloat16',
  'compute_dtype': 'bfloat16',
  'precision': 'highest',
  'train': 'lora',
  'encoder': False,
  'rank': 3,
  'alpha': 3.0,
  'quantizers': ('merge(k=3)',),
  'full': 0.125,
  'weights.distill': 0.5,
  'book.passes': 7,
  'prompt': 'other',
  'text_length': 41,
  'batch_size': 5,
  'first_example': 4,
  'dense_share': 0.5,
  'steps': 9,
  'optimizer': 'muon',
  'learning_rate': 0.5,
  'warmup_steps': 3,
  'weight_decay': 0.5,
  'clip': 0.5,
  'rates.heads': 0.5,
  'res': 128,
  'remat': True,
  'max_tokens': 5,
}


@pytest.mark.parametrize('field', _CHANGES)
def test_another_setting_is_refused_by_its_name(tmp_path, field):
  _open(tmp_path)
  before = _files(tmp_path)
  with pytest.raises(ValueError, match=f'{field.partition(".")[0]}: got '):
    _open(tmp_path, **{field: _CHANGES[field]})
  assert _files(tmp_path) == before


def _tuned(model):
  head = jax.tree.map(lambda x: x + 0.5, model.params['img']['head'])
  img = {**model.params['img'], 'head': head}
  return model.replace(params={**model.params, 'img': img})


def _other_tokenizer(model):
  return model.replace(tokenizer=checkpoints.load('tiny').tokenizer)


def _other_products(model):
  return model.replace(config=model.config.with_compute_dtype('bfloat16'))


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (_tuned, 'weights'),
    (_other_tokenizer, 'tokenizer'),
    (_other_products, 'compute_dtype'),
  ],
)
def test_another_model_of_the_name_is_refused(tmp_path, change, said):
  _open(tmp_path)
  before = _files(tmp_path)
  with pytest.raises(ValueError, match=rf'\({said}: got \w+, expected \w+\)'):
    _open(tmp_path, change(standin.small()))
  assert _files(tmp_path) == before


@pytest.mark.parametrize(
  ('flag', 'value'),
  [
    ('jax_threefry_partitionable', False),
    ('jax_random_seed_offset', 5),
    ('jax_default_matmul_precision', 'tensorfloat32'),
  ],
)
def test_another_flag_of_jax_is_refused(tmp_path, flag, value):
  _open(tmp_path)
  before = getattr(jax.config, flag)
  jax.config.update(flag, value)
  name = 'precision' if 'matmul' in flag else flag
  try:
    with pytest.raises(ValueError, match=f'{name}: got {value}'):
      _open(tmp_path)
  finally:
    jax.config.update(flag, before)
  _open(tmp_path)


def test_a_model_that_has_moved_is_the_same(tmp_path):
  run, moved = tmp_path / 'run', tmp_path / 'moved'
  _open(run)
  shutil.copytree(standin.folder(), moved)
  model = checkpoints.load(moved)
  model = model.replace(config=dataclasses.replace(model.config, name='moved'))
  _open(run, model, model=str(moved))
  run.rename(tmp_path / 'renamed')
  _open(tmp_path / 'renamed', model, model=str(moved))
  text = (tmp_path / 'renamed' / 'config.json').read_text()
  assert json.loads(text)['model'] == str(moved)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
  _open(tmp_path)
  path = tmp_path / 'fingerprints.json'
  text = path.read_bytes()
  path.unlink()
  # Nothing but names is known of its model.
  with pytest.raises(ValueError, match='model: got other'):
    _open(tmp_path, model='other')
  _open(tmp_path)
  assert path.read_bytes() == text
  path.write_text('{"weights": "0')
  with pytest.raises(ValueError, match=r'fingerprints\.json: got no settings'):
    _open(tmp_path)


def test_other_pictures_of_the_name_are_other_data():
  config = codebook_config.get_config('mode=smoke')
  config.data = 'coco'
  model = standin.small()
  first = data.scenes('test', limit=2)
  got = [
    train_loop.codebook_dependencies(config, model, reader)['data']
    for reader in (
      *(first, data.scenes('test', limit=2), data.scenes('test', limit=3)),
      data.scenes('val', limit=2),
    )
  ]
  assert got[0] == got[1]
  assert len({*got}) == 3


def test_numbers_that_are_not_finite_are_null_in_metrics():
  numbers = {'loss': np.nan, 'rate': np.inf, 'good': 0.5}
  assert train_loop._finite(numbers) == {
    'loss': None,
    'rate': None,
    'good': 0.5,
  }


@pytest.mark.parametrize('field', ['quantizers', 'eval_codecs'])
def test_a_book_that_has_moved_is_the_same(tmp_path, field):
  first, moved, other = (tmp_path / f'{n}.safetensors' for n in 'abc')
  shutil.copy(pretrained.path_of('tiny/centroids'), first)

  def texts(path):
    return ('identity', f'pool(k=2,centroids=pca(dims=8,book={path}))')

  _open(tmp_path / 'run', **{field: texts(first)})
  first.rename(moved)
  _open(tmp_path / 'run', **{field: texts(moved)})
  _open(tmp_path / 'run', **{field: texts('tiny/centroids')})
  before = _files(tmp_path / 'run')
  name = next(
    n
    for n in pretrained.shipped()
    if pretrained.load(n).kind == pretrained.load('tiny/centroids').kind
    and n != 'tiny/centroids'
  )
  shutil.copy(pretrained.path_of(name), other)
  with pytest.raises(ValueError, match=rf'{field}: got .*books: got'):
    _open(tmp_path / 'run', **{field: texts(other)})
  assert _files(tmp_path / 'run') == before
