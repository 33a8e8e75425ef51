"""Evaluation loop: one record per image, codec and seed."""

import collections
from collections.abc import Sequence
from concurrent import futures
import contextlib
import dataclasses
import os
from typing import Any

import tqdm

from collab_jax import captioner as captioning
from collab_jax import channels as channels_lib
from collab_jax import codecs as codecs_lib
from collab_jax import data as datasets
from collab_jax import sharding
from collab_jax.evaluation import (
  batches,
  filter_readable,
  recorder,
  validate,
)
from collab_jax.evaluation import blind as blinds
from collab_jax.evaluation import records as files

# Threads that compile: one of them traces while another's program is built.
_COMPILERS = 2


def evaluate(
  codecs: Sequence[codecs_lib.Codec],
  *,
  captioner: captioning.Captioner,
  data: Any,
  seeds: Sequence[int] = (0,),
  path: str | os.PathLike[str] | None = None,
  batch_size: int = 64,
  workers: int = 1,
  progress: bool = True,
  blind: Sequence[str] = (),
  channel: str | channels_lib.Channel | None = None,
) -> list[dict[str, Any]]:
  """Captions every image through every codec.

  The image encoder runs once per image and split. Every record comes from
  bytes that were really packed and decoded. No record depends on the batch
  size, except for rounding (the order of additions): captions could differ in
  a tie, distortions in their last digits. Codecs that ignore the random key
  run for the first seed only, unless the captions are drawn with it.

  Args:
    codecs: Codecs and links to compare; names must differ.
    captioner: Writes the captions.
    data: A reader with `name`, `__len__` and `__getitem__` -> Example, whose
      images have the model's size; damaged ones are left out and listed.
    seeds: Each makes the random key of one more pass.
    path: JSONL file to append to. Records in it are not made again, so a
      killed run goes on where it stopped; a file made with another model,
      data, way to resize pictures or decoding is refused.
    batch_size: Images at a time; on a mesh what its axis 'data' divides, too.
    workers: Passes at a time. Two keep a CPU's cores busier; each then takes
      longer, and says so in its 'seconds'. On a mesh always one: devices that
      wait for each other must run their programs in one order.
    progress: Show a bar.
    blind: Baselines to add: 'zeroed', 'mean', 'shuffled' (see `Blind`).
    channel: Channel of the messages, such as 'erasure(p=0.4)'. Losses and
      noise are deterministic per (seed, image id). A `Link` keeps its own
      channel; messages of the others are sent whole.

  Returns:
    The records: {'image_id', 'codec', 'settings' (nested), 'name', 'seed',
    'caption', 'references', 'sent', 'vectors', 'ratio', 'bytes',
    'total_bytes', 'distortion' (mean squared error per number, None where the
    grid is not rebuilt), 'seconds' per image and stage, 'model', 'data',
    'decoding', 'slots' (generated scenes only), 'link' (of links only:
    'packets', 'lost' of them, 'whole' if the message can be read, the share of
    its 'rows' that arrived, 'seconds', 'airtime')}, ordered by codec, seed and
    image.

  Raises:
    ValueError: No readable images, names that are not unique, or pictures of
      another size than the model's.
    SettingsError: `path` was made with other settings.
  """
  if channel is not None:
    codecs = [
      codec if codec.channel else codecs_lib.Link(codec, channel)
      for codec in codecs
    ]
  described = {codec.name: codec.describe() for codec in codecs}
  if len(described) < len(codecs):
    names = [codec.name for codec in codecs]
    twice = sorted({name for name in names if names.count(name) > 1})
    raise ValueError(f'codecs given twice: {", ".join(twice)}')
  validate.check_passes(seeds, batch_size, workers, blind)
  resizing = getattr(data, 'method', None)
  data = filter_readable.filter_readable(data, path, progress)
  blindfold = blinds.Blind(captioner, blind, len(data), seeds[0])
  described |= blindfold.describe()
  model = captioner.model
  alone = sharding.mesh_of(model.params) is None
  settings = {
    'format': 1,
    'model': {
      'name': model.config.name,
      'checksum': sharding.checksum(model.params),
    },
    'data': data.name,
    'captioner': captioner.describe(),
  }
  if resizing is not None:
    settings['preprocess'] = resizing
  passes = [
    (codec, seed)
    for codec in codecs
    for seed in (seeds if codec.uses_key or captioner.uses_key else seeds[:1])
  ]
  with contextlib.ExitStack() as stack:
    store = None
    if path is not None:
      store = stack.enter_context(files.Store(path, settings, described))
    compiler, pool = (
      stack.enter_context(futures.ThreadPoolExecutor(n if alone else 1))
      for n in (_COMPILERS, workers)
    )
    for threads in (compiler, pool):
      stack.callback(threads.shutdown, wait=False, cancel_futures=True)
    run = _Run(captioner, data, passes, blindfold, seeds[0], store, pool)
    size = sharding.padded(min(batch_size, len(data)), model.params)
    if alone:
      run.compile(compiler, size)
    run.go(size, progress)
    return run.result()


