"""The paper's experiment: captions against the number of vectors sent.

Modes: `tiny` (500 generated scenes), `dense` (the same with 6 to 10 objects a
scene) and `smoke` (seconds, for tests).
"""

import ml_collections

from collab_jax import config as config_lib

MODES = ('tiny', 'dense', 'smoke')


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a mode, `tiny` by default."""
  mode = config_lib.parse(arg, mode=MODES)['mode']
  config = ml_collections.ConfigDict()

  # A name out of collab_jax.checkpoints.NAMES; a folder that says its
  # dimensions and has a tokenizer; or a released model's name, with its path.
  config.model = 'tiny'
  config.model_path = ''
  config.tokenizer = ''  # Where it is not beside the weights.
  config.dtype = ''  # To hold the weights in; '' for the stored one.
  config.res = 0  # Side of the pictures in pixels, 0 for the model's.
  # 'scenes', or a dataset on disk: 'coco', 'flickr30k', 'jsonl' or 'tfds'.
  config.data = 'scenes'
  config.data_dir = ''  # The dataset's folder.
  # How pictures come to the model's size, see collab_jax/data/pictures.py.
  config.preprocess = 'hf_bicubic'
  config.data_split = 'dense' if mode == 'dense' else 'test'
  config.limit = 500  # The first so many pictures.

  # 'encoder' cuts before the projection to the decoder's width, 'head' after.
  config.split = 'encoder'
  # 'fixed': messages of one length, packed many at a time, as the paper counts
  # them. 'best': the smallest ones, in about two milliseconds each.
  config.coding = 'fixed'
  # Quantizers with what is fixed about them; k comes from `ks`.
  config.methods = (
    'kmeans(init=++)',
    'kmeans(init=random)',
    'random(rebuild=nearest)',
    'random(rebuild=keep)',
    'random(rebuild=close)',
    'random(rebuild=zero)',
  )
  config.ks = (1, 2, 4, 8, 16, 32, 64, 128)
  # Codecs with nothing left open, beside them: 'jpeg(quality=20)',
  # 'webp(quality=5,size=112,strip=true)', 'kmeans(k=3,iters=9)'.
  config.codecs = ()
  config.seeds = (0, 1, 2)
  config.full = True  # All vectors, as they are: what 100% means.
  config.blind = ('zeroed', 'mean', 'shuffled')

  config.prompt = 'caption en'
  config.max_tokens = 34
  config.decoding = 'greedy'  # Or 'beam2', 'sample(temperature=0.7)'.
  config.batch_size = 64
  config.workers = 2  # Passes at a time, on one device.
  # Devices over which the pictures of a batch and the parameters are spread.
  config.mesh = ml_collections.ConfigDict({'data': 1, 'model': 1})

  config.resamples = 1000
  config.level = 0.95  # Of the confidence intervals.
  config.seed = 0  # Of the resampling.

  if mode == 'smoke':
    config.limit = 6
    config.methods = ('kmeans(init=++)', 'random(rebuild=close)')
    config.ks = (2, 8)
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
