"""Loss and optimizer step of training with the quantizer inside."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key
import optax

from collab_jax import _renamed, _validate, quantizers, random_keys
from collab_jax import message as messages
from collab_jax.models import paligemma
from collab_jax.quantizers import (
  base,
  pretrained,
)
from collab_jax.quantizers.clusters import avg_pool
from collab_jax.quantizers.clusters import base as clusters
from collab_jax.training import (
  bottleneck,
  losses,
  param_groups,
)
from collab_jax.training.codebooks import ema_codebook

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)


@dataclasses.dataclass(frozen=True)
class LossWeights:
  """Weights of the losses and settings of the codebook.

    LossWeights(caption=1.0, commit=0.1, rate=0.01)

  A weight of 0 leaves its loss out.

  Attributes:
    caption: Weight of the cross-entropy of the captions.
    distill: Weight of the divergence from the start model's logits, computed
      with all vectors.
    temperature: Temperature of both logits in the divergence.
    label: Weight of the labels of patches, where the encoder trains.
    commit: Weight of the squared distance of vectors from their sum of codes.
    rate: Weight of the bits of a vector's codes.
    decay: Decay of the running means of the codes.
    dead: Running count below which a code is replaced.
    gradient: As of `bottleneck.apply`.
  """

  caption: float = 1.0
  distill: float = 0.0
  temperature: float = 1.0
  label: float = 0.0
  commit: float = 0.0
  rate: float = 0.0
  decay: float = 0.99
  dead: float = 0.05
  gradient: str = 'mean'

  def __post_init__(self):
    for name in ('caption', 'distill', 'label', 'commit', 'rate', 'dead'):
      _validate.number(name, getattr(self, name), 0.0, 1e6)
    _validate.number('temperature', self.temperature, 1e-3, 1e3)
    _validate.number('decay', self.decay, 0.0, 1.0)
    _validate.choice('gradient', self.gradient, bottleneck.GRADIENTS)
    if not self.caption + self.distill > 0:
      raise ValueError('caption and distill: got 0, expected one above 0')


class FinetuneState(NamedTuple):
  """State of a run, as checkpoints hold it.

  Attributes:
    params: Trainable part of {'model': {'img', 'llm'}, 'heads': ...}.
    opt_state: The optimizer's state.
    codes: The learned codebook, or None.
    step: Steps taken.
  """

  params: Any
  opt_state: Any
  codes: ema_codebook.EmaCodebook | None
  step: jax.Array


def learned_codebook(
  quantizer: quantizers.Quantizer | None,
) -> quantizers.ECVQ | quantizers.ResidualVQ | None:
  """Returns the inner quantizer whose codebook training learns, or None.

  It is `ECVQ` or `ResidualVQ` as the centroids of a clustering or of `AvgPool`,
  with the book 'random'. `Adaptive` has centroids that are not sent, from which
  there is nothing to learn.
  """
  if not isinstance(quantizer, clusters.Clustering | avg_pool.AvgPool):
    return None
  if isinstance(quantizer, quantizers.Adaptive):
    return None
  inner = quantizer.centroids
  if not isinstance(inner, quantizers.ECVQ | quantizers.ResidualVQ):
    return None
  return inner if inner.book == pretrained.RANDOM else None


def quantizer_params(
  quantizer: quantizers.Quantizer,
  codes: ema_codebook.EmaCodebook | None,
  n: int,
  d: int,
) -> base.Params:
  """Returns a quantizer's parameters, the learned codebook among them."""
  if learned_codebook(quantizer) and codes is not None:
    return {'centroids': ema_codebook.params(codes)}
  return quantizer.init_params(random_keys.make(0), n, d)


def apply_bottleneck(
  quantizer: quantizers.Quantizer,
  codes: ema_codebook.EmaCodebook | None,
  features: Float[Array, 'B N D'],
  key: Key[Array, ''],
  gradient: str,
) -> bottleneck.BottleneckOutput:
  """Quantizes and rebuilds a batch; image i has the key `fold_in(key, i)`."""
  params = quantizer_params(quantizer, codes, *features.shape[1:])
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
    jnp.arange(len(features))
  )

  def apply(x, key):
    return bottleneck.apply(quantizer, params, x, key, gradient)

  return jax.vmap(apply)(features, keys)


def project(model: paligemma.Model, tokens: messages.Tokens) -> messages.Prefix:
  """Projects the rebuilt tokens of a batch to the decoder's width."""
  return messages.Prefix(model.project(tokens.x), *tokens[1:])


def kl_divergence(
  logits: Float[Array, 'B T V'],
  target: Float[Array, 'B T V'],
  weight: Float[Array, 'B T'],
  temperature: float,
) -> Float[Array, '']:
  """Kullback-Leibler divergence of target and logits, nats per token.

  Both are divided by the temperature, the result is multiplied by its square.

  Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
  """
  logp = jax.nn.log_softmax(logits / temperature)
  logq = jax.nn.log_softmax(target / temperature)
  gaps = jnp.sum(jnp.exp(logq) * (logq - logp), axis=-1)
  return temperature**2 * (gaps * weight).sum() / weight.sum()


