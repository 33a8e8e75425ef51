"""Bad checkpoints: one line each, and the one that the documentation shows."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from safetensors import numpy as st

from collab_jax import checkpoints
from collab_jax.checkpoints import formats, orbax, shards
from collab_jax.training import vocabulary
from tests.checkpoints.released import GOLDEN, SHARD, config_of, npz_of

PAGE = pathlib.Path(__file__).parents[2] / 'docs/checkpoints.md'
_SECTION = PAGE.read_text().partition('## What a bad file says')[2]
ROWS = dict(
  re.findall(r'^\| ([^|]+?) \| `([^`]+)` \|$', _SECTION, re.MULTILINE)
)
BIAS = 'params/img/head/bias'
CASES = {}


def case(title):
  """Adds a function that makes a bad checkpoint and returns its path."""

  def add(make):
    CASES[title] = make
    return make

  return add


def spoil(folder, change, name='model.npz'):
  """Writes an npz of which some arrays are changed."""
  with np.load(GOLDEN / 'pg1_56/model.npz') as file:
    arrays = dict(file)
  change(arrays)
  np.savez(folder / name, **arrays)
  return folder / name


def rewrite(folder, change):
  """Writes an npz of which the bytes are changed."""
  data = bytearray((GOLDEN / 'pg1_56/model.npz').read_bytes())
  path = folder / 'model.npz'
  path.write_bytes(change(data) or data)
  return path


def hugging(folder, name='hf_old_sharded'):
  return shutil.copytree(GOLDEN / 'pg1_56' / name, folder / 'hf')


def edit_index(folder, change):
  index = json.loads((folder / shards.INDEX).read_text())
  change(index['weight_map'])
  (folder / shards.INDEX).write_text(json.dumps(index))
  return folder


@case('npz cut off')
def _(folder):
  return rewrite(folder, lambda data: data[:400_000])


@case('npz with a flipped bit')
def _(folder):
  def flip(data):
    data[300_000] ^= 1

  return rewrite(folder, flip)


@case('something else than an npz')
def _(folder):
  pointer = b'version https://git-lfs.github.com/spec/v1\n'
  return rewrite(folder, lambda _: pointer)


@case('pickled objects in an npz')
def _(folder):
  pickled = np.array([print], dtype=object)
  return spoil(folder, lambda arrays: arrays.update({BIAS: pickled}))


@case('npz without one of the arrays')
def _(folder):
  return spoil(folder, lambda arrays: arrays.pop(BIAS))


@case('npz with other dimensions')
def _(folder):
  def change(arrays):
    arrays[BIAS] = np.zeros(47, np.float32)

  return spoil(folder, change)


@case("weights of a training that diverged, or an adapter's")
def _(folder):
  def change(arrays):
    arrays[BIAS] = np.full_like(arrays[BIAS], np.nan)

  return spoil(folder, change)


@case('npz with integers for numbers')
def _(folder):
  def change(arrays):
    arrays[BIAS] = arrays[BIAS].astype(np.int32)

  return spoil(folder, change)


@case('npz without one of the layers')
def _(folder):
  def change(arrays):
    name = next(k for k in arrays if k.endswith('LayerNorm_0/bias'))
    for i, row in enumerate(arrays.pop(name)):
      if i != 1:
        key = name.replace('encoderblock', f'encoderblock_{i}')
        arrays[key] = row

  return spoil(folder, change)


@case('safetensors cut off')
def _(folder):
  folder = hugging(folder, 'hf_new')
  path = folder / shards.SINGLE
  path.write_bytes(path.read_bytes()[:300_000])
  return folder


@case('safetensors without one of the tensors')
def _(folder):
  folder = hugging(folder, 'hf_new')
  tensors = st.load_file(folder / shards.SINGLE)
  tensors.pop('model.language_model.norm.weight')
  st.save_file(tensors, folder / shards.SINGLE)
  return folder


@case('missing shard')
def _(folder):
  folder = hugging(folder)
  (folder / SHARD.format(2)).unlink()
  return folder


@case('index naming a file that never was')
def _(folder):
  def change(files):
    files[min(files)] = 'model-00004-of-00003.safetensors'

  return edit_index(hugging(folder), change)


@case('index of another checkpoint')
def _(folder):
  def change(files):
    files['vision_tower.other'] = SHARD.format(2)

  return edit_index(hugging(folder), change)


@case('index leading out of the folder')
def _(folder):
  def change(files):
    files[min(files)] = '../../etc/passwd'

  return edit_index(hugging(folder), change)


@case('config.json cut off')
def _(folder):
  folder = hugging(folder)
  path = folder / 'config.json'
  path.write_text(path.read_text()[:100])
  return folder


@case('config.json of another model')
def _(folder):
  folder = hugging(folder)
  fields = json.loads((folder / 'config.json').read_text())
  fields['text_config']['model_type'] = 'llama'
  (folder / 'config.json').write_text(json.dumps(fields))
  return folder


@case('tokenizer larger than the model')
def _(folder):
  folder = hugging(folder)
  letters = np.random.default_rng(0).integers(97, 123, (2000, 8), np.uint8)
  texts = [row.tobytes().decode() for row in letters]
  words = vocabulary.train_tokenizer(texts, 600)
  (folder / 'tokenizer.model').write_bytes(words)
  return folder


@case("a folder in the place of a tokenizer's file")
def _(folder):
  folder = hugging(folder)
  (folder / 'tokenizer.json').mkdir()
  return folder


@case('something else than a tokenizer')
def _(folder):
  folder = hugging(folder)
  (folder / 'tokenizer.model').write_text('{}')
  return folder


@case('Orbax without a file')
def _(folder):
  folder = folder / 'orbax'
  orbax.save(folder, npz_of('pg1_56'))
  formats.write_config(folder, config_of('pg1_56'))
  for path in (folder / 'llm').rglob('d/*'):
    path.unlink()
  return folder


@case('folder without a checkpoint')
def _(folder):
  (folder / 'empty').mkdir()
  return folder / 'empty'


@pytest.mark.parametrize('title', CASES)
def test_bad(tmp_path, title):
  path = CASES[title](tmp_path)
  config = config_of('pg1_56') if path.suffix == '.npz' else None
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    checkpoints.load(path, config=config)
  said = str(error.value).replace(f'{tmp_path}/', '')
  assert '\n' not in said
  # An ellipsis stands for the words of a library.
  shown = re.escape(ROWS.get(title, '')).replace('…', '.+')
  assert re.fullmatch(shown, said), f'| {title} | `{said}` |'


def test_every_row_is_tested():
  assert list(ROWS) == list(CASES)
