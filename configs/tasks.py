"""Shares of scores that codecs keep: captions, counts, relations, detection.

Modes: `tiny` (generated scenes), `curve` (what an edge chooses from by
`--task`, on `val`: docs/edge.md) and `smoke` (seconds, for tests). The model is
asked about scenes, and must know the questions: docs/tasks.md.
"""

import ml_collections

from collab_jax import config as config_lib
from configs import common

MODES = ('tiny', 'curve', 'smoke')

_CODECS = (
  common.MERGED_ECVQ.format(2, 4, '2.0'),
  common.MERGED_ECVQ.format(3, 4, '1.5'),
  common.MERGED_ECVQ.format(4, 4, '0.6'),
  common.MERGED_ECVQ.format(5, 4, '0.3'),
  common.MERGED_ECSQ.format(6, 2, 'step=0.7'),
  common.MERGED_ECSQ.format(8, 1, 'step=0.6'),
  common.MERGED_ECSQ.format(12, 0, 'step=0.4'),
  common.MERGED_ECSQ.format(16, 0, 'step=0.25'),
  # Of each budget an AVIF that comes near to it.
  'avif(quality=1,size=16,strip=true,chroma=444)',
  'avif(quality=10,size=32,strip=true,chroma=444)',
  'avif(quality=5,strip=true,chroma=444)',
  'avif(quality=27,strip=true,chroma=444)',
  'avif(quality=50,strip=true,chroma=444)',
  'webp(quality=0,strip=true)',
  'webp(quality=30,strip=true)',
  'webp(quality=85,strip=true)',
  'jpeg(quality=5,size=16,strip=true)',
  'jpeg(quality=5,size=32,strip=true)',
  'jpeg(quality=20,strip=true)',
  'jpeg(quality=75,strip=true)',
)
# Codecs that an edge chooses from.
_CURVE = (
  common.MERGED_ECVQ.format(2, 4, '2.0'),
  common.MERGED_ECVQ.format(2, 4, '0.6'),
  common.MERGED_ECVQ.format(3, 4, '1.5'),
  common.MERGED_ECVQ.format(3, 4, '0.6'),
  common.MERGED_ECVQ.format(4, 4, '0.6'),
  common.MERGED_ECVQ.format(4, 4, '0.3'),
  common.MERGED_ECVQ.format(5, 4, '0.3'),
  common.MERGED_ECVQ.format(6, 2, '0.3'),
  common.MERGED_ECVQ.format(8, 1, '0.05'),
  common.MERGED_ECSQ.format(6, 2, 'step=0.7'),
  common.MERGED_ECSQ.format(8, 1, 'step=0.6'),
  common.MERGED_ECSQ.format(12, 0, 'step=0.4'),
  common.MERGED_ECSQ.format(16, 0, 'step=0.25'),
  common.MERGED_ECSQ.format(24, 0, 'step=0.25'),
  common.MERGED_ECSQ.format(32, 0, 'step=0.25'),
  'merge(k=16)',
  'merge(k=32)',
  'avif(quality=8,strip=true,chroma=444)',
  'avif(quality=25,strip=true,chroma=444)',
  'avif(quality=50,strip=true,chroma=444)',
  'avif(quality=90,strip=true,chroma=444)',
  'webp(quality=60)',
  'jpeg(quality=75)',
)


# Title, task, and kinds of its questions, () for all. One question of a kind
# about each of many scenes says more than several about few: intervals are over
# scenes.
_WORDS = 'scenes(without=yes_no,most=1)'
_LINES = (
  ('captions', 'captions(data=scenes)', ()),
  ('attributes', _WORDS, ('colour', 'shape', 'texture', 'size')),
  ('counts', _WORDS, ('count',)),
  ('relations', _WORDS, ('relation',)),
  ('detection', 'scenes_box(most=1)', ('detect',)),
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a mode, `tiny` by default."""
  mode = config_lib.parse(arg, mode=MODES)['mode']
  config = common.evaluation()
  common.codecs(config)
  common.of_task(config, '')
  config.data_split = 'test'
  config.limit, config.batch_size = 200, 50
  config.seeds = (0,)
  config.coding = 'best'  # The smallest messages, see docs/wire.md.
  config.methods = (
    'kmeans(init=++)',
    'merge',
    'packed',
    'random(rebuild=nearest)',
  )
  config.ks = (2, 4, 8, 16, 32)
  config.codecs = _CODECS
  config.blind = ('mean', 'shuffled')

  # Lines of the figure: a title, a task, and the kinds of its questions, () for
  # all.
  config.lines = _LINES
  config.k = 8  # Number of vectors that the findings are about.
  # Image codec that answers the easy questions: the findings are told of the
  # others, too. '' for none.
  config.control = 'avif(quality=5,strip=true,chroma=444)'
  config.budgets = (20, 50, 100, 300)  # Largest mean bytes of a message.
  config.shares = (0.95,)  # Shares of the score of all vectors.

  if mode == 'curve':
    config.data_split = 'val'
    config.limit = 300
    config.methods = ('kmeans(init=++)',)
    config.ks = (4, 8, 16, 32)
    config.codecs = _CURVE
    config.blind, config.control = (), ''
    config.resamples = 1  # Of no use for the curves.

  if mode == 'smoke':
    common.smoke(config)
    config.limit = 3
    config.methods = ('kmeans(init=++)',)
    config.ks = (2, 8)
    config.control = 'avif(quality=8,strip=true)'
    config.codecs = (
      'avif(quality=8,strip=true)',
      'avif(quality=60,strip=true)',
    )
  return config
