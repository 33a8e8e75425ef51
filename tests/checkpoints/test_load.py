"""Models by name, from a folder and from an npz."""

import json
import pathlib
import shutil

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from collab_jax import checkpoints
from collab_jax.checkpoints import npz, trees
from collab_jax.models import paligemma
from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import vocabulary

FOLDER = pathlib.Path(__file__).parents[1] / 'golden/pg1_56'
CONFIG = json.loads((FOLDER / 'config_bv.json').read_text())


@pytest.fixture(scope='module')
def words():
  return tokenizer_lib.Tokenizer(
    vocabulary.train_tokenizer(['a red ball on the grass'] * 3, 300)
  )


@pytest.mark.parametrize(
  'config',
  [
    CONFIG,
    paligemma.Config.from_dict(CONFIG),
    FOLDER / 'config_bv.json',
    str(FOLDER / 'config_bv.json'),
  ],
  ids=['dict', 'Config', 'Path', 'str'],
)
def test_npz_with_any_kind_of_config(config):
  model = checkpoints.load(FOLDER / 'model.npz', config=config)
  assert model.config == paligemma.Config.from_dict(CONFIG)
  assert model.tokenizer is None
  assert all(isinstance(p, jax.Array) for p in jax.tree.leaves(model.params))


@pytest.mark.parametrize(
  ('name', 'dtype', 'want'),
  [
    ('model.npz', None, jnp.float32),
    ('model.bf16.npz', None, jnp.bfloat16),
    ('model.f16.npz', None, jnp.float16),
    ('model.npz', 'bfloat16', jnp.bfloat16),
    ('model.bf16.npz', jnp.float32, jnp.float32),
  ],
)
def test_dtype(name, dtype, want):
  model = checkpoints.load(FOLDER / name, config=CONFIG, dtype=dtype)
  assert {p.dtype for p in jax.tree.leaves(model.params)} == {np.dtype(want)}


def test_folder_round_trip(tmp_path, words):
  model = checkpoints.load(FOLDER / 'model.bf16.npz', config=CONFIG)
  checkpoints.save(tmp_path / 'mine', model.params, CONFIG, words)
  again = checkpoints.load(tmp_path / 'mine')
  assert again.config == model.config
  assert again.tokenizer == words
  got, want = trees.flatten(again.params), trees.flatten(model.params)
  assert list(got) == list(want)
  assert all((got[k] == want[k]).all() for k in want)


def test_saving_checks_the_tree(tmp_path, words):
  params = checkpoints.load(FOLDER / 'model.npz', config=CONFIG).params
  with pytest.raises(trees.CheckpointError, match='norm/bias: got nothing'):
    checkpoints.save(tmp_path, {'llm': params['llm']}, CONFIG, words)
  assert not list(tmp_path.iterdir())


def test_a_folder_is_none_until_all_is_there(tmp_path, words, monkeypatch):
  params = checkpoints.load(FOLDER / 'model.npz', config=CONFIG).params

  def stopped(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(checkpoints.formats, 'write_config', stopped)
  with pytest.raises(KeyboardInterrupt):
    checkpoints.save(tmp_path, params, CONFIG, words)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'model.npz', 'tokenizer.model'}


@pytest.mark.parametrize('form', ['object', 'path', 'bytes'])
def test_any_kind_of_tokenizer(tmp_path, words, form):
  (tmp_path / 'words.model').write_bytes(words.model_bytes)
  forms = {
    'object': words,
    'path': tmp_path / 'words.model',
    'bytes': words.model_bytes,
  }
  model = checkpoints.load(
    FOLDER / 'model.npz', config=CONFIG, tokenizer=forms[form]
  )
  assert model.tokenizer == words


def test_vocabulary_larger_than_the_model(words):
  small = CONFIG | {'llm': CONFIG['llm'] | {'vocab_size': 200}}
  with pytest.raises(ValueError, match='do not belong together'):
    checkpoints.load(FOLDER / 'model.npz', config=small, tokenizer=words)


def test_wrong_config_names_the_arrays():
  wrong = json.loads((FOLDER.parent / 'pg2_56/config_bv.json').read_text())
  with pytest.raises(trees.CheckpointError) as error:
    checkpoints.load(FOLDER / 'model.npz', config=wrong)
  assert 'img/head/bias: got (48,), expected (40,)' in str(error.value)


def test_npz_without_config():
  with pytest.raises(
    ValueError, match=r'config: got None.*expected a paligemma\.Config'
  ):
    checkpoints.load(FOLDER / 'model.npz')


@pytest.mark.parametrize('text', ['{"vit": 1', '[1]', ''])
def test_config_that_is_no_dict(tmp_path, text):
  path = tmp_path / 'config.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=r'config\.json'):
    checkpoints.load(FOLDER / 'model.npz', config=path)


