"""Every recorded array from every format, and conversion between them."""

import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from benchmarks import parity
from collab_jax import checkpoints
from collab_jax.checkpoints import formats, orbax, shards, trees
from collab_jax.models import paligemma
from collab_jax.training import vocabulary
from tests.checkpoints.released import (
  FOLDERS,
  GOLDEN,
  MODELS,
  assert_same,
  config_of,
  npz_of,
)

# Every kind of number, and both models.
WEIGHTS = (
  ('pg1_56', 'model.npz'),
  ('pg1_56', 'model.f16.npz'),
  ('pg2_56', 'model.bf16.npz'),
)


@functools.cache
def golden(model):
  return parity.load_golden(model)


@functools.cache
def converted(folder, model, to):
  target = pathlib.Path(folder) / model / to
  checkpoints.convert(
    GOLDEN / model / 'model.npz', target, to, config=config_of(model)
  )
  return target


@pytest.fixture(scope='module')
def find(tmp_path_factory):
  """A recorded folder, or the weights in one of the formats we write."""
  folder = tmp_path_factory.mktemp('formats')

  def path(model, source):
    if source in checkpoints.FORMATS:
      return converted(folder, model, source)
    return GOLDEN / model / source

  return path


# The same parameters and dimensions give the same arrays: once is enough.
# Hugging Face's of Gemma 2 say its window, too.
COMPUTED = {('pg1_56', 'npz'), ('pg2_56', 'npz'), ('pg2_56', 'hf_old_sharded')}


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('source', [*FOLDERS, *checkpoints.FORMATS])
def test_every_recorded_array(find, model, source):
  loaded = checkpoints.load(find(model, source))
  assert_same(loaded.params, npz_of(model))
  if model == 'pg1_56' or source in checkpoints.FORMATS:
    assert loaded.config.text == config_of(model).text
    assert loaded.config.vision == config_of(model).vision
  if (model, source) not in COMPUTED:
    return  # `python -m benchmarks.formats` computes with each.
  got = parity.measure(loaded, golden(model))
  for array in parity.computed(golden(model)):
    if array.startswith('bf16w/'):
      continue
    diff = parity.difference(got[array], golden(model)[array])
    assert diff <= parity.tolerance(array), array


def chain(folder, model, weights, order):
  """Converts from format to format; returns the last."""
  source, config = GOLDEN / model / weights, config_of(model)
  for i, to in enumerate(order):
    target = folder / f'{i}-{to}'
    checkpoints.convert(source, target, to, config=config if not i else None)
    source = target
  return source


@pytest.mark.parametrize(('model', 'weights'), WEIGHTS)
@pytest.mark.parametrize(
  'order',
  [
    ('huggingface', 'orbax', 'npz'),
    ('orbax', 'huggingface', 'npz', 'orbax'),
  ],
)
def test_round_trips_are_exact(tmp_path, model, weights, order):
  last = chain(tmp_path, model, weights, order)
  source = formats.find(last)
  config = source.config()
  want = config_of(model)
  assert vars(config.text) == vars(want.text)
  assert config.vision == want.vision
  assert_same(formats.read(source, config), npz_of(model, weights))


def test_back_to_the_released_file(tmp_path):
  """npz -> Hugging Face -> npz gives the same names, dtypes and bytes."""
  path = GOLDEN / 'pg2_56/model.bf16.npz'
  checkpoints.convert(
    path, tmp_path / 'hf', 'huggingface', config=config_of('pg2_56')
  )
  checkpoints.convert(tmp_path / 'hf', tmp_path / 'back.npz', 'npz')
  with np.load(path) as want, np.load(tmp_path / 'back.npz') as got:
    assert sorted(want.files) == sorted(got.files)
    assert all(want[k].tobytes() == got[k].tobytes() for k in want.files)


@pytest.mark.parametrize('model', MODELS)
def test_their_folder_and_back(tmp_path, model):
  source = GOLDEN / model / 'hf_old_sharded'
  checkpoints.convert(source, tmp_path / 'orbax', 'orbax')
  checkpoints.convert(tmp_path / 'orbax', tmp_path / 'hf', 'huggingface')
  got, want = (shards.find(path, None) for path in (tmp_path / 'hf', source))
  assert set(got) == set(want)
  for name, entry in want.items():
    pair = [np.empty(entry.shape, np.float32) for _ in range(2)]
    got[name].fill(pair[0])
    entry.fill(pair[1])
    rows = 512 if 'embed_tokens' in name else None
    np.testing.assert_array_equal(pair[0][:rows], pair[1][:rows], name)
  model = formats.find(tmp_path / 'hf').config()
  assert model.text == formats.find(source).config().text


def test_conversion_of_the_dtype(tmp_path):
  checkpoints.convert(
    GOLDEN / 'pg1_56/hf_new', tmp_path / 'x', 'orbax', dtype='bfloat16'
  )
  got = checkpoints.load(tmp_path / 'x').params
  assert_same(got, npz_of('pg1_56', 'model.bf16.npz'))


def test_vocabulary_goes_with_the_weights(tmp_path):
  source = tmp_path / 'source'
  shutil.copytree(GOLDEN / 'pg1_56/hf_new', source)
  words = vocabulary.train_tokenizer(['a red ball on the grass'] * 3, 300)
  (source / 'tokenizer.model').write_bytes(words)
  (source / 'tokenizer.json').write_text('{}')
  for to in checkpoints.FORMATS:
    checkpoints.convert(source, tmp_path / to, to)
    assert (tmp_path / to / 'tokenizer.json').read_text() == '{}'
    tokenizer = checkpoints.load(tmp_path / to).tokenizer
    assert tokenizer.model_bytes == words


