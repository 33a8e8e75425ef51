"""Captions against bytes: features beside JPEG, WebP and AVIF.

Modes: `tiny` (500 generated scenes), `dense` (the same with 6 to 10 objects a
scene) and `smoke` (seconds, for tests). With a task, as in
`mode=tiny,task=scenes`, answers are scored instead of captions. docs/rate.md
says what is measured.
"""

import ml_collections

from collab_jax import config as config_lib
from configs import common

MODES = ('tiny', 'dense', 'smoke')

# Qualities by kind, chroma and size in pixels, None for the model's own: files
# without what both ends know, then files as they are.
_STRIPPED = {
  ('avif', 444, None): (1, 3, 5, 8, 12, 16, 20, 25, 30, 35, 42, 50, 60, 75, 90),
  ('avif', 444, 48): (1, 8, 15, 25, 35),
  ('avif', 444, 32): (1, 8, 15, 25),
  ('avif', 444, 16): (1, 8),
  ('avif', 420, None): (1, 8, 20, 35, 50, 70),
  ('avif', 420, 32): (1, 8),
  ('avif', 420, 16): (1, 8),
  ('webp', 420, None): (0, 2, 10, 30, 60, 85, 95),
  ('webp', 420, 48): (2, 10),
  ('webp', 420, 32): (2, 10),
  ('jpeg', 444, None): (2, 5, 10, 20, 30, 50, 75, 90),
  ('jpeg', 444, 48): (10, 30),
  ('jpeg', 444, 32): (10, 30),
  ('jpeg', 420, None): (5, 20, 50, 75),
  ('jpeg', 420, 32): (2, 5, 10),
  ('jpeg', 420, 16): (2, 5, 10),
}
_WHOLE = {
  ('avif', 444, None): (5, 16, 30, 60),
  ('webp', 420, None): (0, 10, 30, 60, 85),
  ('jpeg', 420, None): (10, 20, 30, 50, 75, 90),
  ('jpeg', 444, None): (20, 50, 75),
}
_FEATURES = (
  common.MERGED_ECVQ.format(2, 4, '2.0'),
  common.MERGED_ECVQ.format(2, 4, '0.6'),
  common.MERGED_ECVQ.format(3, 4, '1.5'),
  common.MERGED_ECVQ.format(3, 4, '0.6'),
  common.MERGED_ECVQ.format(4, 4, '0.6'),
  common.MERGED_ECVQ.format(4, 4, '0.3'),
  common.MERGED_ECVQ.format(5, 4, '0.6'),
  common.MERGED_ECVQ.format(5, 4, '0.3'),
  common.MERGED_ECVQ.format(6, 2, '0.3'),
  common.MERGED_ECVQ.format(8, 1, '0.05'),
  common.MERGED_ECSQ.format(2, 2, 'step=2.0,weight=0'),
  common.MERGED_ECSQ.format(3, 2, 'step=1.4,weight=0'),
  'merge(k=4,smooth=2,centroids=pca(dims=128,vectors=ecsq))',
  common.MERGED_ECSQ.format(5, 2, 'step=1.3,weight=0.05'),
  'merge(k=5,smooth=2,centroids=pca(dims=128,vectors=ecsq))',
  'merge(k=6,smooth=2,centroids=pca(dims=128,vectors=ecsq))',
  common.MERGED_ECSQ.format(6, 2, 'step=0.7'),
  common.MERGED_ECSQ.format(8, 1, 'step=0.6'),
  common.MERGED_ECSQ.format(12, 0, 'step=0.4'),
  common.MERGED_ECSQ.format(16, 0, 'step=0.25'),
  'merge(k=4)',
  'merge(k=6)',
  'merge(k=8)',
  'kmeans(k=12,init=++,centroids=pca(dims=128,vectors=ecsq))',
  'kmeans(k=8,init=++,centroids=pca(dims=32,vectors=scalar(bits=4)))',
  'merge(k=6,smooth=2,centroids=pca(dims=32,vectors=scalar(bits=4,scales=book)))',
  'merge(k=6,smooth=2,centroids=pca(dims=16,vectors=fsq(levels=5)))',
  'merge(k=6,smooth=2,centroids=product_vq)',
  'merge(k=6,smooth=2,centroids=residual_vq)',
  'shared_vq',
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a mode, `tiny` by default."""
  args = config_lib.parse(arg, mode=MODES, task='captions')
  mode = args['mode']
  config = common.evaluation()
  common.codecs(config)
  common.of_task(config, args['task'])
  if mode == 'dense':
    config.data_split = 'dense'
  config.coding = 'best'  # The smallest messages, see docs/wire.md.
  # As the paper sends them: k centroids in 16 bits, and indices.
  config.methods = ('kmeans(init=++)', 'kmeans(init=random)')
  config.ks = (1, 2, 4, 8, 16, 32)
  # What else is sent of features; then of pictures.
  config.codecs = (*_FEATURES, *_pictures())

  # Interpolation of the delta rates: 'pchip', 'cubic' or 'akima'.
  config.bd = 'pchip'
  # Shares of the score of all vectors, at which codecs are compared closely.
  config.levels = (0.9, 0.95)
  # Lossless links, over which latency and energy are reported.
  config.link = ml_collections.ConfigDict(
    {
      # Kilobits per second.
      'rates_kbps': (50, 100, 250, 500, 1000, 2500, 5000, 10000),
      'overhead_bytes': 0,  # Of other layers, per message.
      'delay_ms': 0.0,  # Of a message, one way.
    }
  )
  # Powers and speeds behind latency and energy, all assumed.
  config.budget = common.budget()

  if mode == 'smoke':
    common.smoke(config)
    config.methods = ('kmeans(init=random)',)
    config.ks = (2, 8)
    config.codecs = (
      'avif(quality=8,strip=true)',
      'avif(quality=60,strip=true)',
      'jpeg(quality=10,size=32)',
      'jpeg(quality=60)',
    )
    config.seeds = (0, 1)
  return config


def _pictures() -> list[str]:
  """Returns the names of all image codecs."""
  names = []
  for table, strip in ((_STRIPPED, True), (_WHOLE, False)):
    for (kind, chroma, size), qualities in table.items():
      fields = f',size={size}' if size else ''
      fields += ',strip=true' if strip else ''
      fields += f',chroma={chroma}' if chroma != 420 else ''
      names += [f'{kind}(quality={q}{fields})' for q in qualities]
  return names
