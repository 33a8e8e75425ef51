"""Trains a captioner to answer questions and to find boxes.

The second stage of the tiny model: the decoder gets more pieces and layers and
learns from captions and questions; the image encoder stays as it is, and with
it codebooks and statistics of its features.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
from typing import Any, cast

import jax
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Float
import numpy as np
import optax

from collab_jax import (
  _validate,
  checkpoints,
  data,
  distributed,
  random_keys,
  sharding,
)
from collab_jax import captioner as captioner_lib
from collab_jax.data import scene_questions
from collab_jax.models import paligemma
from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import (
  batches,
  growth,
  losses,
  packing,
  param_groups,
  pretrain,
  pretrain_step,
  question_examples,
  question_step,
  train_loop,
  validation,
  vocabulary,
)

# Longest answer in words, in tokens with the end; boxes take more.
_WORDS = 4
# Rows that are answered at a time.
_ROWS = 64


def make_tokenizer(config: Any) -> tokenizer_lib.Tokenizer:
  """Trains the vocabulary of captions and questions, and adds PaliGemma's.

  Those are 1024 location tokens and 128 of masks, which no scene uses.
  """
  texts = list(question_examples.texts(config.vocabulary_scenes))
  texts += [config.prompt] * config.vocabulary_scenes
  added = tokenizer_lib.LOCATIONS + tokenizer_lib.SEGMENTS
  size = config.model.llm.vocab_size - len(added)
  model = vocabulary.train_tokenizer(texts, size)
  return tokenizer_lib.Tokenizer(model).extended(added)


def grow(
  config: Any, start: paligemma.Model, tokenizer: tokenizer_lib.Tokenizer
) -> paligemma.Model:
  """Returns the start model with the vocabulary and depth of a config.

  Raises:
    ValueError: Other dimensions of the two models differ.
  """
  dims = paligemma.Config.from_dict(config.model.to_dict())
  text = start.config.text
  same = dataclasses.replace(
    dims.text, depth=text.depth, vocab_size=text.vocab_size
  )
  if (same, dims.vision) != (text, start.config.vision):
    raise _validate.error(
      'model',
      config.model.to_dict(),
      "the dimensions of the start model but for the decoder's depth and"
      ' vocabulary',
    )
  rows, layers = jax.random.split(random_keys.make(config.seed))
  llm = start.params['llm']
  table = growth.extend_vocabulary(
    llm['embedder']['input_embedding'],
    cast(tokenizer_lib.Tokenizer, start.tokenizer),
    tokenizer,
    dims.text.vocab_size,
    rows,
  )
  llm = llm | {
    'embedder': {'input_embedding': table},
    'layers': growth.add_layers(text, llm['layers'], dims.text.depth, layers),
  }
  return dataclasses.replace(
    start, params=start.params | {'llm': llm}, config=dims, tokenizer=tokenizer
  )


def ask(
  model: paligemma.Model, reader: Any, max_tokens: int
) -> list[tuple[data.Question, str]]:
  """Answers all questions of a reader; a picture is encoded once.

  Args:
    model: The model.
    reader: A reader of examples with questions.
    max_tokens: Most tokens of an answer with boxes.

  Returns:
    Each question with its answer, in any order.
  """
  encode = jax.jit(lambda m, u8: m.project(m.encode_image(u8 / 127.5 - 1)))
  mesh = sharding.mesh_of(model.params)
  size = sharding.padded(_ROWS, model.params)
  examples = [reader[i] for i in range(len(reader))]
  images = [e.image.astype(np.float32) for e in examples]
  prefixes = []
  for batch in _batches(images, size):
    rows = sharding.process_part(np.stack(batch), mesh)
    encoded = encode(model, sharding.rows(rows, model.params))
    prefixes.append(np.asarray(sharding.gather_tree(encoded)))
  prefix = np.concatenate(prefixes) if prefixes else np.zeros((0, 1, 1))
  tokenizer = cast(tokenizer_lib.Tokenizer, model.tokenizer)
  asked = [(i, q) for i, e in enumerate(examples) for q in e.questions]
  # Prompts of one length beside each other: few programs are compiled.
  asked.sort(key=lambda pair: len(tokenizer.prompt(pair[1].prompt)))
  answers = []
  for boxes, longest in ((False, _WORDS), (True, max_tokens)):
    answer = captioner_lib.Captioner(model, longest)
    group = [pair for pair in asked if (pair[1].kind == 'detect') == boxes]
    for batch in _batches(group, size):
      rows = prefix[[i for i, _ in batch]]
      texts = _answer_rows(answer, rows, [q.prompt for _, q in batch], mesh)
      answers += [(q, t) for (_, q), t in zip(batch, texts, strict=True)]
  # Rows that filled the last batches up are there twice.
  return [*{q.id: (q, text) for q, text in answers}.values()]


def _answer_rows(
  answer: captioner_lib.Captioner,
  prefix: Float[np.ndarray, 'B N M'],
  prompts: Sequence[str],
  mesh: Mesh | None,
) -> list[str]:
  """Answers a batch; of several processes each the rows of its devices."""
  rows = sharding.process_rows(mesh, len(prompts))
  here = [prompts[int(row)] for row in rows]
  texts = answer(jnp.asarray(prefix[rows]), here)
  return validation.gather_rows(rows, texts)


def _batches(items: Sequence[Any], size: int) -> list[list[Any]]:
  """Splits into batches of one size; the last items fill the last one up."""
  full = [*items, *[items[-1]] * (-len(items) % size)] if items else []
  return [full[i : i + size] for i in range(0, len(full), size)]


def evaluate(
  model: paligemma.Model, config: Any, split: str
) -> dict[str, float]:
  """Scores captions and answers of the first scenes of a split, in percent."""
  reader = data.scenes(split, config.eval_questions, questions=True)
  scores = collections.defaultdict(list)
  for question, answer in ask(model, reader, config.max_tokens):
    scores[question.kind].append(scene_questions.score(question, answer))
  return pretrain.evaluate(model, config, split) | {
    f'{split}/answers/{kind}': round(100 * float(np.mean(scores[kind])), 2)
    for kind in scene_questions.KINDS
    if scores[kind]
  }


def train(config: Any, workdir: str | os.PathLike[str]) -> paligemma.Model:
  """Trains to the end, from the last checkpoint if there is one.

  Args:
    config: From configs/train_questions.py.
    workdir: Gets checkpoints/, metrics.jsonl and, at the end, model/ in
      bfloat16, which `collab_jax.load` reads.

  Returns:
    The trained model, as it was written.

  Raises:
    ValueError: The folder belongs to a run with other settings, the
      intervals would give other metrics after a stop, or a text does not fit.
    CheckpointError: None of the folder's checkpoints can be read.
    BlockingIOError: Another process trains in the folder.
  """
  train_loop.check_intervals(config, 'packed_steps')
  start = checkpoints.load(config.start, dtype='float32')
  workdir = pathlib.Path(workdir).absolute()
  with train_loop.locked(workdir):
    depends_on = train_loop.dependencies(start)
    free = *pretrain.FREE, 'start'
    train_loop.open_run(config, workdir, free, depends_on)
    return _train(config, start, workdir)


def make_source(
  config: Any, model: paligemma.Model
) -> question_examples.QuestionExamples:
  """Makes the training examples of a config."""
  return question_examples.QuestionExamples(
    cast(tokenizer_lib.Tokenizer, model.tokenizer),
    config.prompt,
    model.config.vision.num_tokens,
    config.first_scene,
    config.dense_share,
    config.packed_steps * config.batch_size,
    tuple(config.packed_size),
    config.rows,
    tuple(config.row_size),
    config.encoder,
  )


def _train(
  config: Any, start: paligemma.Model, workdir: pathlib.Path
) -> paligemma.Model:
  """Takes the remaining steps in a folder of one's own, and exports."""
  tokenizer = make_tokenizer(config)
  model = grow(config, start, tokenizer)
  dims = model.config
  tx = pretrain_step.optimizer(config)
  trainable, frozen = split_params(config, model)
  state = pretrain_step.PretrainState(
    trainable, tx.init(trainable), jnp.zeros((), jnp.int32)
  )
  mesh = sharding.make_mesh(config.mesh.data)
  if mesh.size > 1:
    print(sharding.describe(mesh), flush=True)
    state = sharding.replicate(state, mesh)
    frozen = sharding.replicate(frozen, mesh)
  source = make_source(config, model)

  def current(state):
    params = param_groups.join(state.params, frozen)['model']
    return dataclasses.replace(model, params=params)

  def scores(state, steps_done):
    if steps_done % config.eval_every and steps_done != config.steps:
      return []
    return [
      evaluate(current(state), config, split)
      for split in ('val', 'train_dense')
    ]

  step_fn = _stepper(config, dims, tx, frozen)

  def stream(first):
    return batches.batches(source, config.batch_size, first, mesh=mesh)

  state = train_loop.run(config, workdir, state, step_fn, stream, scores)
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), current(state).params)
  description = config.model.to_dict()
  train_loop.save_model(workdir / 'model', params, description, tokenizer)
  return checkpoints.load(workdir / 'model', dtype='float32')


