"""Step of training on questions, with or without the image encoder."""

import functools
from typing import Any

import jax
from jax import numpy as jnp
import optax

from collab_jax.models import paligemma
from collab_jax.training import losses, packing, param_groups, pretrain_step


def loss(
  dims: paligemma.Config,
  weights: tuple[float, ...],
  params: Any,
  frozen: Any,
  batch: dict[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the loss of the texts, plus that of labels if the encoder trains.

  A picture is encoded once for all of its rows.

  Args:
    dims: The model's dimensions.
    weights: Weight of a token of each of `packing.KINDS`.
    params: Trainable parameters.
    frozen: Frozen parameters.
    batch: From `question_examples`.

  Returns:
    The loss, and the parts by name.
  """
  joined = param_groups.join(params, frozen)
  model = paligemma.Model(joined['model'], dims)
  features = model.encode_image(batch['image'].astype(jnp.float32) / 127.5 - 1)
  count = batch['tokens'].shape[1]
  rows = {
    name: batch[name].reshape(-1, batch[name].shape[-1])
    for name in packing.NAMES
  }
  image = jnp.repeat(model.project(features), count, axis=0)
  scores = packing.logits(model, image, rows)
  total, metrics = packing.losses(scores, rows, weights)
  if 'heads' in params:
    labels = losses.label_losses(joined['heads'], features, batch)
    metrics['labels'] = sum(labels.values(), jnp.zeros(()))
    total += metrics['labels'] / pretrain_step.CAPTION_WEIGHT
  return total, metrics


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3,))
def train_step(
  dims: paligemma.Config,
  tx: optax.GradientTransformation,
  weights: tuple[float, ...],
  state: pretrain_step.PretrainState,
  frozen: Any,
  batch: dict[str, jax.Array],
) -> tuple[pretrain_step.PretrainState, dict[str, jax.Array]]:
  """Updates the trainable parameters once.

  Args:
    dims: As of `loss`.
    tx: The optimizer.
    weights: As of `loss`.
    state: State before the step; its buffers are donated.
    frozen: As of `loss`.
    batch: As of `loss`.

  Returns:
    The state after the step, and the parts of the loss by name.
  """
  loss_fn = functools.partial(loss, dims, weights)
  grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params, frozen, batch)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return pretrain_step.PretrainState(params, opt_state, state.step + 1), metrics
