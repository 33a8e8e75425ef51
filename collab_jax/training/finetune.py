"""Trains a model with the quantizer inside of it."""

from collections.abc import Callable, Iterator
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any, cast

from absl import logging
import jax
from jax import numpy as jnp
import ml_collections
import numpy as np

from collab_jax import (
  _renamed,
  checkpoints,
  codecs,
  data,
  distributed,
  metrics,
  quantizers,
  random_keys,
  sharding,
)
from collab_jax import captioner as captioner_lib
from collab_jax.checkpoints import trees
from collab_jax.models import lora, paligemma
from collab_jax.quantizers import pretrained
from collab_jax.training import (
  batches,
  captioned,
  codebooks,
  finetune_step,
  losses,
  param_groups,
  train_loop,
  validate,
  validation,
)
from collab_jax.training.codebooks import ema_codebook

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

# Settings that change where the result is computed, and how it is written: it
# is the same, up to the order of sums.
PLACES = ('mesh', 'distributed')
FREE = ('name', 'saved', *PLACES)


def finetune(
  config: Any, model: paligemma.Model, workdir: str | os.PathLike[str]
) -> paligemma.Model:
  """Trains to the end, from the last checkpoint if there is one.

  Args:
    config: From configs/finetune.py.
    model: Start model, with its vocabulary and stacked layers.
    workdir: Gets checkpoints/, metrics.jsonl and, at the end, model/, which
      `collab_jax.load` reads, and book.safetensors if a codebook was learned.

  Returns:
    The trained model, as it was written.

  Raises:
    ValueError: As `validate.check`, or the folder belongs to a run with other
      settings.
    CheckpointError: The model's layers are apart, or none of the folder's
      checkpoints can be read.
    BlockingIOError: Another process trains in the folder.
  """
  dims = model.config
  trees.check_stacked(model.params, dims.name)
  train_quantizers, weights = validate.check(config, dims)
  source = make_source(config, model)
  reader = validation_reader(config, dims)
  workdir = pathlib.Path(workdir).absolute()
  with train_loop.locked(workdir):
    train_loop.open_run(config, workdir, FREE, depends_on(config, model))
    return _train(
      config, model, source, reader, train_quantizers, weights, workdir
    )


def make_source(
  config: Any, model: paligemma.Model
) -> batches.TrainingExamples | captioned.CaptionedExamples:
  """Makes the training examples of a config.

  Args:
    config: From configs/finetune.py.
    model: The start model.

  Returns:
    Generated scenes, or the pictures of a dataset without those that are
    damaged.

  Raises:
    ValueError: A scene's caption does not fit, a dataset has no readable
      picture, or as `data.make`.
    FileNotFoundError: As `data.make`.
  """
  tokenizer = cast(Any, model.tokenizer)
  text = config.prompt, config.text_length
  if config.data == 'scenes':
    scenes = batches.TrainingExamples(tokenizer, *text, 0, config.dense_share)
    scenes[config.first_example]  # Raises if prompt and caption do not fit.
    return scenes
  reader = training_reader(config, model.config)
  source = captioned.CaptionedExamples(reader, tokenizer, *text, config.seed)
  print(source.describe(), flush=True)
  return source


def training_reader(config: Any, dims: paligemma.Config) -> Any:
  """Makes a reader of a dataset's readable pictures at the model's size."""
  split = config.data_split, config.limit or None
  return _readable(_reader(config, dims, *split))


def validation_reader(config: Any, dims: paligemma.Config) -> Any:
  """Makes a reader of the first `eval_scenes` pictures of `eval_split`."""
  split = config.eval_split, config.eval_scenes
  return _readable(_reader(config, dims, *split))


def _readable(reader: Any) -> Any:
  """Leaves out damaged pictures, and warns of each."""
  reader, damaged = data.readable(
    reader,
    progress=distributed.is_first(),
    part=distributed.part(),
    gather=distributed.gather,
  )
  for text in damaged:
    logging.warning('left out: %s', text)
  if not len(reader):
    raise ValueError(
      f'{reader.name}: got no picture that can be read, expected at least one'
    )
  return reader


def _reader(config: Any, dims: paligemma.Config, split: str, limit: int | None):
  size = dims.vision.image_size
  return data.make(
    config.data, config.data_dir, split, limit, size, config.preprocess
  )


def depends_on(config: Any, model: paligemma.Model) -> dict[str, Any]:
  """Returns fingerprints of start model, quantizer parameters and dataset."""
  names = (*config.quantizers, *config.eval_codecs)
  values = train_loop.dependencies(model, names)
  if config.data != 'scenes':
    splits = (
      (config.data_split, config.limit or None),
      (config.eval_split, None),
    )
    readers = [_reader(config, model.config, *split) for split in splits]
    values['data'] = [train_loop.dataset_fingerprint(r) for r in readers]
  return values


