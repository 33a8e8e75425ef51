"""The paper's experiment: captions against the number of vectors sent.

Modes: `tiny` (500 generated scenes), `dense` (the same with 6 to 10 objects a
scene) and `smoke` (seconds, for tests). With a task, as in
`mode=tiny,task=scenes`, answers are scored instead of captions.
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

  if mode == 'smoke':
    common.smoke(config)
    config.methods = ('kmeans(init=++)', 'random(rebuild=close)')
    config.ks = (2, 8)
    config.seeds = (0, 1)
  return config