def test_conversion_replaces_nothing(tmp_path):
  (tmp_path / 'there').mkdir()
  with pytest.raises(FileExistsError, match='already there'):
    checkpoints.convert(GOLDEN / 'pg1_56/hf_new', tmp_path / 'there', 'npz')


def test_conversion_that_fails_leaves_nothing(tmp_path):
  source = shutil.copytree(GOLDEN / 'pg1_56/hf_new', tmp_path / 'hf')
  (source / shards.SINGLE).write_bytes(b'')
  with pytest.raises(trees.CheckpointError):
    checkpoints.convert(source, tmp_path / 'x', 'npz')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['hf']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'to': 'gguf'}, "to: got 'gguf', expected one of npz"),
    ({'to': 'npz'}, 'config: got None, .* has no dimensions'),
    (
      {'to': 'huggingface', 'part': 'edge'},
      'expected None: a Hugging Face folder holds all',
    ),
  ],
)
def test_conversion_that_makes_no_sense(tmp_path, arguments, message):
  with pytest.raises(ValueError, match=message):
    checkpoints.convert(
      GOLDEN / 'pg1_56/model.npz', tmp_path / 'x', **arguments
    )


@pytest.mark.parametrize('to', ['npz', 'orbax'])
@pytest.mark.parametrize('part', ['edge', 'server'])
def test_parts_alone(tmp_path, to, part):
  checkpoints.convert(GOLDEN / 'pg2_56/hf_saved', tmp_path / 'x', to, part=part)
  got = checkpoints.load(tmp_path / 'x', part=part)
  assert_same(got.params, trees.select(npz_of('pg2_56'), part))
  with pytest.raises(trees.CheckpointError, match='got nothing'):
    checkpoints.load(tmp_path / 'x')


# Orbax.


@pytest.fixture
def stored(tmp_path):
  params = npz_of('pg1_56', 'model.bf16.npz')
  orbax.save(tmp_path / 'x', params)
  formats.write_config(tmp_path / 'x', config_of('pg1_56'))
  return tmp_path / 'x'


def test_device_arrays_are_saved(stored):
  model = checkpoints.load(stored)
  orbax.save(stored, model.params)
  assert_same(
    checkpoints.load(stored).params, npz_of('pg1_56', 'model.bf16.npz')
  )


def test_edge_needs_no_decoder(stored):
  shutil.rmtree(stored / 'llm')
  got = checkpoints.load(stored, part='edge').params
  want = npz_of('pg1_56', 'model.bf16.npz')
  assert_same(got, trees.select(want, 'edge'))
  with pytest.raises(trees.CheckpointError, match=r'llm/.*: got nothing'):
    checkpoints.load(stored, part='server')


@pytest.mark.parametrize('part', trees.PARTS)
def test_nothing_of_the_other_part_is_restored(stored, monkeypatch, part):
  read = set()
  real = ocp.PyTreeCheckpointer.restore

  def spy(self, path, args):
    read.update(trees.flatten(args.item, f'{path.name}/'))
    return real(self, path, args=args)

  monkeypatch.setattr(ocp.PyTreeCheckpointer, 'restore', spy)
  params = checkpoints.load(stored, part=part).params
  assert read == set(trees.flatten(params))
  assert all(name.startswith(trees.PARTS[part]) for name in read)


def test_damaged_files_are_named(stored):
  """Any file of a tower, cut in half, is either told or not needed."""
  want = checkpoints.load(stored).params
  told = 0
  for path in sorted((stored / 'llm').rglob('*')):
    if not path.is_file() or not path.stat().st_size:
      continue
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    try:
      assert_same(checkpoints.load(stored).params, want)
    except trees.CheckpointError:
      told += 1
    path.write_bytes(data)
  assert told >= 3


def test_wrong_dims_are_named(stored):
  config = config_of('pg1_56').to_dict()
  config['llm']['mlp_dim'] = 100
  with pytest.raises(trees.CheckpointError) as error:
    checkpoints.load(stored, config=config)
  assert 'mlp/linear: got (3, 112, 48), expected (3, 100, 48)' in str(error)


# Finding.


def test_folder_with_one_npz(tmp_path):
  shutil.copy(GOLDEN / 'pg1_56/model.npz', tmp_path / 'pt_224.npz')
  got = checkpoints.load(tmp_path, config=config_of('pg1_56'))
  assert_same(got.params, npz_of('pg1_56'))


def test_folder_with_nothing_to_read(tmp_path):
  (tmp_path / 'readme').touch()
  with pytest.raises(FileNotFoundError, match=r'no checkpoint: .* got readme'):
    checkpoints.load(tmp_path)


def test_npz_beside_their_config(tmp_path):
  shutil.copy(GOLDEN / 'pg2_56/model.npz', tmp_path)
  shutil.copy(GOLDEN / 'pg2_56/hf_new/config.json', tmp_path)
  got = checkpoints.load(tmp_path)
  assert got.config.text.window == 4096
  assert_same(got.params, npz_of('pg2_56'))


def test_config_is_what_was_written(stored):
  fields = json.loads((stored / 'config.json').read_text())
  assert paligemma.Config.from_dict(fields) == config_of('pg1_56')
  assert jax.tree.leaves(fields)
