"""Evaluation loop: a record per image or question, codec and seed."""

import collections
from collections.abc import Collection, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import itertools
import os
import threading
from typing import Any

from absl import logging

from collab_jax import captioner as captioning
from collab_jax import channels as channels_lib
from collab_jax import codecs as codecs_lib
from collab_jax import data as datasets
from collab_jax import distributed, monitoring, sharding, tasks
from collab_jax.evaluation import (
  askable,
  batches,
  blind_answers,
  filter_readable,
  identity,
  message_cache,
  pipeline,
  record_store,
  recorder,
  texts,
  validate,
)
from collab_jax.evaluation import blind as blinds
from collab_jax.evaluation import passes as passes_lib
from collab_jax.evaluation import progress as progress_lib
from collab_jax.evaluation.report import unlike

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
  passes: Collection[tuple[str, int]] | None = None,
  task: str | tasks.Task | None = None,
  kept: message_cache.MessageCache | None = None,
) -> list[dict[str, Any]]:
  """Captions every image through every codec, or answers questions about it.

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
      killed run goes on where it stopped; a file of other pictures or captions,
      or made with other settings, is refused (see `identity`): weights,
      tokenizer, dtypes, precision, JAX's flags, decoding, way to resize.
    batch_size: Images at a time; on a mesh what its axis 'data' divides, too.
    workers: Ignored. The host packs, unpacks and writes while the device
      computes, whatever this says; see `pipeline`.
    progress: Show a bar.
    blind: Baselines to add: 'zeroed', 'mean', 'shuffled' (see `Blind`).
    channel: Channel of the messages, such as 'erasure(p=0.4)'. Losses and
      noise are deterministic per (seed, image id). A `Link` keeps its own
      channel; messages of the others are sent whole.
    passes: Names of codecs with the seeds to run them for, so that several
      processes share the work; None for all. Blind baselines are not among
      them.
    task: Task, by name or itself, whose questions are answered: those of the
      examples that `task.load` reads. Each picture is encoded and sent once,
      whatever the number of questions. None writes captions.
    kept: Messages of other evaluations of these codecs, which are sent again;
      those of this one are added. Several processes, which all run the same
      programs, keep none.

  Returns:
    The records: {'image_id', 'codec', 'settings' (nested), 'name', 'seed',
    'caption', 'references', 'sent', 'vectors', 'ratio', 'bytes',
    'total_bytes', 'run' and 'pixels' (fingerprints of the settings and of the
    picture), 'distortion' (mean squared error per number, None where the
    grid is not rebuilt), 'seconds' per image and stage, of which those of the
    device begin where the program before ended, 'model', 'data',
    'decoding', 'slots' (generated scenes only), 'link' (of links only:
    'packets', 'lost' of them, 'whole' if the message can be read, the share of
    its 'rows' that arrived, 'seconds', 'airtime'), 'unlike' (of pictures unlike
    those that the model was trained on only), 'file' (its name, of pictures
    that are files)}, ordered by codec, seed and image. Of a task, there is one
    for each question, with 'task' (its name), 'question' (id), 'kind',
    'prompt', 'caption' (the text as it was written), 'answer' (read from it),
    'references' (of the question), 'scores' (of metrics that are means over
    questions, by name), 'questions' (their number, of the picture) and
    'question_bytes' ('total_bytes' divided by it): bytes and seconds are those
    of the picture, the same in all of its records.

  Raises:
    TypeError: One of `codecs` is no codec, or `task` is no task.
    ValueError: No readable images, names that are not unique, pictures of
      another size than the model's, or without a question of a task.
    SettingsError: `path` was made with other settings.
  """
  if isinstance(codecs, codecs_lib.Codec):
    raise TypeError(
      f'codecs: got {codecs!r}, expected a list of codecs; write [codec]'
    )
  for codec in codecs:
    codecs_lib.check_codec('codecs', codec)
  validate.check_arguments(codecs, captioner, data, blind)
  task = None if task is None else tasks.make(task)
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
  # Of several processes the first alone writes and shows anything.
  is_first = distributed.is_first()
  progress = progress and is_first
  readable = filter_readable.filter_readable(data, path, progress)
  if task is None:
    baselines = blinds.Blind(captioner, blind, len(readable), seeds[0])
  else:
    picture = validate.check_questions(task, readable)
    if warning := askable.remark(task, picture, captioner.model):
      logging.warning('%s', warning)
    baselines = blind_answers.BlindAnswers(captioner, blind, readable, seeds[0])
  codec_seeds = [
    (codec, seed)
    for codec in codecs
    for seed in (seeds if codec.uses_key or captioner.uses_key else seeds[:1])
    if passes is None or (codec.name, seed) in passes
  ]
  method = identity.method_of(data, task)
  settings = identity.settings(captioner, readable.name, method, task)
  params = captioner.model.params
  one_device = sharding.mesh_of(params) is None
  _check_processes(params)
  with contextlib.ExitStack() as stack:
    store = None
    if path is not None and is_first:
      described |= baselines.describe()
      store = stack.enter_context(
        record_store.RecordStore(path, settings, described)
      )
      store.check_pictures(datasets.prefetch(readable), progress)
    known = dict(store.records) if store else {}
    if distributed.number() > 1:
      known = _agree_on_known(known)
    compilers = stack.enter_context(futures.ThreadPoolExecutor(_COMPILERS))
    stack.callback(compilers.shutdown, wait=False, cancel_futures=True)
    threads = pipeline.open_workers(stack)
    # Names and recorded fields may have changed since the file was begun.
    names = None if store is None else (store.model, store.data)
    of_run = identity.of_run(settings) if store is None else store.run
    records = recorder.Recorder(captioner, readable, of_run, names, task)
    run = _Run(
      captioner,
      readable,
      codec_seeds,
      baselines,
      seeds[0],
      store,
      threads,
      records,
      known,
      kept if distributed.number() == 1 else None,
    )
    size = sharding.padded(min(batch_size, len(readable)), params)
    if one_device:
      run.start_compiling(compilers, size)
    run.make_missing(size, progress)
    records = run.result()
  if warning := unlike.of_records(records):
    logging.warning('%s', warning)
  return records


