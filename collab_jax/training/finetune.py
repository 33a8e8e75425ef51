"""The run that trains a model with the quantizer inside of it."""

import dataclasses
import os
import pathlib
from typing import Any, cast

from absl import logging
import jax
from jax import numpy as jnp
import ml_collections
import numpy as np

from collab_jax import captioner as captioner_lib
from collab_jax import checkpoints, codecs, metrics, quantizers
from collab_jax.checkpoints import trees
from collab_jax.models import lora, paligemma
from collab_jax.quantizers import pretrained
from collab_jax.training import (
  batches,
  finetune_step,
  losses,
  param_groups,
  train_loop,
  validate,
  validation,
)
from collab_jax.training.codebooks import (
  ema_codebook,
  train,
)

# Settings that say how the result is written, and may change on the way.
FREE = ('name', 'saved')


def finetune(
  config: Any, model: paligemma.Model, workdir: str | os.PathLike[str]
) -> paligemma.Model:
  """Trains to the end, from the last checkpoint if there is one.

  Args:
    config: From configs/finetune.py.
    model: To start from, with its vocabulary, its layers stacked.
    workdir: Gets checkpoints/, metrics.jsonl and, at the end, model/, which
      `collab_jax.load` reads, and book.safetensors if a codebook was learned.

  Returns:
    The trained model, as it was written.

  Raises:
    ValueError: As `settings.check`, or the folder belongs to a run with other
      settings.
    CheckpointError: The model's layers are apart.
  """
  dims = model.config
  trees.check_stacked(model.params, dims.name)
  chosen, weights = validate.check(config, dims)
  source = batches.Source(
    cast(Any, model.tokenizer),
    config.prompt,
    config.text_length,
    0,
    config.dense_share,
  )
  source[config.first_example]  # Whether prompt and caption fit.
  workdir = pathlib.Path(workdir).absolute()
  train_loop.open_run(config, workdir, FREE)
  tx = param_groups.optimizer(config, config.rates.to_dict())
  moves, still = start(config, model)
  first_batch = config.first_example // config.batch_size

  def stream(first):
    return batches.batches(source, config.batch_size, first_batch + first)

  fresh = not train_loop.goes_on(workdir)
  book = first_codes(config, model, chosen, stream(0), fresh)
  state = finetune_step.State(
    moves, tx.init(moves), book, jnp.zeros((), jnp.int32)
  )
  teacher = model.params if weights.distill else None
  key = jax.random.key(config.seed)

  def take(state, done, batch):
    quantizer = choose(config, chosen, done)
    return finetune_step.finetune_step(
      dims, tx, weights, quantizer, state, still, teacher, batch, key
    )

  def scores(state, now):
    if now % config.eval_every and now != config.steps:
      return []
    own = param_groups.join(state.params, still)['model']
    one = dataclasses.replace(model, params=merged(own))
    found = {}
    for text in config.eval_codecs:
      # A run without the quantizer has no codebook of its own.
      if state.codes is None and finetune_step.learns(quantizers.make(text)):
        continue
      found[text] = evaluate(one, config, state.codes, text)
    return [found]

  state = train_loop.run(config, workdir, state, take, stream, scores)
  own = merged(param_groups.join(state.params, still)['model'])
  own = jax.tree.map(lambda p, q: p.astype(q.dtype), own, model.params)
  if saved := checkpoints.as_dtype(config.saved or None, 'saved'):
    own = jax.tree.map(lambda p: p.astype(saved), own)
  # The model last: where it is, the run is done.
  if state.codes is not None:
    one = dataclasses.replace(model, params=own)
    _save_book(workdir / 'book.safetensors', state.codes, one, config)
  description = {**dims.to_dict(), 'name': config.name}
  checkpoints.save(workdir / 'model', own, description, source.tokenizer)
  return checkpoints.load(workdir / 'model', dtype='float32')


def start_params(
  config: Any, params: paligemma.Params, dims: paligemma.Config
) -> dict[str, Any]:
  """All parameters of a run before its first step: adapters and heads, too."""
  model, heads = jax.random.split(jax.random.key(config.seed))
  if config.train == 'lora':
    llm = params['llm']
    adapters = lora.init(llm['layers'], model, config.rank, config.alpha)
    layers = {**llm['layers'], lora.NAME: adapters}
    params = {**params, 'llm': {**llm, 'layers': layers}}
  return {
    'model': params,
    'heads': losses.init_heads(heads, dims.vision.width),
  }


