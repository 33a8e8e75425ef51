"""All ways to choose what is sent, at equal numbers of vectors.

Modes: `tiny` (500 generated scenes), `dense` (the same with 6 to 10 objects a
scene) and `smoke` (seconds, for tests). With a task, as in
`mode=tiny,task=scenes`, answers are scored instead of captions.
docs/selectors.md explains each way.
"""

import ml_collections

from collab_jax import config as config_lib
from configs import common

MODES = ('tiny', 'dense', 'smoke')


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a mode, `tiny` by default."""
  args = config_lib.parse(arg, mode=MODES, task='captions')
  mode = args['mode']
  config = common.evaluation()
  common.codecs(config)
  common.of_task(config, args['task'])
  if mode == 'dense':
    config.data_split = 'dense'
  # coding='best' tells what the indices take, and takes ten times as long.

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
  config.blind = ()

  if mode == 'smoke':
    common.smoke(config)
    config.methods = ('kmeans(init=++)', 'centred(vectors=pool(k={k}))')
    config.ks, config.codecs = (2, 8), ()
    config.seeds = (0, 1)
  return config
