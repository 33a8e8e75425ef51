"""Training of quantizer parameters, such as those that ship with the package.

Modes: `centroids` (a linear transform and quantiles of the centroids of
merged clusters), `axes` (the same without captions), `residual`, `ecvq` and
`product` (codebooks of those centroids), `shared` (one of all vectors),
`places` (the mean of every place of the grid) and `smoke` (seconds, for tests).
Each writes book.safetensors, which is named in a quantizer's `book`.
"""

import ml_collections

from collab_jax import config as config_lib
from configs import common

MODES = (
  'centroids',
  'axes',
  'residual',
  'ecvq',
  'product',
  'shared',
  'places',
  'smoke',
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a mode, `centroids` by default."""
  mode = config_lib.parse(arg, mode=MODES)['mode']
  config = common.model_and_data()
  config.seed = 0  # Of what is drawn while training.
  config.data_split = 'train'  # Split that no test scene is in.
  linear = mode in ('centroids', 'axes')
  config.limit = 3000 if linear else 1500
  config.batch_size = 50  # Pictures at a time.

  kinds = {'ecvq': 'residual', 'smoke': 'linear'}
  kinds |= {'centroids': 'linear', 'axes': 'linear'}
  # What is trained: 'linear', 'residual', 'product', 'shared' or 'places'.
  config.kind = kinds.get(mode, mode)
  ks = (4, 6, 8, 12) if linear else (5, 8)
  # Training data: all vectors that these quantizers send, in float32. For all
  # vectors of the encoder: 'identity(dtype=float32)'.
  config.sent = tuple(
    f'merge(k={k},centroids=identity(dtype=float32))' for k in ks
  )
  # For codebooks: a transform of the vectors before, such as 'pca(dims=32)', of
  # the same model's features.
  config.transform = ''

  # Of 'linear': in which metric errors count, 'plain', 'head' or 'gradient'.
  config.metric = 'gradient'
  config.ridge = 0.3  # Of 'linear': share of the plain metric.
  config.prompt = 'caption en'  # Of 'gradient': text before the captions.
  config.text_length = 40  # Of 'gradient': longest caption in tokens.

  config.stages = 4  # Residual codebooks, one after the other.
  config.groups = 8  # Codebooks of a product, side by side.
  config.size = 256  # Entries of a codebook.
  # Residual stages can be trained together, so many times over all vectors, as
  # `ecvq` uses them.
  config.joint = 0
  config.weight = 0.1  # Of 'joint': cost of a bit.
  config.beam = 8  # Of 'joint': width of the search.
  config.steps = 100  # Mini-batches of k-means.
  config.rows = 8192  # Vectors in each.
  config.passes = 10  # Passes over all vectors, after the mini-batches.

  if mode != 'centroids':
    config.metric = 'plain'
  if mode == 'shared':
    config.sent = ('identity(dtype=float32)',)
    config.size = 1024
    config.limit = 400
  if mode == 'ecvq':
    config.limit = 2000
    config.sent = tuple(
      f'merge(k={k},smooth=2,centroids=identity(dtype=float32))'
      for k in (3, 5, 6)
    )
    config.transform = 'pca(dims=128)'
    config.joint = 10
  if mode == 'places':
    config.sent = ('identity(dtype=float32)',)
    config.limit = 1000
  if mode == 'smoke':
    config.limit = 4
    config.batch_size = 2
    config.sent = ('random(k=16,vectors=identity(dtype=float32))',)
    config.metric = 'gradient'
    config.stages, config.groups, config.size = 2, 2, 4
    config.steps, config.rows, config.passes = 2, 8, 2
  return config