def training_dimensions(
  config: Any, dims: paligemma.Config
) -> paligemma.Config:
  """Returns dimensions whose layers are computed again for gradients.

  Args:
    config: With `remat`; False changes nothing.
    dims: The model's dimensions.
  """
  if not config.remat:
    return dims
  vision, text = (
    dataclasses.replace(tower, remat=True) for tower in (dims.vision, dims.text)
  )
  return dataclasses.replace(dims, vision=vision, text=text)


def _train(
  config: Any,
  model: paligemma.Model,
  source: batches.TrainingExamples | captioned.CaptionedExamples,
  reader: Any,
  train_quantizers: list[quantizers.Quantizer],
  weights: finetune_step.LossWeights,
  workdir: pathlib.Path,
) -> paligemma.Model:
  """Takes the remaining steps in a folder of one's own, and exports."""
  dims = training_dimensions(config, model.config)
  tx = param_groups.optimizer(config, config.rates.to_dict())
  trainable, frozen = split_params(config, model)

  def stream(first):
    scenes = config.data == 'scenes'
    first_batch = config.first_example // config.batch_size if scenes else 0
    return batches.batches(
      source,
      config.batch_size,
      first_batch + first,
      mesh=sharding.mesh_of(model.params),
    )

  fresh = not train_loop.has_checkpoint(workdir)
  codes = initial_codebook(config, model, train_quantizers, stream(0), fresh)
  state = finetune_step.FinetuneState(
    trainable, tx.init(trainable), codes, jnp.zeros((), jnp.int32)
  )
  mesh = sharding.mesh_of(model.params)
  state = sharding.replicate(state, mesh)
  frozen = sharding.replicate(frozen, mesh)
  teacher = model.params if weights.distill else None
  key = random_keys.make(config.seed)

  def step_fn(state, steps_done, batch):
    quantizer = draw_quantizer(config, train_quantizers, steps_done)
    batch = sharding.rows(batch, model.params)
    return finetune_step.finetune_step(
      dims, tx, weights, quantizer, state, frozen, teacher, batch, key
    )

  scores = _evaluator(config, model, frozen, reader)
  state = train_loop.run(config, workdir, state, step_fn, stream, scores)
  return _export(config, model, state, frozen, workdir)


def _evaluator(
  config: Any, model: paligemma.Model, frozen: Any, reader: Any
) -> Callable[[finetune_step.FinetuneState, int], list[dict[str, float]]]:
  """Returns a function that scores a state every `eval_every` steps."""

  def scores(state, steps_done):
    if steps_done % config.eval_every and steps_done != config.steps:
      return []
    params = param_groups.join(state.params, frozen)['model']
    current = dataclasses.replace(model, params=merge_adapters(params))
    by_codec = {}
    for text in config.eval_codecs:
      # A run without the quantizer has learned no codebook.
      quantizer = quantizers.make(text)
      if state.codes is None and finetune_step.learned_codebook(quantizer):
        continue
      by_codec[text] = evaluate(current, config, state.codes, text, reader)
    return [by_codec]

  return scores


def _export(
  config: Any,
  model: paligemma.Model,
  state: finetune_step.FinetuneState,
  frozen: Any,
  workdir: pathlib.Path,
) -> paligemma.Model:
  """Writes codebook and model, and loads the model again."""
  params = param_groups.join(state.params, frozen)['model']
  saved = checkpoints.as_dtype(config.saved or None, 'saved')
  params = merge_adapters(params, saved)
  params = jax.tree.map(
    lambda p, q: p.astype(saved or q.dtype), params, model.params
  )
  # The model last: where it is, the run is done.
  if state.codes is not None:
    trained = dataclasses.replace(model, params=params)
    _save_codebook(
      workdir / 'book.safetensors',
      sharding.gather_tree(state.codes),
      trained,
      config,
    )
  description = {**model.config.to_dict(), 'name': config.name}
  tokenizer = cast(Any, model.tokenizer)
  train_loop.save_model(workdir / 'model', params, description, tokenizer)
  return checkpoints.load(workdir / 'model', dtype='float32')


def initial_params(
  config: Any, params: paligemma.Params, dims: paligemma.Config
) -> dict[str, Any]:
  """Adds adapters and heads to a model's parameters, as a run begins."""
  model, heads = jax.random.split(random_keys.make(config.seed))
  if config.train == 'lora':
    llm = params['llm']
    adapters = lora.init(llm['layers'], model, config.rank, config.alpha)
    layers = {**llm['layers'], lora.NAME: adapters}
    params = {**params, 'llm': {**llm, 'layers': layers}}
  return {
    'model': params,
    'heads': losses.init_heads(heads, dims.vision.width),
  }


def split_params(config: Any, model: paligemma.Model) -> tuple[Any, Any]:
  """Returns the initial trainable parameters, in float32, and the frozen."""
  params = initial_params(config, model.params, model.config)
  groups = param_groups.trainable_groups(config.train, config.encoder)
  trainable, frozen = param_groups.split(params, groups)
  # In bfloat16 small updates would round to nothing. A step donates its
  # buffers, and the caller keeps the model: a copy.
  trainable = jax.tree.map(
    lambda p: jnp.array(p, jnp.float32, copy=True), trainable
  )
  return trainable, frozen


