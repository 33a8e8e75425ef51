"""All ways to choose what is sent, at equal numbers of vectors.

Modes: `tiny` (500 generated scenes), `dense` (the same with 6 to 10 objects a
scene) and `smoke` (seconds, for tests). docs/selectors.md explains each.
"""

import ml_collections

from collab_jax import config as config_lib

MODES = ('tiny', 'dense', 'smoke')


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a mode, `tiny` by default."""
  mode = config_lib.parse(arg, mode=MODES)['mode']
  config = ml_collections.ConfigDict()

  # Model and data, as in configs/tradeoff.py.
  config.model = 'tiny'
  config.model_path = ''
  config.tokenizer = ''
  config.dtype = ''
  config.res = 0
  config.data = 'scenes'
  config.data_dir = ''
  config.preprocess = 'hf_bicubic'
  config.data_split = 'dense' if mode == 'dense' else 'test'
  config.limit = 500  # The first so many pictures.
  config.split = 'encoder'
  # 'best' tells what the indices take, and takes ten times as long.
  config.coding = 'fixed'

  # Settings that differ from the defaults were chosen on `val`. {k} stands for
  # the number of vectors where a quantizer within has it.
  config.methods = (
    'kmeans(init=++)',
    'kmeans(init=random)',
    'merge',
    'low_rank',
    'packed',
    'packed(parts=4)',
    'centred(vectors=merge(k={k}))',
    'centred(vectors=low_rank(k={k}))',
    'tome',
    'dpc_knn',
    'medoids',
    'spherical',
    'spatial(weight=0.02)',
    'salient',
    'bisecting',
    'attended',
    'attended(dominant=0)',
    'merge(rebuild=keep)',
    'divprune(rebuild=keep)',
    'farthest_point(rebuild=nearest)',
    'random(rebuild=nearest)',
    'top_norm(rebuild=nearest)',
    'pool',
  )
  config.ks = (2, 4, 8, 16, 32)
  config.codecs = ('resized(k=4)', 'resized(k=16)')
  config.seeds = (0, 1, 2)  # Of those that draw; the others need one.
  config.full = True  # All vectors, as they are: what 100% means.
  config.blind = ()

  config.prompt = 'caption en'
  config.max_tokens = 34
  config.decoding = 'greedy'
  config.batch_size = 64
  config.workers = 1  # More are faster, and make each caption's seconds longer.
  config.mesh = ml_collections.ConfigDict({'data': 1, 'model': 1})

  config.resamples = 1000
  config.level = 0.95  # Of the confidence intervals.
  config.seed = 0  # Of the resampling.

  if mode == 'smoke':
    config.limit = 6
    config.methods = ('kmeans(init=++)', 'centred(vectors=pool(k={k}))')
    config.ks, config.codecs = (2, 8), ()
    config.seeds = (0, 1)
    config.max_tokens = 4
    config.batch_size = 4
    config.resamples = 20
  return config


def sweep(add, config):
  """One work unit per method, and one for the lines that need no k."""
  add(methods=())
  for method in config.methods:
    add(methods=(method,), codecs=(), full=False, blind=())
