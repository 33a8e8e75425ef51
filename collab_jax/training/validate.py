"""Checks the settings of a fine-tuning, before anything is computed."""

from collections.abc import Iterator
import dataclasses
from typing import Any, cast

from collab_jax import (
  _precision,
  _validate,
  checkpoints,
  quantizers,
  random_keys,
)
from collab_jax.data import world
from collab_jax.models import paligemma
from collab_jax.quantizers import pretrained
from collab_jax.training import (
  batches,
  finetune_step,
  param_groups,
  train_loop,
)

# Lowest and highest values.
_INTS = {
  'seed': (0, 2**32 - 1),
  'rank': (1, 2**16),
  'batch_size': (1, 2**16),
  'text_length': (1, 2**16),
  'first_example': (0, batches.EXAMPLES - 1),
  'steps': (1, 2**31 - 1),
  'warmup_steps': (0, 2**31 - 1),
  'limit': (0, 2**31 - 1),
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
) -> tuple[list[quantizers.Quantizer], finetune_step.LossWeights]:
  """Checks a config, and returns its quantizers and the losses' weights.

  Args:
    config: From configs/finetune.py.
    dims: The model's dimensions, which the quantizers must fit; None skips
      that check.

  Raises:
    ValueError: A setting is out of range, a quantizer cannot be trained
      through, or its parameters are missing, damaged or of other features.
    ImportError: A quantizer's module cannot be imported.
  """
  train_loop.check_intervals(config)
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
  for name in ('dtype', 'compute_dtype', 'saved'):
    checkpoints.as_dtype(config[name] or None, name)
  _validate.choice('precision', config.precision, _precision.NAMES)
  param_groups.trainable_groups(config.train, config.encoder)
  param_groups.optimizer(config, config.rates.to_dict())
  if config.data == 'scenes':
    _check_scenes(config, dims)
  try:
    weights = finetune_step.LossWeights(**config.weights.to_dict())
  except ValueError as error:
    raise ValueError(f'weights: {error}') from error
  if config.data != 'scenes' and weights.label:
    raise ValueError(
      f'weights.label: got {weights.label:g}, expected 0: pictures of'
      f' {config.data} have no labels of patches'
    )
  train_quantizers = _make_all('quantizers', config.quantizers)
  eval_quantizers = _make_all('eval_codecs', config.eval_codecs)
  for quantizer in train_quantizers:
    _check_quantizer('quantizers', quantizer, dims)
  for quantizer in eval_quantizers:
    _check_quantizer('eval_codecs', quantizer, dims)
  _check_codebooks(config, train_quantizers, eval_quantizers, weights)
  return train_quantizers, weights


def _check_scenes(config, dims):
  """Checks that there are enough scenes, and of the model's size."""
  last = config.first_example + config.steps * config.batch_size
  if last > batches.EXAMPLES:
    raise ValueError(
      f'first_example + steps * batch_size: got {last}, expected at most'
      f' {batches.EXAMPLES} scenes'
    )
  if dims is not None and dims.vision.image_size != world.SIDE:
    raise ValueError(
      f'model: takes pictures of {dims.vision.image_size} pixels, and training'
      f' draws scenes of {world.SIDE}; expected a model of that size, or'
      ' pictures of a dataset, as in --config.data=coco'
      ' --config.data_dir=/path/to/coco'
    )


def _make_all(name, texts):
  """Makes the quantizers of a field."""
  checked = []
  for text in texts:
    try:
      checked.append(quantizers.make(text))
    except ValueError as error:
      raise ValueError(f'{name}: got {text!r}: {error}') from error
  return checked


def _check_quantizer(name, quantizer, dims):
  """Checks that a quantizer can be trained through, and fits the model."""
  shown = quantizers.name(quantizer)
  if aux_inputs := quantizer.aux_inputs:
    raise ValueError(
      f'{name}: got {shown}, which takes {", ".join(aux_inputs)} from'
      ' the encoder, expected one that takes the features alone'
    )
  inner = finetune_step.learned_codebook(quantizer)
  if unlearned := [*_unlearned(quantizer, inner)]:
    raise ValueError(
      f"{name}: got {shown}, where the book 'random' of"
      f' {type(unlearned[0]).__name__} is not learned, expected it of ecvq or'
      ' residual_vq as the centroids of a clustering or pool; name a book'
    )
  if dims is None:
    return
  n, d = dims.vision.num_tokens, dims.vision.width
  try:
    quantizer.sent(n)
    quantizer.fields(n, d)
    if inner is None:
      quantizer.init_params(random_keys.make(0), n, d)
    pretrained.check_coordinates(quantizer)
  except ValueError as error:
    raise ValueError(f'{name}: got {shown}: {error}') from error


def _check_codebooks(config, train_quantizers, eval_quantizers, weights):
  """Checks that one codebook fits all, can be initialized, and is stable."""
  learning: list[Any] = [
    q for q in train_quantizers if finetune_step.learned_codebook(q)
  ]
  if not learning:  # Evaluation then skips quantizers that read it.
    return
  evaluated = [q for q in eval_quantizers if finetune_step.learned_codebook(q)]
  readers = [*learning, *evaluated]
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


def _unlearned(quantizer: Any, learned: Any) -> Iterator[Any]:
  """Yields inner quantizers with a book 'random' that training leaves as is."""
  is_quantizer = isinstance(quantizer, quantizers.QuantizerLike)
  if quantizer is learned or not is_quantizer:
    return
  settings = {
    field.name: getattr(quantizer, field.name)
    for field in dataclasses.fields(cast(Any, quantizer))
  }
  random = settings.get('book') == pretrained.RANDOM
  if random and quantizers.as_quantizer(quantizer).uses_book:
    yield quantizer
  for value in settings.values():
    yield from _unlearned(value, learned)
