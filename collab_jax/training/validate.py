"""What the settings of a fine-tuning may be: checked before it begins."""

from collections.abc import Iterator
import dataclasses
from typing import Any

import jax

from collab_jax import _validate, checkpoints, quantizers
from collab_jax.data import world
from collab_jax.models import paligemma
from collab_jax.quantizers import (
  base,
  pretrained,
)
from collab_jax.training import (
  batches,
  finetune_step,
  param_groups,
  train_loop,
)

# The least and the most.
_INTS = {
  'seed': (0, 2**32 - 1),
  'rank': (1, 2**16),
  'batch_size': (1, 2**16),
  'text_length': (1, 2**16),
  'first_example': (0, batches.EXAMPLES - 1),
  'steps': (1, 2**31 - 1),
  'warmup_steps': (0, 2**31 - 1),
  'eval_scenes': (1, 2**28),
  'max_tokens': (1, 2**16),
}
_NUMBERS = {
  'alpha': (0.0, 1e6),
  'full': (0.0, 1.0),
  'dense_share': (0.0, 1.0),
  'learning_rate': (0.0, 1e3),
  'weight_decay': (0.0, 1e3),
  'clip': (1e-9, 1e9),
}
_BOOK = {
  'batches': (1, 10**6),
  'steps': (0, 10**6),
  'rows': (1, 2**24),
  'passes': (0, 10**6),
}


def check(
  config: Any, dims: paligemma.Config | None = None
) -> tuple[list[quantizers.Quantizer], finetune_step.Weights]:
  """Checks a config; returns its quantizers and what is minimized.

  Args:
    config: From configs/finetune.py.
    dims: The model's dimensions, which the quantizers must fit; None leaves
      that out.

  Raises:
    ValueError: A setting is out of range, a quantizer is none that can be
      trained through, or a book of one is missing, damaged, or for something
      else.
    ImportError: A quantizer's module cannot be imported.
  """
  train_loop.check_every(config)
  for name, bounds in _INTS.items():
    _validate.integer(name, config[name], *bounds)
  for name, bounds in _NUMBERS.items():
    _validate.number(name, config[name], *bounds)
  for name, bounds in _BOOK.items():
    _validate.integer(f'book.{name}', config.book[name], *bounds)
  if config.warmup_steps >= config.steps:
    raise ValueError(
      f'warmup_steps: got {config.warmup_steps}, expected fewer than steps,'
      f' {config.steps}'
    )
  for name in ('dtype', 'saved'):
    checkpoints.as_dtype(config[name] or None, name)
  param_groups.trained(config.train, config.encoder)
  param_groups.optimizer(config, config.rates.to_dict())
  _check_scenes(config, dims)
  try:
    weights = finetune_step.Weights(**config.weights.to_dict())
  except ValueError as error:
    raise ValueError(f'weights: {error}') from error
  chosen = _made('quantizers', config.quantizers)
  judges = _made('eval_codecs', config.eval_codecs)
  for name, some in (('quantizers', chosen), ('eval_codecs', judges)):
    for one in some:
      _check_quantizer(name, one, dims)
  _check_codebooks(config, chosen, judges, weights)
  return chosen, weights


def _check_scenes(config, dims):
  """Whether there are so many scenes, and of the model's size."""
  last = config.first_example + config.steps * config.batch_size
  if last > batches.EXAMPLES:
    raise ValueError(
      f'first_example + steps * batch_size: got {last}, expected at most'
      f' {batches.EXAMPLES} scenes'
    )
  if dims is not None and dims.vision.image_size != world.SIDE:
    raise ValueError(
      f'model: takes pictures of {dims.vision.image_size} pixels, and training'
      f' draws scenes of {world.SIDE}; expected a model of that size'
    )


def _made(name, texts):
  """The quantizers of a field."""
  found = []
  for text in texts:
    try:
      found.append(quantizers.make(text))
    except ValueError as error:
      raise ValueError(f'{name}: got {text!r}: {error}') from error
  return found


def _check_quantizer(name, one, dims):
  """Whether training can do with a quantizer what its name says."""
  if needs := base.needs(one):
    raise ValueError(
      f'{name}: got {quantizers.name(one)}, which takes {", ".join(needs)} from'
      ' the encoder, expected one that takes the features alone'
    )
  inner = finetune_step.learns(one)
  if drawn := [*_drawn(one, inner)]:
    raise ValueError(
      f"{name}: got {quantizers.name(one)}, where the book 'random' of"
      f' {type(drawn[0]).__name__} is not learned, expected it of ecvq or'
      ' residual_vq as the centroids of a clustering or pool; name a book'
    )
  if dims is None:
    return
  n, d = dims.vision.num_tokens, dims.vision.width
  try:
    one.sent(n)
    one.fields(n, d)
    if inner is None:
      one.init_params(jax.random.key(0), n, d)
    pretrained.check_coordinates(one)
  except ValueError as error:
    raise ValueError(f'{name}: got {quantizers.name(one)}: {error}') from error


def _check_codebooks(config, chosen, judges, weights):
  """Whether one codebook serves all, has a start, and follows its vectors."""
  learning: list[Any] = [q for q in chosen if finetune_step.learns(q)]
  if not learning:  # What judges has none to take then, and is left out.
    return
  readers = [q for q in (*chosen, *judges) if finetune_step.learns(q)]
  sizes = {(q.centroids.stages, q.centroids.size) for q in readers}
  if len(sizes) > 1:
    raise ValueError(
      'quantizers and eval_codecs: got codebooks of stages and size'
      f' {sorted(sizes)}, expected one for all'
    )
  stages, size = sizes.pop()
  count = config.book.batches * config.batch_size * sum(q.k for q in learning)
  if count < size:
    raise ValueError(
      f'book.batches: got {config.book.batches}, which send {count} vectors for'
      f' {size} codes to start from, expected at least as many'
    )
  if weights.decay < 1 - 1 / stages:
    raise ValueError(
      f'weights.decay: got {weights.decay:g} with {stages} stages, expected at'
      f' least 1 - 1/{stages}: they move at once, and together too far'
    )


def _drawn(quantizer: Any, learned: Any) -> Iterator[Any]:
  """Yields what within a quantizer reads a book 'random' and does not learn."""
  if quantizer is learned or not dataclasses.is_dataclass(quantizer):
    return
  own = getattr(quantizer, 'book', None) == pretrained.RANDOM
  if own and getattr(quantizer, 'uses_book', True):
    yield quantizer
  for field in dataclasses.fields(quantizer):
    yield from _drawn(getattr(quantizer, field.name), learned)