def _stepper(
  config: Any,
  dims: paligemma.Config,
  tx: optax.GradientTransformation,
  frozen: Any,
) -> Callable[[pretrain_step.PretrainState, int, Any], Any]:
  """Returns a function that takes a step and leaves out absent kinds."""
  weights = tuple(
    float(config.weights.get(kind, config.weights.answer))
    for kind in packing.KINDS
  )

  def step_fn(state, steps_done, batch):
    del steps_done
    kinds = np.unique(batch['kind']).tolist()
    of_all = distributed.gather(kinds)  # Each process has a part of the batch.
    present = {packing.KINDS[i] for part in of_all for i in part if i >= 0}
    batch = sharding.rows(batch, state.params)
    state, metrics = question_step.train_step(
      dims, tx, weights, state, frozen, batch
    )
    absent = {*packing.KINDS} - present
    return state, {n: v for n, v in metrics.items() if n not in absent}

  return step_fn


def split_params(config: Any, model: paligemma.Model) -> tuple[Any, Any]:
  """Returns the trainable parameters and the frozen, float32."""
  groups: tuple[str, ...] = ('decoder',)
  params: dict[str, Any] = {'model': model.params}
  if config.encoder:
    key = random_keys.make(config.seed)
    heads = losses.init_heads(key, model.config.vision.width)
    params, groups = params | {'heads': heads}, param_groups.GROUPS
  return param_groups.split(params, groups)