def _check_processes(params: Any) -> None:
  """Raises ValueError for a model that several processes do not share."""
  spans = sharding.spans_processes(sharding.mesh_of(params))
  if distributed.number() > 1 and not spans:
    raise ValueError(
      'captioner: got a model on devices of this process, expected one on a'
      f' mesh over all {distributed.number()} processes;'
      ' load(..., mesh=sharding.make_mesh(data=-1))'
    )


def _agree_on_known(
  records: dict[record_store.Key, Any],
) -> dict[record_store.Key, Any]:
  """Returns the keys of process 0's records in all processes.

  Args:
    records: Records by key, which the others lack.

  Returns:
    The records, elsewhere nothing by the same keys.
  """
  keys = distributed.broadcast([*records])
  return records or {tuple(key): {} for key in keys}


class _Run:
  """State of one evaluation."""

  def __init__(
    self,
    captioner,
    data,
    codec_seeds,
    baselines,
    seed,
    store,
    workers,
    records,
    known,
    kept,
  ):
    self.captioner = captioner
    self.recorder = records
    self.data = data
    self.codec_seeds = codec_seeds
    self.baselines = baselines
    self.seed = seed
    self.store = store
    self.workers = workers
    self.records = known
    self.kept = kept
    self.mesh = sharding.mesh_of(captioner.model.params)
    self.spans = sharding.spans_processes(self.mesh)
    # Pictures of this process by their index.
    self.examples: dict[int, datasets.Example] = {}
    self.texts: list[tuple[int, str | None]] = []  # Of all pictures.
    self.warm_ups: dict[str, futures.Future] = {}
    self.compiled: set[Any] = set()  # Keys of `FeatureCache`.
    if records.task is None:
      counts = collections.Counter(key[1:] for key in self.records)
    else:  # Of other processes' records only keys are here.
      whole = self.records.values() if distributed.is_first() else ()
      counts = record_store.count_pictures(whole)
    missing = {name for name, s in self._names() if counts[name, s] < len(data)}
    self.missing = {*distributed.broadcast([*missing])}
    self.blind_missing = bool(self.missing & baselines.describe().keys())
    if self.blind_missing:
      self.identity = codecs_lib.FeatureCodec(captioner.model, 'identity')

  def start_compiling(self, pool: futures.Executor, size: int):
    """Starts to compile all programs, while the first batch is computed."""
    lengths: set[int] = set()
    lock = threading.Lock()  # Else two threads compile one captioner.

    def warm(codec):
      prefix = codec.warm_up(size)
      length = prefix.x.shape[1]
      with lock:
        is_first = length not in lengths
        lengths.add(length)
      if is_first and self.recorder.task is None:
        key = self.captioner.keys(self.seed, range(size))
        self.captioner(prefix, key=key)
      elif is_first:
        asked = [texts.AskedPicture(0, 0, self.data[0].questions[:1])]
        chunks = texts.dispatch_answers(
          self.captioner, prefix, self.seed, asked, size
        )
        texts.fetch(self.captioner, chunks, [1])

    shared: dict[Any, futures.Future] = {}
    for codec, _ in self.codec_seeds:
      if codec.name in self.missing:
        if codec.programs not in shared:
          shared[codec.programs] = pool.submit(warm, codec)
        self.warm_ups[codec.name] = shared[codec.programs]

  def make_missing(self, size: int, progress: bool):
    """Makes the records that are missing."""
    blind = len(self.baselines.kinds)
    total = len(self.data) * (len(self.codec_seeds) + blind)
    unit = 'captions' if self.recorder.task is None else 'pictures'
    name, hides = self.data.name, not progress
    with progress_lib.Progress(total, name, hides, unit) as bar:
      batch = None
      passes_in_order = pipeline.run(self._passes(size, bar))
      count = -(-len(self.data) // size) * len(self.codec_seeds)
      for finished in monitoring.run_steps(passes_in_order, count):
        if batch is not None and finished.batch is not batch:
          bar.end_batch()
          if self.store:
            self.store.sync()
        batch, records = finished.batch, finished.records()
        self._add(records)
        bar.update(len({record['image_id'] for record in records}))
      if self.store:
        self.store.sync()
      if self.blind_missing:
        self._make_blind()
      bar.update(len(self.data) * blind)
    wanted = [[i, self._texts_of(e)] for i, e in self.examples.items()]
    in_order = sorted(distributed.collect(wanted), key=lambda pair: pair[0])
    self.texts = [text for _, several in in_order for text in several]

  def result(self) -> list[dict[str, Any]]:
    """Returns all records, in the order of the evaluation's arguments."""
    return [
      self.records[record_store.key(image_id, name, seed, question)]
      for name, seed in self._names()
      for image_id, question in self.texts
    ]

  def _texts_of(
    self, example: datasets.Example
  ) -> list[tuple[int, str | None]]:
    """Returns the image and the question of each text of a picture."""
    if self.recorder.task is None:
      return [(example.image_id, None)]
    return [(example.image_id, asked.id) for asked in example.questions]

  def _names(self) -> list[tuple[str, int]]:
    """Names and seeds of all passes, the blind baselines last."""
    blind = [(name, self.seed) for name in self.baselines.describe()]
    return [(codec.name, seed) for codec, seed in self.codec_seeds] + blind

  def _passes(self, size, bar) -> Iterator[pipeline.Pass]:
    """Makes the passes of all batches, those of a batch in one order."""
    plans = list(batches.plan(len(self.data), size, self.mesh))
    resumes = bool(self.records)
    for n, batch in enumerate(batches.read(self.data, plans, size)):
      count = min(size, len(self.data) - n * size)
      # The pictures themselves are not needed any more afterwards.
      self.recorder.note_pictures(batch.examples)
      for i, example, owned in zip(
        batch.indices, batch.examples, batch.owned, strict=True
      ):
        if owned:
          light = dataclasses.replace(example, image=example.image[:0])
          self.examples[i] = light
      wanted = [text for e in batch.examples for text in self._texts_of(e)]
      missing = [
        any(
          record_store.key(i, codec.name, seed, question) not in self.records
          for i, question in wanted
        )
        for codec, seed in self.codec_seeds
      ]
      if self.spans and resumes:
        # What one process lacks, all of them run.
        told = distributed.gather(missing)
        missing = [any(column) for column in zip(*told, strict=True)]
      elif self.spans:  # Also where all rows of a process are padding.
        missing = [True] * len(missing)
      todo = list(itertools.compress(self.codec_seeds, missing))
      bar.skip(count * (len(self.codec_seeds) - len(todo)))
      yield from self._batch_passes(batch, todo)

  def _batch_passes(self, batch, todo) -> Iterator[pipeline.Pass]:
    cache = codecs_lib.FeatureCache(self.compiled, self.workers.clock)
    for codec, _ in todo:  # Here, as other threads still compile.
      codec.prefetch(batch.images, cache)
    settings = batch, cache, self.captioner, self.recorder, self.workers.host
    for codec, seed in todo:
      if codec.name in self.warm_ups:
        self.warm_ups[codec.name].result()
      yield passes_lib.CodecPass(codec, seed, *settings, self.kept)
    if self.blind_missing:
      yield passes_lib.BlindPass(self.baselines, self.identity, batch, cache)

  def _make_blind(self):
    written = self.baselines.texts(self.examples)
    for name, settings in self.baselines.describe().items():
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
      made = [
        [i, record]
        for i, example in self.examples.items()
        for record in self.recorder.records(example, common, written[name][i])
      ]
      in_order = sorted(distributed.collect(made), key=lambda pair: pair[0])
      self._add([record for _, record in in_order])

  def _add(self, records):
    new = [r for r in records if record_store.key_of(r) not in self.records]
    self.records |= {record_store.key_of(record): record for record in new}
    if self.store:
      self.store.append(new)
