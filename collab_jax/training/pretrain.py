"""Trains the tiny model from random weights."""

import os
import pathlib
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from collab_jax import captioner as captioner_lib
from collab_jax import checkpoints, data, metrics, sharding
from collab_jax.data import grammar, world
from collab_jax.models import paligemma
from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import (
  batches,
  pretrain_step,
  train_loop,
  validation,
  vocabulary,
)

# Settings that change where the result is computed: it is the same, up to the
# order of sums.
FREE = ('mesh', 'distributed')


def make_tokenizer(config: Any) -> tokenizer_lib.Tokenizer:
  """Trains the vocabulary on the captions of the first training scenes."""
  texts = []
  for split in ('train', 'train_dense'):
    for index in range(config.vocabulary_scenes // 2):
      scene = world.sample(split, index)
      texts += grammar.captions(scene, world.generator(scene.seed, 2))
  # The prompt as often as a frequent caption, so that it is spelled in words.
  texts += [config.prompt] * config.vocabulary_scenes
  size = config.model.llm.vocab_size
  return tokenizer_lib.Tokenizer(vocabulary.train_tokenizer(texts, size))


def evaluate(
  model: paligemma.Model, config: Any, split: str
) -> dict[str, float]:
  """Computes BLEU-4 and correct slots of the first scenes of a split."""
  caption = captioner_lib.Captioner(model, config.max_tokens, config.prompt)
  encode = jax.jit(lambda m, u8: m.project(m.encode_image(u8 / 127.5 - 1)))

  def caption_images(images):
    batch = sharding.rows(images.astype(np.float32), model.params)
    return caption(encode(model, batch))

  captions, examples = validation.captions(
    caption_images,
    data.scenes(split, config.eval_scenes),
    config.batch_size,
    sharding.mesh_of(model.params),
  )
  references = [list(e.captions) for e in examples]
  scores = {'bleu4': metrics.bleu(captions, references)['bleu4']}
  slots = [
    data.slots(text, e.info) for text, e in zip(captions, examples, strict=True)
  ]
  for name in slots[0]:
    values = [v for v in (s[name] for s in slots) if v is not None]
    scores[name] = 100 * sum(values) / max(len(values), 1)
  return {f'{split}/{k}': round(v, 2) for k, v in scores.items()}


def train(config: Any, workdir: str | os.PathLike[str]) -> paligemma.Model:
  """Trains to the end, from the last checkpoint if there is one.

  Args:
    config: From configs/train_tiny.py.
    workdir: Gets tokenizer.model, checkpoints/, metrics.jsonl and, at the
      end, model/ in bfloat16, which `collab_jax.load` reads.

  Returns:
    The trained model, as it was written.

  Raises:
    ValueError: The folder belongs to a run with other settings, or the
      intervals would give other metrics after a stop.
    CheckpointError: None of the folder's checkpoints can be read.
    BlockingIOError: Another process trains in the folder.
  """
  train_loop.check_intervals(config, 'label_steps')
  workdir = pathlib.Path(workdir).absolute()
  with train_loop.locked(workdir):
    train_loop.open_run(config, workdir, FREE, train_loop.dependencies())
    return _train(config, workdir)


def _train(config: Any, workdir: pathlib.Path) -> paligemma.Model:
  """Takes the remaining steps in a folder of one's own, and exports."""
  tokenizer = make_tokenizer(config)
  description = config.model.to_dict()
  dims = paligemma.Config.from_dict(description)
  tx = pretrain_step.optimizer(config)
  state = pretrain_step.init(config, dims, tx)
  mesh = sharding.make_mesh(config.mesh.data)
  if mesh.size > 1:
    print(sharding.describe(mesh), flush=True)
    state = sharding.replicate(state, mesh)
  source = batches.TrainingExamples(
    tokenizer,
    config.prompt,
    config.text_length,
    config.label_steps * config.batch_size,
    config.dense_share,
  )

  def step_fn(state, steps_done, batch):
    captions = steps_done >= config.label_steps
    batch = sharding.rows(batch, state.params)
    return pretrain_step.train_step(dims, tx, captions, state, batch)

  def scores(state, steps_done):
    due = (
      steps_done > config.label_steps and steps_done % config.eval_every == 0
    )
    if not due and steps_done != config.steps:
      return []
    model = paligemma.Model(state.params['model'], dims, tokenizer)
    return [evaluate(model, config, name) for name in ('val', 'train_dense')]

  def stream(first):
    return batches.batches(source, config.batch_size, first, mesh=mesh)

  state = train_loop.run(config, workdir, state, step_fn, stream, scores)
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), state.params['model'])
  train_loop.save_model(workdir / 'model', params, description, tokenizer)
  return checkpoints.load(workdir / 'model', dtype='float32')
