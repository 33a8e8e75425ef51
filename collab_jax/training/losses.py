"""Losses of training: captions, and labels of patches."""

from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int
import optax

from collab_jax.data import world
from collab_jax.models import paligemma

# Classes of each label, "nothing" included. Objects that a caption does not
# name share the last class of 'object'.
LABELS = {
  'shape': 1 + len(world.SHAPES),
  'colour': 1 + len(world.COLOURS),
  'texture': 1 + len(world.TEXTURES),
  'size': 1 + len(world.SIZES),
  'object': 2 + world.MENTIONED,
  'background': len(world.BACKGROUNDS),
}
# Most patches show background: they count less, but for their own label.
EMPTY_WEIGHT = 0.1


def init_heads(key: jax.Array, width: int) -> dict[str, Any]:
  """Makes linear classifiers of the features, used in training only."""
  keys = jax.random.split(key, len(LABELS))
  return {
    name: {
      'kernel': jax.random.normal(k, (width, classes)) * width**-0.5,
      'bias': jnp.zeros(classes),
    }
    for k, (name, classes) in zip(keys, LABELS.items(), strict=True)
  }


def label_losses(
  heads: dict[str, Any],
  features: Float[Array, 'B N D'],
  batch: dict[str, Any],
) -> dict[str, Float[Array, '']]:
  """Cross-entropy of each label over the patches, in nats."""
  losses = {}
  for name, classes in LABELS.items():
    labels = batch[name].reshape(features.shape[:2])
    labels = jnp.minimum(labels, classes - 1)
    logits = features @ heads[name]['kernel'] + heads[name]['bias']
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    weight = jnp.ones_like(loss)
    if name != 'background':
      weight = jnp.where(labels > 0, 1.0, EMPTY_WEIGHT)
    losses[name] = (loss * weight).sum() / weight.sum()
  return losses


def caption_loss(
  model: paligemma.Model,
  features: Float[Array, 'B N D'],
  tokens: Int[Array, 'B T'],
  mask_ar: Int[Array, 'B T'],
  mask_loss: Float[Array, 'B T'],
) -> Float[Array, '']:
  """Cross-entropy of the suffix, in nats per token, without the soft-cap."""
  logits = model.logits(
    model.project(features), tokens[:, :-1], mask_ar[:, :-1], softcap=False
  )
  return suffix_loss(logits, tokens, mask_loss)


def suffix_loss(
  logits: Float[Array, 'B _ V'],
  tokens: Int[Array, 'B T'],
  mask_loss: Float[Array, 'B T'],
) -> Float[Array, '']:
  """Cross-entropy of the suffix by the logits before it, in nats per token."""
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
  weight = mask_loss[:, 1:]
  return (loss * weight).sum() / weight.sum()
