"""Captions over channels: packets that get lost, and radio links.

Modes: `tiny` (500 generated scenes) and `smoke` (seconds, for tests). With a
task, as in `mode=tiny,task=scenes`, answers are scored instead of captions.
"""

import ml_collections

from collab_jax import config as config_lib
from configs import common

MODES = ('tiny', 'smoke')

_FEATURES = 'kmeans(k={},init=++,centroids=pca(dims=32,vectors=scalar(bits=4)))'
_STUDIES = {
  'tiny': {
    'erasure': {
      # About 1,100 bytes a picture; without parity or protection 490.
      'sent': (
        f'{_FEATURES.format(16)} | rows(parity=16)',
        f'{_FEATURES.format(32)} | rows',
        'kmeans(k=16,init=++,centroids=residual_vq) | rows(layers=1)',
        f'{_FEATURES.format(16)} | whole(mtu=64)',
        'jpeg(quality=85,strip=true) | filled(mtu=64)',
        'webp(quality=85,strip=true) | whole(mtu=64)',
        'jpeg(quality=15,strip=true) | whole(mtu=64,loss=0.4)',
        'webp(quality=12,strip=true) | whole(mtu=64,loss=0.4)',
      ),
      # A megabit per second and 20 ms: a weak mobile link; assumed.
      'channel': 'erasure(p={},rate=1e6,delay=0.02)',
      'values': (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    },
    'radio': {
      # About 450 bytes a picture; analog takes half of their time on the air.
      'sent': (
        f'{_FEATURES.format(16)} | whole',
        'kmeans(k=16,init=++,centroids=pca(dims=32)) | analog',
        'jpeg(quality=35,strip=true) | whole',
        'webp(quality=40,strip=true) | whole',
      ),
      # A million symbols per second; assumed.
      'channel': 'physical(snr={},modulation=qpsk,code=1/2,symbol_rate=1e6)',
      'values': (-2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0),
    },
    'fading': {
      # Each code word meets one fade, and may be sent three times.
      'sent': (
        f'{_FEATURES.format(16)} | whole',
        'kmeans(k=16,init=++,centroids=pca(dims=32)) | analog',
        'jpeg(quality=35,strip=true) | whole',
        'webp(quality=40,strip=true) | whole',
      ),
      'channel': (
        'physical(snr={},modulation=qpsk,code=1/2,fading=block,retries=2,'
        'symbol_rate=1e6)'
      ),
      'values': (0.0, 3.0, 6.0, 9.0, 12.0, 16.0, 20.0),
    },
  },
  'smoke': {
    'erasure': {
      'sent': (
        'kmeans(k=4) | rows(parity=4)',
        'jpeg(quality=20,strip=true) | filled(mtu=100)',
      ),
      'channel': 'erasure(p={},rate=1e6,delay=0.02)',
      'values': (0.0, 0.5),
    },
    'radio': {
      'sent': ('kmeans(k=4) | analog', 'kmeans(k=4) | whole'),
      'channel': 'physical(snr={},length=648)',
      'values': (0.0, 10.0),
    },
  },
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a mode, `tiny` by default."""
  args = config_lib.parse(arg, mode=MODES, task='captions')
  mode = args['mode']
  config = common.evaluation()
  common.of_task(config, args['task'])
  config.seeds = (0,)
  config.blind = ('mean',)
  # Powers and speeds behind latency and energy, all assumed.
  config.budget = common.budget()

  # Studies by name. Each crosses all of `sent`, 'codec | transport', with
  # `channel` at each of `values`, which take the place of the braces.
  config.studies = ml_collections.ConfigDict(_STUDIES[mode])

  if mode == 'smoke':
    common.smoke(config)
  return config
