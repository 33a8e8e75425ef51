"""Estimates the memory of a fine-tuning step, from shapes alone."""

import collections
from collections.abc import Iterable
import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jax import numpy as jnp

from collab_jax import _renamed, quantizers, random_keys
from collab_jax.checkpoints import trees
from collab_jax.models import paligemma
from collab_jax.training import (
  finetune,
  finetune_step,
  losses,
  param_groups,
)

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)


class StepMemory(NamedTuple):
  """Bytes of a step.

  Attributes:
    params: All parameters, adapters and heads among them, and the loaded
      copies of the trainable ones.
    trained: Trainable parameters.
    optimizer: The optimizer's state.
    gradients: Gradients, as large as the trainable parameters.
    activations: Values of the forward pass that the backward pass keeps,
      parameters not counted; its own temporaries come on top.
  """

  params: int
  trained: int
  optimizer: int
  gradients: int
  activations: int

  @property
  def total(self) -> int:
    """Bytes that are in memory at the same time."""
    return self.params + self.optimizer + self.gradients + self.activations


def param_shapes(
  config: Any, dims: paligemma.Config, dtype: str = 'float32'
) -> tuple[Any, Any]:
  """Returns the shapes of trainable and of frozen parameters.

  Args:
    config: From configs/finetune.py.
    dims: The model's dimensions.
    dtype: Dtype of the loaded model; trainable parameters, adapters and heads
      are float32.
  """
  model = jax.eval_shape(
    lambda p: finetune.initial_params(config, p, dims), paligemma.shapes(dims)
  )
  groups = param_groups.trainable_groups(config.train, config.encoder)
  trainable, frozen = param_groups.split(model, groups)
  added = {
    path: x
    for path, x in trees.flatten(frozen).items()
    if param_groups.group_of(path) in param_groups.ADDED
  }
  loaded = trees.flatten(_cast(frozen, dtype))
  return trainable, trees.unflatten(loaded | added)


def loaded_copies(
  trainable: Any, dims: paligemma.Config, dtype: str = 'float32'
) -> Any:
  """Returns the shapes of the trainable parameters as they were loaded.

  The start model keeps these copies in memory.

  Args:
    trainable: From `param_shapes`.
    dims: The model's dimensions.
    dtype: As of `param_shapes`.
  """
  start = trees.flatten({'model': _cast(paligemma.shapes(dims), dtype)})
  copies = {p: start[p] for p in trees.flatten(trainable) if p in start}
  return trees.unflatten(copies)


def batch_shapes(config: Any, dims: paligemma.Config) -> dict[str, Any]:
  """Returns the shapes of a batch of `batches.batches`."""
  b, t, side = config.batch_size, config.text_length, dims.vision.image_size
  struct = jax.ShapeDtypeStruct
  inputs = {
    'image': struct((b, side, side, 3), jnp.uint8),
    'tokens': struct((b, t), jnp.int32),
    'mask_ar': struct((b, t), jnp.int32),
    'mask_loss': struct((b, t), jnp.float32),
  }
  if config.data != 'scenes':
    return inputs
  grid = round(dims.vision.num_tokens**0.5)
  labels = {n: struct((b, grid, grid), jnp.int32) for n in losses.LABELS}
  return inputs | labels


def step_memory(
  config: Any,
  dims: paligemma.Config,
  quantizer: quantizers.Quantizer | None = None,
  dtype: str = 'float32',
) -> StepMemory:
  """Adds up the memory of a step.

  Args:
    config: From configs/finetune.py.
    dims: The model's dimensions.
    quantizer: Bottleneck of the features; one that learns no codebook.
    dtype: As of `param_shapes`.
  """
  dims = finetune.training_dimensions(config, dims)
  trainable, frozen = param_shapes(config, dims, dtype)
  weights = finetune_step.LossWeights(**config.weights.to_dict())
  tx = param_groups.optimizer(config, config.rates.to_dict())
  loss_fn = functools.partial(finetune_step.loss, dims, weights, quantizer)
  teacher = _cast(paligemma.shapes(dims), dtype) if weights.distill else None
  key = jax.eval_shape(lambda: random_keys.make(0))

  def residuals(params, frozen, teacher, batch, key):
    def scalar(params):
      return loss_fn(params, frozen, None, teacher, batch, key)[0]

    return jax.vjp(scalar, params)[1]

  batch = batch_shapes(config, dims)
  saved = jax.eval_shape(residuals, trainable, frozen, teacher, batch, key)
  params = [trainable, frozen]
  trained = _bytes(trainable)
  # The teacher is the start model, whose other parameters are `frozen`.
  return StepMemory(
    _bytes([*params, loaded_copies(trainable, dims, dtype)]),
    trained,
    _bytes(jax.eval_shape(tx.init, trainable)),
    trained,
    _without(jax.tree.leaves(saved), jax.tree.leaves(params)),
  )


def estimate(config: Any, dims: paligemma.Config) -> str:
  """Describes the memory of a config's steps in a line."""
  memory = step_memory(config, dims, dtype=config.dtype or 'float32')
  parts = ', '.join(
    f'{name} {getattr(memory, name) / 1e6:,.0f}'
    for name in ('params', 'optimizer', 'gradients', 'activations')
  )
  return f'memory of a step, MB: {parts}; together {memory.total / 1e6:,.0f}'


def _cast(tree, dtype):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), tree
  )


def _bytes(tree) -> int:
  return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def _size(leaf) -> int:
  return math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize


def _without(saved: Iterable[Any], params: Iterable[Any]) -> int:
  """Counts bytes of arrays, leaving each parameter's shape out once."""
  known = collections.Counter((p.shape, str(p.dtype)) for p in params)
  total = 0
  for leaf in saved:
    kind = leaf.shape, str(leaf.dtype)
    if known[kind] > 0:
      known[kind] -= 1
    elif not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
      total += _size(leaf)
  return total