def test_unknown_name_suggests_the_nearest():
  with pytest.raises(ValueError, match=r"model: got 'tinny'; .* mean 'tiny'"):
    checkpoints.load('tinny')


def test_unknown_name_far_from_any():
  with pytest.raises(ValueError, match=r'one of .*tiny, or the path') as error:
    checkpoints.load('xyzzy')
  assert 'did you mean' not in str(error.value)


@pytest.mark.parametrize('path', ['none.npz', 'no/such', pathlib.Path('none')])
def test_missing_file(path):
  with pytest.raises(FileNotFoundError, match='no such checkpoint'):
    checkpoints.load(path, config=CONFIG)


def test_dimensions_without_weights(tmp_path):
  got = checkpoints.config_of('tiny')
  assert got == checkpoints.load('tiny').config
  (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
  (tmp_path / 'model.npz').touch()  # Not a checkpoint, and not read.
  assert checkpoints.config_of(tmp_path) == paligemma.Config.from_dict(CONFIG)
  with pytest.raises(ValueError, match='has no dimensions'):
    checkpoints.config_of(FOLDER / 'model.npz')
  with pytest.raises(ValueError, match=f'give its folder, {tmp_path}, which'):
    checkpoints.config_of(tmp_path / 'model.npz')
  bare = tmp_path / 'bare' / 'x.npz'
  bare.parent.mkdir()
  shutil.copy(FOLDER / 'model.npz', bare)
  for read in (checkpoints.config_of, checkpoints.load):
    with pytest.raises(ValueError, match=f'--model_path={bare}') as error:
      read(bare)
    assert 'config.json beside the weights' in str(error.value)
  with pytest.raises(ValueError, match="mean 'tiny'"):
    checkpoints.config_of('tinny')


@pytest.mark.parametrize('name', checkpoints.NAMES)
def test_models_that_ship_with_the_package(name):
  model = checkpoints.load(name)
  assert model.config.name == name
  assert model.tokenizer is not None
  assert model.tokenizer.vocab_size <= model.config.text.vocab_size
  ids = model.tokenizer.encode('a red circle')
  assert model.tokenizer.decode(ids) == 'a red circle'


@pytest.mark.parametrize('to', [None, *checkpoints.FORMATS])
def test_tokenizer_json_alone(copy, tmp_path, to):
  folder = copy()
  shutil.copy(FOLDER.parent / 'tokenizer.json', folder)
  if to is not None:
    checkpoints.convert(folder, folder := tmp_path / 'converted', to)
  want = tokenizer_lib.Tokenizer(FOLDER.parent / 'tokenizer.json')
  assert checkpoints.load(folder).tokenizer == want


def test_added_tokens_are_the_model_s_too(copy, words):
  folder, size = copy(), words.vocab_size
  (folder / 'tokenizer.model').write_bytes(words.model_bytes)
  ids = {'<loc0000>': size, '<image>': size + 1}
  (folder / 'added_tokens.json').write_text(json.dumps(ids))
  got = checkpoints.load(folder).tokenizer
  assert got == words.extended(['<loc0000>'])


@pytest.mark.parametrize(
  'dtype', ['int32', 'complex64', 'banana', 'bf16', 'float64', 5]
)
def test_unknown_dtype(tmp_path, dtype):
  said = 'dtype: got .*, expected one of float32, bfloat16, float16'
  with pytest.raises(ValueError, match=said):
    checkpoints.load(FOLDER / 'model.npz', config=CONFIG, dtype=dtype)
  with pytest.raises(ValueError, match=said):
    npz.load_npz(FOLDER / 'model.npz', dtype=dtype)


def test_config_with_a_byte_order_mark(copy):
  path = copy() / 'config.json'
  path.write_text(path.read_text(), 'utf-8-sig')
  want = paligemma.Config.from_dict(CONFIG).vision
  assert checkpoints.config_of(path.parent).vision == want


def test_config_that_is_a_folder(copy):
  path = copy() / 'config.json'
  path.unlink()
  path.mkdir()
  with pytest.raises(trees.CheckpointError, match=r'config\.json is a folder'):
    checkpoints.load(path.parent)


@pytest.mark.parametrize(
  ('part', 'name', 'value'),
  [('vit', 'depth', 10**8), ('llm', 'depth', 10**8), ('llm', 'head_dim', 7)],
)
def test_dimensions_out_of_range(part, name, value):
  fields = CONFIG | {part: CONFIG[part] | {name: value}}
  with pytest.raises(ValueError, match=f'{name}.*{value}.*expected'):
    checkpoints.read_config(fields)
