"""The recorded models in the released layouts."""

import json
import pathlib
import shutil

import numpy as np
from safetensors import numpy as safetensors

from collab_jax import checkpoints, data
from collab_jax.checkpoints import trees
from collab_jax.models import paligemma
from collab_jax.training import vocabulary

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
MODELS = ('pg1_56', 'pg2_56')
FOLDERS = ('hf_new', 'hf_old_sharded', 'hf_saved')
SHARD = 'model-{:05d}-of-00003.safetensors'


def config_of(model):
  fields = json.loads((GOLDEN / model / 'config_bv.json').read_text())
  return paligemma.Config.from_dict(fields)


def assert_same(got, want):
  got, want = trees.flatten(got), trees.flatten(want)
  assert list(got) == list(want)
  for name in want:
    assert got[name].dtype == want[name].dtype, name
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def npz_of(model, name='model.npz'):
  return checkpoints.load_npz(GOLDEN / model / name)


def edit_config(folder, change):
  path = folder / 'config.json'
  fields = json.loads(path.read_text())
  change(fields)
  path.write_text(json.dumps(fields))


def at_224(layout, folder):
  """The recorded PaliGemma 1 with a table for 224 px; see `downloaded`."""
  return downloaded(layout, folder, 224)


def downloaded(layout, folder, size):
  """The recorded PaliGemma 1 with a table for a size, as one is downloaded.

  Args:
    layout: 'npz', which lies there with its dimensions in config.json; or
      'huggingface', in three files with an index.
    folder: Made.
    size: Side of the pictures in pixels.

  Returns:
    The folder.
  """
  count = (size // 14) ** 2
  table = np.random.default_rng(0).normal(0, 0.5, (count, 32)).astype('f')
  if layout == 'npz':
    folder.mkdir()
    params = npz_of('pg1_56')
    params['img']['pos_embedding'] = table[None]
    checkpoints.save_npz(folder / 'pt_224.npz', params)
    shutil.copy(GOLDEN / 'pg1_56/config_bv.json', folder / 'config.json')
    edit_config(
      folder, lambda c: c.update(image_size=size, name=f'tiny-{size}')
    )
    words = folder / 'paligemma_tokenizer.model'
  else:
    shutil.copytree(GOLDEN / 'pg1_56/hf_old_sharded', folder)
    path = folder / SHARD.format(2)
    tensors = safetensors.load_file(path)
    place = 'vision_tower.vision_model.embeddings.position_embedding.weight'
    assert tensors[place].shape == (16, 32)
    safetensors.save_file(tensors | {place: table}, path)

    def larger(config):
      config['vision_config'] |= {'image_size': size, 'num_image_tokens': count}
      config['text_config'] |= {'num_image_tokens': count}

    edit_config(folder, larger)
    path = folder / 'preprocessor_config.json'
    processor = json.loads(path.read_text())
    processor['size'] = {'height': size, 'width': size}
    path.write_text(json.dumps(processor))
    words = folder / 'tokenizer.model'
  scenes = [data.sample('train', i) for i in range(100)]
  texts = [
    t for s in scenes for t in data.captions(s, np.random.default_rng(0))
  ]
  words.write_bytes(vocabulary.train_tokenizer([*texts, 'caption en'], 512))
  return folder