def loss(
  dims: paligemma.Config,
  weights: LossWeights,
  quantizer: quantizers.Quantizer | None,
  params: Any,
  frozen: Any,
  codes: ema_codebook.EmaCodebook | None,
  teacher: Any,
  batch: dict[str, jax.Array],
  key: Key[Array, ''],
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
  """Computes the weighted sum of the losses of a batch.

  Args:
    dims: As of `finetune_step`.
    weights: As of `finetune_step`.
    quantizer: As of `finetune_step`.
    params: Trainable parameters.
    frozen: Frozen parameters.
    codes: The learned codebook, or None.
    teacher: As of `finetune_step`.
    batch: As of `finetune_step`.
    key: Random key of the batch.

  Returns:
    The sum, each loss by itself, and the vectors with their codes for
    `ema_codebook.update`, or None.
  """
  images = batch['image'].astype(jnp.float32) / 127.5 - 1
  inputs = batch['tokens'][:, :-1], batch['mask_ar'][:, :-1]
  joined = param_groups.join(params, frozen)
  model = paligemma.Model(joined['model'], dims)
  features = model.encode_image(images)
  total, metrics, assignment = jnp.zeros(()), {}, None
  if weights.label and 'heads' in params:
    labels = losses.label_losses(joined['heads'], features, batch)
    metrics['label'] = sum(labels.values())
    total += weights.label * metrics['label']
  if quantizer is None:
    prefix = model.project(features)
  else:
    output = apply_bottleneck(quantizer, codes, features, key, weights.gradient)
    prefix = project(model, output.tokens)
    inner = learned_codebook(quantizer)
    centroids = output.centroids
    if inner is not None and centroids is not None and codes is not None:
      x = centroids.reshape(-1, features.shape[-1])
      assigned = _codes(output.message, inner.stages)
      assignment = jax.lax.stop_gradient(x), assigned
      rebuilt = codes.codes[jnp.arange(inner.stages), assigned].sum(1)
      metrics['commit'] = jnp.mean(jnp.sum((x - rebuilt) ** 2, 1))
      # A `ResidualVQ` puts no price on bits.
      weight = inner.weight if isinstance(inner, quantizers.ECVQ) else 0.0
      price = max(weight, 1e-3)
      metrics['rate'] = ema_codebook.soft_bits(codes, x, assigned, price)
      total += weights.commit * metrics['commit']
      total += weights.rate * metrics['rate']
  logits = model.logits(prefix, *inputs, softcap=False)
  if weights.distill:
    start = paligemma.Model(teacher, dims)
    all_vectors = start.project(start.encode_image(images))
    target = start.logits(all_vectors, *inputs, softcap=False)
    metrics['distill'] = kl_divergence(
      logits,
      jax.lax.stop_gradient(target),
      batch['mask_loss'][:, 1:],
      weights.temperature,
    )
    total += weights.distill * metrics['distill']
  captions = losses.suffix_loss(logits, batch['tokens'], batch['mask_loss'])
  metrics['full' if quantizer is None else 'caption'] = captions
  return total + weights.caption * captions, (metrics, assignment)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(4,))
def finetune_step(
  dims: paligemma.Config,
  tx: optax.GradientTransformation,
  weights: LossWeights,
  quantizer: quantizers.Quantizer | None,
  state: FinetuneState,
  frozen: Any,
  teacher: Any,
  batch: dict[str, jax.Array],
  key: Key[Array, ''],
) -> tuple[FinetuneState, dict[str, jax.Array]]:
  """Takes one optimizer step.

  Args:
    dims: The model's dimensions.
    tx: The optimizer.
    weights: Weights of the losses.
    quantizer: Bottleneck of the features; None for all features unchanged.
    state: State before the step; its buffers are donated.
    frozen: Frozen parameters, see `param_groups.split`.
    teacher: Parameters of the model to distil; None without.
    batch: From `batches`.
    key: Random key of the run.

  Returns:
    The state after the step, and the losses; 'full' is the captions' without a
    quantizer, 'caption' with one.
  """
  key = jax.random.fold_in(key, state.step)
  loss_fn = functools.partial(loss, dims, weights, quantizer)
  grads, (metrics, assignment) = jax.grad(loss_fn, has_aux=True)(
    state.params, frozen, state.codes, teacher, batch, key
  )
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  codes = state.codes
  if assignment is not None and codes is not None:
    x, assigned = assignment
    codes = ema_codebook.update(
      codes, x, assigned, key, weights.decay, weights.dead
    )
  return FinetuneState(params, opt_state, codes, state.step + 1), metrics


def _codes(message, stages):
  """Returns the codes of all vectors of a batch, i32[rows, stages]."""
  inner = base.unprefix('centroids', message)
  if 'x' in inner:
    return inner['x'].reshape(-1, stages)
  columns = [inner[f'stage{s}'].reshape(-1) for s in range(stages)]
  return jnp.stack(columns, axis=1)