def start(config: Any, model: paligemma.Model) -> tuple[Any, Any]:
  """What trains before the first step, in float32, and what does not."""
  params = start_params(config, model.params, model.config)
  parts = param_groups.trained(config.train, config.encoder)
  moves, still = param_groups.split(params, parts)
  # In bfloat16 small updates would round to nothing. A step gives up its
  # buffers, and the model is still wanted: a copy.
  moves = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), moves)
  return moves, still


def merged(params: paligemma.Params) -> paligemma.Params:
  """Parameters as they are saved: adapters added to their matrices."""
  llm = params['llm']
  return {**params, 'llm': {**llm, 'layers': lora.merge(llm['layers'])}}


def choose(
  config: Any, chosen: list[quantizers.Quantizer], done: int
) -> quantizers.Quantizer | None:
  """Draws what the batch after so many steps passes through.

  None, all features, in the share `config.full`; else any of the quantizers.
  """
  rng = np.random.default_rng([config.seed, done])
  if not chosen or rng.random() < config.full:
    return None
  return chosen[rng.integers(len(chosen))]


def first_codes(
  config: Any,
  model: paligemma.Model,
  chosen: list[quantizers.Quantizer],
  stream: Any,
  fresh: bool,
) -> ema_codebook.Moving | None:
  """The codebook before the first step: clusters of what the start model sends.

  Args:
    config: With `book`, of which the fields are those of configs/codebook.py.
    model: To start from.
    chosen: The quantizers.
    stream: Batches.
    fresh: False for zeros, which a checkpoint replaces.

  Returns:
    The codebook; None if no quantizer learns one.
  """
  inner = [one for q in chosen if (one := finetune_step.learns(q))]
  if not inner:
    return None
  shape = inner[0].stages, inner[0].size
  width = model.config.vision.width
  if not fresh:
    return ema_codebook.start(jnp.zeros((*shape, width)), jnp.ones(shape))
  learning = [q for q in chosen if finetune_step.learns(q)]

  @jax.jit
  def sent(images):
    features = model.encode_image(images.astype(jnp.float32) / 127.5 - 1)
    keys = jax.random.split(jax.random.key(config.seed), len(features))
    found = []
    for quantizer in learning:
      one = cast(Any, quantizer).cluster
      found.append(jax.vmap(one)(features, keys)[1])
    return jnp.concatenate([f.reshape(-1, width) for f in found])

  x = np.concatenate(
    [
      np.asarray(sent(next(stream)['image']))
      for _ in range(config.book.batches)
    ]
  )
  own = ml_collections.ConfigDict(
    {
      **config.book.to_dict(),
      'kind': 'residual',
      'stages': shape[0],
      'size': shape[1],
      'seed': config.seed,
      'joint': 0,
      'groups': 1,
    }
  )
  arrays = train.codebook(x, own)
  share = arrays['counts'] / arrays['counts'].sum(1, keepdims=True)
  # As many as a batch has, of which the running counts are those.
  rows = len(x) / config.book.batches / len(learning)
  return ema_codebook.start(
    jnp.asarray(arrays['codes']), jnp.asarray(share * rows)
  )


def evaluate(
  model: paligemma.Model,
  config: Any,
  codes: ema_codebook.Moving | None,
  text: str,
) -> float:
  """BLEU-4 on the first validation scenes, through a quantizer."""
  caption = captioner_lib.Captioner(model, config.max_tokens, config.prompt)
  quantizer = quantizers.make(text)

  @jax.jit
  def view(model, images, key):
    features = model.encode_image(images.astype(jnp.float32) / 127.5 - 1)
    found = finetune_step.passed(quantizer, codes, features, key, 'mean')
    return finetune_step.prefix(model, found.tokens)

  key = jax.random.key(config.seed)
  captions, examples = validation.captions(
    lambda images: caption(view(model, images, key)),
    'val',
    config.eval_scenes,
    config.batch_size,
  )
  references = [list(e.captions) for e in examples]
  return round(metrics.bleu(captions, references)['bleu4'], 2)


def _save_book(path, codes, model, config):
  """Writes the codebook, as quantizers read it."""
  share = codes.counts / codes.counts.sum(1, keepdims=True)
  book = pretrained.save(
    path,
    {
      'codes': np.asarray(codes.codes, np.float16),
      'counts': np.asarray(np.round(share * 2**16), np.int32),
    },
    kind='codebook',
    width=model.config.vision.width,
    features=codecs.features_of(model, 'encoder'),
    notes={
      'model': config.name,
      'quantizers': ' '.join(config.quantizers),
      'steps': str(config.steps),
      'seed': str(config.seed),
    },
  )
  logging.info('book %s, fingerprint %s', path, book.fingerprint)
