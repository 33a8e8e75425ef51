"""Optimizer and step of training from random weights."""

import functools
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import optax
from optax import contrib

from collab_jax import random_keys
from collab_jax.models import paligemma
from collab_jax.training import losses

# Input and output axes of the weight matrices by the last part of their path;
# the others are batch axes (layers, heads of keys and values, gate and up).
MATRICES = {
  'query/kernel': ((1,), (2, 3)),
  'key/kernel': ((1,), (2, 3)),
  'value/kernel': ((1,), (2, 3)),
  'out/kernel': ((1, 2), (3,)),
  'Dense_0/kernel': ((1,), (2,)),
  'Dense_1/kernel': ((1,), (2,)),
  'q_einsum/w': ((2,), (1, 3)),
  'kv_einsum/w': ((3,), (2, 4)),
  'attn_vec_einsum/w': ((1, 2), (3,)),
  'mlp/gating_einsum': ((2,), (3,)),
  'mlp/linear': ((1,), (2,)),
}


class PretrainState(NamedTuple):
  """State of a run, as checkpoints hold it.

  Attributes:
    params: {'model': {'img', 'llm'}, 'heads': ...}.
    opt_state: The optimizer's state.
    step: Steps taken.
  """

  params: Any
  opt_state: Any
  step: jax.Array


def muon_axes(params: Any) -> Any:
  """Returns the axes of leaves that Muon updates, None for those of Adam."""

  def dimension_numbers(path, leaf):
    del leaf
    keys = [str(entry.key) for entry in path]
    axes = MATRICES.get('/'.join(keys[-2:]))
    return contrib.MuonDimensionNumbers(*axes) if axes else None

  return jax.tree_util.tree_map_with_path(dimension_numbers, params)


def schedule(config: Any) -> optax.Schedule:
  """Makes a linear warm-up and a cosine down to a hundredth of the peak."""
  return optax.warmup_cosine_decay_schedule(
    0.0,
    config.learning_rate,
    config.warmup_steps,
    config.steps,
    0.01 * config.learning_rate,
  )


def optimizer(config: Any) -> optax.GradientTransformation:
  """Makes an optimizer: clipping, then AdamW, or Muon for the matrices.

  With Muon, parameters that are no matrices are updated by AdamW.

  Source: Muon as optax.contrib has it, its updates scaled to AdamW's size
  (Liu et al., arXiv 2502.16982), so that one learning rate serves both.

  Raises:
    ValueError: Unknown name.
  """
  rate = schedule(config)
  if config.optimizer == 'adamw':
    update = optax.adamw(rate, b2=0.98, weight_decay=config.weight_decay)
  elif config.optimizer == 'muon':
    update = contrib.muon(
      rate,
      weight_decay=config.weight_decay,
      adam_b2=0.98,
      adam_weight_decay=0.0,
      muon_weight_dimension_numbers=muon_axes,
      consistent_rms=0.2,
    )
  else:
    raise ValueError(
      f"optimizer: got {config.optimizer!r}, expected 'adamw' or 'muon'"
    )
  return optax.chain(optax.clip_by_global_norm(config.clip), update)


def init(
  config: Any, dims: paligemma.Config, tx: optax.GradientTransformation
) -> PretrainState:
  """Makes the state before the first step."""
  model, heads = jax.random.split(random_keys.make(config.seed))
  params = {
    'model': paligemma.init(dims, model),
    'heads': losses.init_heads(heads, dims.vision.width),
  }
  return PretrainState(params, tx.init(params), jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3,))
def train_step(
  dims: paligemma.Config,
  tx: optax.GradientTransformation,
  captions: bool,
  state: PretrainState,
  batch: dict[str, jax.Array],
) -> tuple[PretrainState, dict[str, jax.Array]]:
  """Updates the parameters once.

  Args:
    dims: The model's dimensions.
    tx: The optimizer.
    captions: Whether the captions' loss is added to that of the labels.
    state: State before the step; its buffers are donated.
    batch: From `batches`.

  Returns:
    The state after the step, and the losses.
  """

  def loss_fn(params):
    model = paligemma.Model(params['model'], dims)
    images = batch['image'].astype(jnp.float32) / 127.5 - 1
    features = model.encode_image(images)
    metrics = losses.label_losses(params['heads'], features, batch)
    total = sum(metrics.values())
    if captions:
      metrics['caption'] = losses.caption_loss(
        model,
        features,
        batch['tokens'],
        batch['mask_ar'],
        batch['mask_loss'],
      )
      total += CAPTION_WEIGHT * metrics['caption']
    return total, metrics

  grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return PretrainState(params, opt_state, state.step + 1), metrics


# The six label losses together are about as large as the captions' loss.
CAPTION_WEIGHT = 3.0
