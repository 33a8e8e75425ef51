"""The recorded models in the released layouts."""

import json
import pathlib

import numpy as np

from collab_jax import checkpoints
from collab_jax.checkpoints import trees
from collab_jax.models import paligemma

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
