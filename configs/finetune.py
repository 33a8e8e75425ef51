"""Training of a model with the quantizer inside of it: docs/finetune.md.

Modes: `full` (the tiny model, 1,000 steps), `short` (120 steps, the notebook's,
which cost all vectors little), `released` (adapters of a released model, on
photographs) and `smoke` (seconds, for tests).
"""

from typing import Any, cast

import ml_collections

from collab_jax import config as config_lib

MODES = ('full', 'short', 'released', 'smoke')

_SENT = (
  'pool(k={},centroids=ecvq(stages=4,size=256,weight={},beam=4,book=random))'
)
_MERGED = _SENT.replace('pool', 'merge')
_CODED = (
  '{},centroids=pca(dims=128,vectors=ecvq(weight={},book={{{}}}),'
  'book={{centroids}}))'
)
_SHIPPED = '{},centroids=pca(dims=128,vectors=ecvq(weight={})))'


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the settings of a mode, `full` by default."""
  mode = config_lib.parse(arg, mode=MODES)['mode']
  c = cast(Any, ml_collections.ConfigDict())
  c.seed = 0  # Of what is drawn.

  # The model to start from, as in configs/tradeoff.py.
  c.model = 'tiny'
  c.model_path = ''  # Folder or npz of a released model.
  c.tokenizer = ''  # File of the tokenizer, if not beside the weights.
  c.res = 0  # Side of the pictures in pixels, 0 for the model's.
  # Devices over which rows and parameters are spread; -1 for all that `model`
  # leaves.
  c.mesh = ml_collections.ConfigDict({'data': -1, 'model': 1})
  # Other processes that run the same model: '' for none, 'auto' on SLURM, Cloud
  # TPU and GKE, else 'host:port,i/n', an address of process 0 and which process
  # of how many this is; docs/cluster.md.
  c.distributed = ''
  c.name = 'tiny-tuned'  # Name of the trained model.
  # Dtype of frozen parameters, '' as they are loaded; what trains is float32.
  c.dtype = ''
  # Products of training and of the comparison, as in configs/common.py. A
  # gradient is coarser by those of 16 bits, and they are faster off a CPU.
  c.compute_dtype = 'float32'
  c.precision = 'default'  # Of float32 products, 'default' or 'highest'.
  c.saved = 'bfloat16'  # Dtype of the result, '' as the start model's.

  # Compute layers again for gradients, instead of keeping what they computed:
  # much less memory, and a third more time.
  c.remat = False

  # What trains: 'projector', 'lora' (the projector and adapters of the
  # decoder's matrices) or 'all' (the projector and the decoder).
  c.train = 'all'
  c.encoder = True  # Whether the encoder trains, too.
  c.rank = 8  # Of 'lora': rank of the adapters.
  c.alpha = 16.0  # Of 'lora': scale of their product, times the rank.

  # Each batch passes through one of these, drawn. The book 'random' within a
  # clustering is learned.
  c.quantizers = tuple(
    _SENT.format(*row) for row in ((1, 0.1), (2, 0.3), (4, 0.6), (4, 0.2))
  )
  c.full = 0.25  # Share of the batches that pass through none.

  c.weights = ml_collections.ConfigDict(
    {
      'caption': 1.0,  # Weight of the captions.
      'distill': 1.0,  # Of the divergence from the start model's logits.
      'temperature': 1.0,  # Temperature of those logits.
      'label': 0.0,  # Weight of the labels of patches, if the encoder trains.
      'commit': 0.01,  # Of the distance of vectors from their codes.
      'rate': 0.005,  # Of a bit.
      'decay': 0.95,  # Of the moving averages that codes are.
      'dead': 0.01,  # Count below which a code is replaced; 0 for never.
      'gradient': 'mean',  # Of a cluster's mean: 'mean' or 'straight'.
    }
  )
  # What the codebook starts from: clusters of what so many batches send, by so
  # many mini-batches of so many vectors, and passes over all of them.
  c.book = ml_collections.ConfigDict(
    {'batches': 20, 'steps': 50, 'rows': 4096, 'passes': 5}
  )

  # 'scenes', or captioned pictures on disk, as in configs/common.py.
  c.data = 'scenes'
  c.data_dir = ''  # Folder of a dataset given by name.
  c.data_split = 'train'  # Split that trains.
  c.eval_split = 'val'  # Split that scores the model.
  c.preprocess = 'hf_bicubic'  # How pictures come to the model's size.
  c.limit = 0  # Number of pictures, the first ones; 0 for all.

  c.prompt = 'caption en'  # Text before the captions.
  c.text_length = 40  # Tokens of prompt and caption together.
  c.batch_size = 32  # Pictures at a time.
  # Scenes from here on; the tiny model has seen the first 115,200. Pictures
  # on disk are all seen once in each epoch, in an order of its own.
  c.first_example = 131072
  c.dense_share = 0.0  # Share of dense scenes.

  c.steps = 1000  # Batches of the training.
  c.optimizer = 'muon'  # Or 'adamw'.
  c.learning_rate = 1.5e-3  # At the top; it falls along a cosine.
  c.warmup_steps = 20  # Steps in which the learning rate rises from 0.
  c.weight_decay = 0.0  # With 'muon' of the matrices alone.
  c.clip = 1.0  # Largest norm of all gradients together.
  # Shares of the learning rate by part.
  c.rates = ml_collections.ConfigDict({'heads': 1.0})

  c.log_every = 25  # Steps between lines of metrics.jsonl.
  c.save_every = 50  # Steps between checkpoints.
  c.eval_every = 250  # Steps between evaluations.
  c.eval_scenes = 100  # Scenes of `val` in each of them.
  # Codecs of those evaluations.
  c.eval_codecs = ('identity', 'pool(k=1)', 'pool(k=4)', *c.quantizers[1:3])
  c.max_tokens = 34  # Longest caption.

  # Comparison of the models: parameters of quantizers, codecs and records.
  c.compare = _compare()

  if mode == 'short':
    _short(c)
  if mode == 'released':
    _released(c)
  if mode == 'smoke':
    c.batch_size, c.steps, c.warmup_steps = 4, 8, 2
    c.log_every, c.save_every, c.eval_every, c.eval_scenes = 2, 2, 8, 4
    c.optimizer = 'adamw'
    c.quantizers = (
      'pool(k=2,centroids=ecvq(stages=2,size=4,weight=0.05,beam=2,book=random))',
    )
    c.eval_codecs = ('identity',)
    c.full = 0.5
    c.book.batches, c.book.steps, c.book.passes = 2, 2, 2
    c.max_tokens = 4
    compare = cast(Any, c.compare)
    compare.rate.update(
      {'limit': 4, 'batch_size': 4, 'max_tokens': 4, 'resamples': 20}
    )
    compare.rate.codecs = ('merge(k=4)', 'merge(k=8)')
    compare.kept, compare.shipped = ('merge(k=4)',), ()
    for book in compare.books.values():
      book.limit = 4
      if book.mode == 'ecvq':
        book.update(
          {'size': 4, 'stages': 2, 'joint': 1, 'passes': 1, 'steps': 1}
        )
  return c


def _short(c: Any) -> None:
  """Changes the settings to those of few steps that cost all vectors little.

  At the rate of 1,000 steps, through means of cells, a model changes further
  than 120 steps can mend: hence a lower rate, clusters, which the features
  already fit, and more batches with all vectors (docs/finetune.md).
  """
  rows = ((2, 0.3), (3, 0.3), (5, 0.1))
  c.quantizers = tuple(_MERGED.format(*row) for row in rows)
  c.eval_codecs = ('identity', 'merge(k=3)')
  c.full, c.learning_rate = 0.6, 6e-4
  c.steps, c.eval_every = 120, 120


def _released(c: Any) -> None:
  """Changes the settings to those of a released model and photographs.

  Memory was measured (docs/finetune.md), captions were not: steps and learning
  rate are starting points, after LoRA's usual ones.
  """
  c.model, c.name = 'paligemma-3b-pt-224', 'paligemma-3b-pt-224-tuned'
  c.dtype, c.compute_dtype, c.remat = 'bfloat16', 'bfloat16', True
  c.train, c.encoder = 'lora', False
  c.data, c.text_length = 'coco', 64
  c.quantizers = tuple(f'merge(k={k})' for k in (4, 8, 16, 32))
  c.eval_codecs = ('identity', 'merge(k=8)', 'merge(k=32)')
  c.weights.commit = c.weights.rate = 0.0  # No codebook is learned.
  c.optimizer, c.learning_rate, c.warmup_steps = 'adamw', 2e-4, 100
  c.batch_size, c.steps, c.max_tokens = 16, 5000, 32
  c.save_every = c.eval_every = 500
  kept = c.quantizers  # Which have no books.
  c.compare.books = ml_collections.ConfigDict()
  c.compare.rate.update(
    {'codecs': kept, 'max_tokens': 32, 'batch_size': 16, 'compute_dtype': ''}
  )
  c.compare.kept, c.compare.shipped = kept, ()


def _compare() -> ml_collections.ConfigDict:
  """Returns the fields of the comparison: parameters, codecs and records."""
  c = cast(Any, ml_collections.ConfigDict())
  # Books of each model's own, by name: a mode of configs/codebook.py, and what
  # is other than there. They are made in the order of their names.
  merged, pooled = (
    tuple(f'{name}(k={k}{more},centroids=identity(dtype=float32))' for k in ks)
    for name, ks, more in (
      ('merge', (2, 3, 5), ',smooth=2'),
      ('pool', (1, 2, 4, 8), ''),
    )
  )
  codes: dict[str, Any] = {'limit': 1000, 'joint': 5}
  codes['transform'] = 'pca(dims=128,book={centroids})'
  c.books = ml_collections.ConfigDict(
    {
      'centroids': {
        'mode': 'centroids',
        'limit': 1000,
        'sent': (*merged, *pooled),
      },
      'merged': {'mode': 'ecvq', 'sent': merged, **codes},
      'pooled': {'mode': 'ecvq', 'sent': pooled, **codes},
    }
  )
  # The codecs without books.
  kept = ('kmeans(k=4,init=++)', 'merge(k=4)', 'merge(k=8)', 'merge(k=2)')
  kept += ('pool(k=1)', 'pool(k=2)', 'pool(k=4)', 'pool(k=8)')
  rows = [(2, 4, 2.0), (2, 4, 0.6), (3, 4, 1.5), (3, 4, 0.6), (4, 4, 0.6)]
  rows += [(4, 4, 0.3), (5, 4, 0.3), (6, 2, 0.3), (8, 1, 0.05)]
  merges = [(f'merge(k={k},smooth={s}', weight) for k, s, weight in rows]
  cells = [(1, 1.0), (1, 0.1), (2, 1.0), (2, 0.2), (4, 1.0), (4, 0.3)]
  pools = [(f'pool(k={k}', w) for k, w in [*cells, (4, 0.05), (8, 0.1)]]
  # Instead of what configs/rate.py has: of each model, with its own books.
  c.rate = ml_collections.ConfigDict(
    {
      # The models are stored in other dtypes, and compared in one.
      'compute_dtype': 'float32',
      'methods': (),
      'ks': (),
      'blind': (),
      'limit': 500,
      'codecs': (
        *kept,
        *(_CODED.format(*row, 'merged') for row in merges),
        *(_CODED.format(*row, 'pooled') for row in pools),
      ),
    }
  )
  # Codecs whose share of all vectors' score is shown.
  c.kept = kept
  # Codecs of the model to start from, with the books that ship.
  c.shipped = tuple(_SHIPPED.format(*row) for row in merges)
  return c
