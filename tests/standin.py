"""Models for tests: a random one, small and quick, and the shipped one."""

import functools
from pathlib import Path
import tempfile

import jax
import numpy as np

from collab_jax import checkpoints, data
from collab_jax.models import paligemma, tokenizer
from collab_jax.training import vocabulary

CONFIG = {
  'name': 'stand-in',
  'image_size': 64,
  'patch_size': 8,
  'unroll': True,
  'vit': {'width': 16, 'depth': 1, 'num_heads': 2, 'mlp_dim': 32},
  'llm': {
    'width': 24,
    'depth': 1,
    'mlp_dim': 32,
    'num_heads': 2,
    'num_kv_heads': 1,
    'head_dim': 8,
    'vocab_size': 400,
  },
}


def parameters(config: paligemma.Config) -> paligemma.Params:
  """Random ones, without compiling what draws a model's first."""
  generator = np.random.default_rng(0)
  return jax.tree.map(
    lambda p: generator.normal(0, 0.5, p.shape).astype(np.float32),
    paligemma.shapes(config),
  )


@functools.cache
def folder() -> Path:
  """A folder with a random model, as `checkpoints.load` reads it."""
  scenes = [data.sample('train', i) for i in range(100)]
  texts = [
    t
    for s in scenes
    for t in data.captions(s, np.random.default_rng(s.seed[1]))
  ]
  size = CONFIG['llm']['vocab_size']
  words = vocabulary.train_tokenizer([*texts, 'caption en'], size)
  params = parameters(paligemma.Config.from_dict(CONFIG))
  path = Path(tempfile.mkdtemp(prefix='collab_jax_standin_'))
  checkpoints.save(path, params, CONFIG, tokenizer.Tokenizer(words))
  return path


@functools.cache
def small() -> paligemma.Model:
  """The random model."""
  return checkpoints.load(folder())


def shipped() -> str:
  """Returns the name for `load`: 'tiny' if present, else the random model."""
  try:
    checkpoints.load('tiny')
  except FileNotFoundError:
    return str(folder())
  return 'tiny'
