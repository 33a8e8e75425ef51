"""How much memory a step of fine-tuning takes, from shapes alone."""

import collections
from collections.abc import Iterable
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from collab_jax import quantizers
from collab_jax.checkpoints import trees
from collab_jax.models import paligemma
from collab_jax.training import (
  finetune,
  finetune_step,
  losses,
  param_groups,
)


class Needs(NamedTuple):
  """Bytes of a step.

  Attributes:
    params: All parameters, adapters and heads among them, and of those that
      train also what they were loaded as.
    trained: Of those that train.
    optimizer: The optimizer's state.
    gradients: As large as what trains.
    activations: What the backward pass keeps of the forward pass, parameters
      not counted; what it computes in between comes on top.
  """

  params: int
  trained: int
  optimizer: int
  gradients: int
  activations: int

  @property
  def total(self) -> int:
    """Bytes of all that is there at once."""
    return self.params + self.optimizer + self.gradients + self.activations


def shapes(
  config: Any, dims: paligemma.Config, dtype: str = 'float32'
) -> tuple[Any, Any]:
  """What trains and what does not, as shapes.

  Args:
    config: From configs/finetune.py.
    dims: The model's dimensions.
    dtype: The model is loaded in; what trains, adapters and heads are float32.
  """
  model = jax.eval_shape(
    lambda p: finetune.start_params(config, p, dims), paligemma.shapes(dims)
  )
  parts = param_groups.trained(config.train, config.encoder)
  moves, still = param_groups.split(model, parts)
  flat = trees.flatten(still)
  own = {
    p: x for p, x in flat.items() if param_groups.part(p) in param_groups.ADDED
  }
  return moves, trees.unflatten(trees.flatten(_in(still, dtype)) | own)


def replaced(moves: Any, dims: paligemma.Config, dtype: str = 'float32') -> Any:
  """What trains as it was loaded, as shapes: the start model keeps it.

  Args:
    moves: From `shapes`.
    dims: The model's dimensions.
    dtype: As of `shapes`.
  """
  start = trees.flatten({'model': _in(paligemma.shapes(dims), dtype)})
  kept = {p: start[p] for p in trees.flatten(moves) if p in start}
  return trees.unflatten(kept)


def batch(config: Any, dims: paligemma.Config) -> dict[str, Any]:
  """A batch of `batches.batches`, as shapes."""
  b, t, side = config.batch_size, config.text_length, dims.vision.image_size
  whole = jax.ShapeDtypeStruct
  found = {
    'image': whole((b, side, side, 3), jnp.uint8),
    'tokens': whole((b, t), jnp.int32),
    'mask_ar': whole((b, t), jnp.int32),
    'mask_loss': whole((b, t), jnp.float32),
  }
  grid = round(dims.vision.num_tokens**0.5)
  labels = {n: whole((b, grid, grid), jnp.int32) for n in losses.LABELS}
  return found | labels


def needs(
  config: Any,
  dims: paligemma.Config,
  quantizer: quantizers.Quantizer | None = None,
  dtype: str = 'float32',
) -> Needs:
  """Adds up what a step needs.

  Args:
    config: From configs/finetune.py.
    dims: The model's dimensions.
    quantizer: What the features pass through; one that learns no codebook.
    dtype: As of `shapes`.
  """
  moves, still = shapes(config, dims, dtype)
  weights = finetune_step.Weights(**config.weights.to_dict())
  tx = param_groups.optimizer(config, config.rates.to_dict())
  one = functools.partial(finetune_step.loss, dims, weights, quantizer)
  teacher = _in(paligemma.shapes(dims), dtype) if weights.distill else None
  key = jax.eval_shape(lambda: jax.random.key(0))

  def kept(params, still, teacher, batch, key):
    def scalar(params):
      return one(params, still, None, teacher, batch, key)[0]

    return jax.vjp(scalar, params)[1]

  saved = jax.eval_shape(kept, moves, still, teacher, batch(config, dims), key)
  params = [moves, still]
  trained = _bytes(moves)
  # The teacher is the start model, whose other parameters are `still`.
  return Needs(
    _bytes([*params, replaced(moves, dims, dtype)]),
    trained,
    _bytes(jax.eval_shape(tx.init, moves)),
    trained,
    _without(jax.tree.leaves(saved), jax.tree.leaves(params)),
  )


def estimate(config: Any, dims: paligemma.Config) -> str:
  """What a run of a config needs, in a line, before it starts."""
  found = needs(config, dims, dtype=config.dtype or 'float32')
  parts = ', '.join(
    f'{name} {getattr(found, name) / 1e6:,.0f}'
    for name in ('params', 'optimizer', 'gradients', 'activations')
  )
  return f'memory of a step, MB: {parts}; together {found.total / 1e6:,.0f}'


def _in(tree, dtype):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), tree
  )


def _bytes(tree) -> int:
  return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def _size(leaf) -> int:
  return math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize


def _without(saved: Iterable[Any], params: Iterable[Any]) -> int:
  """Bytes of arrays, of those that may be parameters each left out once."""
  known = collections.Counter((p.shape, str(p.dtype)) for p in params)
  total = 0
  for leaf in saved:
    kind = leaf.shape, str(leaf.dtype)
    if known[kind] > 0:
      known[kind] -= 1
    elif not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
      total += _size(leaf)
  return total