class _Run:
  """The state of one evaluation."""

  def __init__(self, captioner, data, passes, blindfold, seed, store, workers):
    self.captioner = captioner
    self.recorder = recorder.Recorder(captioner, data)
    self.data = data
    self.passes = passes
    self.blindfold = blindfold
    self.seed = seed
    self.store = store
    self.workers = workers
    self.known = dict(store.records) if store else {}
    self.examples: list[datasets.Example] = []
    self.ready: dict[str, futures.Future] = {}
    self.compiled: set[Any] = set()  # Keys of `FeatureCache`.
    counts = collections.Counter(key[1:] for key in self.known)
    self.missing = {
      name
      for name, s in [
        *((codec.name, seed) for codec, seed in passes),
        *((name, seed) for name in blindfold.describe()),
      ]
      if counts[name, s] < len(data)
    }
    self.blind_missing = bool(self.missing & blindfold.describe().keys())
    if self.blind_missing:
      self.identity = codecs_lib.FeatureCodec(captioner.model, 'identity')

  def compile(self, pool: futures.Executor, size: int):
    """Starts to compile all programs, beside the first batch's computing."""
    lengths: set[int] = set()

    def warm(codec):
      prefix = codec.warm_up(size)
      if prefix.x.shape[1] not in lengths:
        lengths.add(prefix.x.shape[1])
        key = self.captioner.keys(self.seed, range(size))
        self.captioner(prefix, key=key)

    for codec, _ in self.passes:
      name = codec.name
      if name in self.missing and name not in self.ready:
        self.ready[name] = pool.submit(warm, codec)

  def go(self, size: int, progress: bool):
    """Makes what is missing."""
    blind = len(self.blindfold.kinds)
    with tqdm.tqdm(
      total=len(self.data) * (len(self.passes) + blind),
      unit=' captions',
      smoothing=0.02,
      disable=not progress,
      dynamic_ncols=True,
      desc=self.data.name,
    ) as bar:
      examples = datasets.prefetch(self.data, ahead=2 * size)
      for start in range(0, len(self.data), size):
        count = min(size, len(self.data) - start)
        batch = batches.Batch([next(examples) for _ in range(count)], size)
        # The pictures themselves are not needed any more afterwards.
        self.examples += [
          dataclasses.replace(e, image=e.image[:0]) for e in batch.examples
        ]
        self._batch(batch, bar)
      if self.blind_missing:
        self._blind()
      bar.update(len(self.data) * blind)

  def result(self) -> list[dict[str, Any]]:
    """All records of this evaluation, in the order of its arguments."""
    passes = [(codec.name, seed) for codec, seed in self.passes]
    passes += [(name, self.seed) for name in self.blindfold.describe()]
    return [
      self.known[e.image_id, name, seed]
      for name, seed in passes
      for e in self.examples
    ]

  def _batch(self, batch: batches.Batch, bar):
    todo = [
      (codec, seed)
      for codec, seed in self.passes
      if any((i, codec.name, seed) not in self.known for i in batch.ids)
    ]
    bar.update(len(batch.ids) * (len(self.passes) - len(todo)))
    cache = codecs_lib.FeatureCache(self.compiled)
    for codec, _ in todo:  # Beside the other threads, which compile.
      codec.prefetch(batch.images, cache)

    def make(item):
      codec, seed = item
      if codec.name in self.ready:
        self.ready[codec.name].result()
      return self.recorder.records(codec, seed, batch, cache)

    for made in self.workers.map(make, todo):
      self._add(made)
      bar.update(len(batch.ids))
    if self.blind_missing:
      (features, _), _ = self.identity.observe_cached(batch.images, cache)
      self.blindfold.add(features, batch.padded_ids, len(batch.ids))
    if self.store:
      self.store.sync()

  def _blind(self):
    captions = self.blindfold.captions()
    for name, settings in self.blindfold.describe().items():
      common = {
        'codec': settings,
        'settings': settings,
        'name': name,
        'seed': self.seed,
        'sent': 0,
        'vectors': settings['tokens'],
        'ratio': 0.0,
        'seconds': {},
      }
      self._add(
        self.recorder.record(example, common, captions[name][i])
        for i, example in enumerate(self.examples)
      )

  def _add(self, made):
    new = [r for r in made if files.key_of(r) not in self.known]
    self.known |= {files.key_of(record): record for record in new}
    if self.store:
      self.store.append(new)