def merge_adapters(
  params: paligemma.Params, dtype: Any = None
) -> paligemma.Params:
  """Adds adapters to their matrices, as parameters are saved.

  Args:
    params: The model's parameters, with or without adapters.
    dtype: As of `lora.merge`.
  """
  llm = params['llm']
  layers = lora.merge(llm['layers'], dtype)
  return {**params, 'llm': {**llm, 'layers': layers}}


def draw_quantizer(
  config: Any, train_quantizers: list[quantizers.Quantizer], steps_done: int
) -> quantizers.Quantizer | None:
  """Draws the quantizer of a batch.

  None, all features, in the share `config.full`; else any of the quantizers.
  """
  rng = np.random.default_rng([config.seed, steps_done])
  if not train_quantizers or rng.random() < config.full:
    return None
  return train_quantizers[rng.integers(len(train_quantizers))]


def initial_codebook(
  config: Any,
  model: paligemma.Model,
  train_quantizers: list[quantizers.Quantizer],
  stream: Iterator[Any],
  fresh: bool,
) -> ema_codebook.EmaCodebook | None:
  """Trains a codebook on the vectors that the start model sends.

  Args:
    config: With `book`, of which the fields are those of configs/codebook.py.
    model: Start model.
    train_quantizers: The quantizers of the run.
    stream: Batches.
    fresh: False for zeros, which a checkpoint replaces.

  Returns:
    The codebook; None if no quantizer learns one.
  """
  learning = [
    (quantizer, inner)
    for quantizer in train_quantizers
    if (inner := finetune_step.learned_codebook(quantizer))
  ]
  if not learning:
    return None
  stages, size = learning[0][1].stages, learning[0][1].size
  width = model.config.vision.width
  if not fresh:
    zeros = jnp.zeros((stages, size, width))
    return ema_codebook.init(zeros, jnp.ones((stages, size)))

  @jax.jit
  def centroids(images):
    features = model.encode_image(images.astype(jnp.float32) / 127.5 - 1)
    keys = jax.random.split(random_keys.make(config.seed), len(features))
    sent = [
      jax.vmap(cast(Any, quantizer).cluster)(features, keys)[1]
      for quantizer, _ in learning
    ]
    return jnp.concatenate([x.reshape(-1, width) for x in sent])

  x = np.concatenate(
    [
      sharding.gather(
        centroids(sharding.rows(next(stream)['image'], model.params))
      )
      for _ in range(config.book.batches)
    ]
  )
  codebook_config = ml_collections.ConfigDict(
    {
      **config.book.to_dict(),
      'kind': 'residual',
      'stages': stages,
      'size': size,
      'seed': config.seed,
      'joint': 0,
      'groups': 1,
    }
  )
  arrays = codebooks.fit_codebook(x, codebook_config)
  share = arrays['counts'] / arrays['counts'].sum(1, keepdims=True)
  # Running counts are those of a batch, and each quantizer has its own batches.
  rows = len(x) / config.book.batches / len(learning)
  return ema_codebook.init(
    jnp.asarray(arrays['codes']), jnp.asarray(share * rows)
  )


def evaluate(
  model: paligemma.Model,
  config: Any,
  codes: ema_codebook.EmaCodebook | None,
  text: str,
  reader: Any,
) -> float:
  """Computes BLEU-4 of a reader's pictures, through a quantizer."""
  caption = captioner_lib.Captioner(model, config.max_tokens, config.prompt)
  quantizer = quantizers.make(text)

  @jax.jit
  def prefix(model, images, key):
    features = model.encode_image(images.astype(jnp.float32) / 127.5 - 1)
    output = finetune_step.apply_bottleneck(
      quantizer, codes, features, key, 'mean'
    )
    return finetune_step.project(model, output.tokens)

  key = random_keys.make(config.seed)

  def caption_images(images):
    batch = sharding.rows(images, model.params)
    return caption(prefix(model, batch, key))

  captions, examples = validation.captions(
    caption_images,
    reader,
    config.batch_size,
    sharding.mesh_of(model.params),
  )
  references = [list(e.captions) for e in examples]
  return round(metrics.bleu(captions, references)['bleu4'], 2)


def _save_codebook(path, codes, model, config):
  """Writes the codebook, as quantizers read it."""
  share = codes.counts / codes.counts.sum(1, keepdims=True)
  features = codecs.features_of(model, 'encoder')  # All processes read them.
  if not distributed.is_first():
    return
  params = pretrained.save(
    path,
    {
      'codes': np.asarray(codes.codes, np.float16),
      'counts': np.asarray(np.round(share * 2**16), np.int32),
    },
    kind='codebook',
    width=model.config.vision.width,
    features=features,
    notes={
      'model': config.name,
      'quantizers': ' '.join(config.quantizers),
      'steps': str(config.steps),
      'seed': str(config.seed),
    },
  )
  logging.info('codebook %s, fingerprint %s', path, params.fingerprint)
