"""One step of training with the quantizer inside of the model."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key
import optax

from collab_jax import _renamed, _validate, quantizers
from collab_jax import message as messages
from collab_jax.models import paligemma
from collab_jax.quantizers import (
  base,
  pretrained,
)
from collab_jax.quantizers.clusters import (
  avg_pool,
)
from collab_jax.quantizers.clusters import (
  base as base_lib,
)
from collab_jax.training import (
  bottleneck,
  losses,
  param_groups,
)
from collab_jax.training.codebooks import ema_codebook

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)


@dataclasses.dataclass(frozen=True)
class Weights:
  """What is minimized, as plain values; a weight of 0 leaves its loss out.

  Attributes:
    caption: Of the cross-entropy of the captions.
    distill: Of the divergence from the start model's logits with all vectors.
    temperature: Of both in the divergence.
    label: Of the labels of patches, where the encoder trains.
    commit: Of the squared distance of vectors from what their codes rebuild.
    rate: Of the bits of a vector's codes.
    decay: Of the running means of the codes.
    dead: Running count below which a code is replaced.
    gradient: As of `bottleneck.through`.
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


class State(NamedTuple):
  """What a run needs to go on.

  Attributes:
    params: What trains, of {'model': {'img', 'llm'}, 'heads': ...}.
    opt_state: The optimizer's state.
    codes: The codebook that moves, or None.
    step: Steps taken.
  """

  params: Any
  opt_state: Any
  codes: ema_codebook.Moving | None
  step: jax.Array


def learns(quantizer: quantizers.Quantizer | None) -> Any:
  """Returns what within a quantizer reads the moving codebook, if anything.

  It is `ECVQ` or `ResidualVQ` as the centroids of a clustering or of `Pool`,
  with the book 'random'. `Adaptive` has centroids that are not sent, from which
  there is nothing to learn.
  """
  if not isinstance(quantizer, base_lib.Clustering | avg_pool.AvgPool):
    return None
  if isinstance(quantizer, quantizers.Adaptive):
    return None
  inner = quantizer.centroids
  if not isinstance(inner, quantizers.ECVQ | quantizers.ResidualVQ):
    return None
  return inner if inner.book == pretrained.RANDOM else None


def params_of(
  quantizer: quantizers.Quantizer,
  codes: ema_codebook.Moving | None,
  n: int,
  d: int,
) -> base.Params:
  """Returns a quantizer's parameters, the moving codebook among them."""
  if learns(quantizer) and codes is not None:
    return {'centroids': ema_codebook.params(codes)}
  return quantizer.init_params(jax.random.key(0), n, d)


def passed(
  quantizer: quantizers.Quantizer,
  codes: ema_codebook.Moving | None,
  features: Float[Array, 'B N D'],
  key: Key[Array, ''],
  gradient: str,
) -> bottleneck.Passed:
  """Passes the features of a batch; image i draws from `fold_in(key, i)`."""
  params = params_of(quantizer, codes, *features.shape[1:])
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
    jnp.arange(len(features))
  )

  def one(x, key):
    return bottleneck.through(quantizer, params, x, key, gradient)

  return jax.vmap(one)(features, keys)


def prefix(model: paligemma.Model, tokens: messages.Tokens) -> messages.Prefix:
  """Projects what was rebuilt of a batch."""
  return messages.Prefix(model.project(tokens.x), *tokens[1:])


def divergence(
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
  weights: Weights,
  quantizer: quantizers.Quantizer | None,
  params: Any,
  still: Any,
  codes: ema_codebook.Moving | None,
  teacher: Any,
  batch: dict[str, jax.Array],
  key: Key[Array, ''],
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
  """What a step minimizes.

  Args:
    dims: As of `finetune_step`.
    weights: As of `finetune_step`.
    quantizer: As of `finetune_step`.
    params: What trains.
    still: What does not.
    codes: The codebook that moves, or None.
    teacher: As of `finetune_step`.
    batch: As of `finetune_step`.
    key: The batch's.

  Returns:
    The sum, each loss by itself, and the vectors with their codes for
    `moving.update`, or None.
  """
  images = batch['image'].astype(jnp.float32) / 127.5 - 1
  inputs = batch['tokens'][:, :-1], batch['mask_ar'][:, :-1]
  own = param_groups.join(params, still)
  model = paligemma.Model(own['model'], dims)
  features = model.encode_image(images)
  total, metrics, sent = jnp.zeros(()), {}, None
  if weights.label and 'heads' in params:
    labels = losses.label_losses(own['heads'], features, batch)
    metrics['label'] = sum(labels.values())
    total += weights.label * metrics['label']
  if quantizer is None:
    view = model.project(features)
  else:
    found = passed(quantizer, codes, features, key, weights.gradient)
    view = prefix(model, found.tokens)
    inner = learns(quantizer)
    if inner is not None and found.sent is not None and codes is not None:
      x = found.sent.reshape(-1, features.shape[-1])
      chosen = _codes(found.message, inner.stages)
      sent = jax.lax.stop_gradient(x), chosen
      rebuilt = codes.codes[jnp.arange(inner.stages), chosen].sum(1)
      metrics['commit'] = jnp.mean(jnp.sum((x - rebuilt) ** 2, 1))
      price = max(getattr(inner, 'weight', 0.0), 1e-3)
      metrics['rate'] = ema_codebook.soft_bits(codes, x, chosen, price)
      total += weights.commit * metrics['commit']
      total += weights.rate * metrics['rate']
  logits = model.logits(view, *inputs, softcap=False)
  if weights.distill:
    old = paligemma.Model(teacher, dims)
    whole = old.project(old.encode_image(images))
    target = old.logits(whole, *inputs, softcap=False)
    metrics['distill'] = divergence(
      logits,
      jax.lax.stop_gradient(target),
      batch['mask_loss'][:, 1:],
      weights.temperature,
    )
    total += weights.distill * metrics['distill']
  captions = losses.suffix_loss(logits, batch['tokens'], batch['mask_loss'])
  metrics['full' if quantizer is None else 'caption'] = captions
  return total + weights.caption * captions, (metrics, sent)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(4,))
def finetune_step(
  dims: paligemma.Config,
  tx: optax.GradientTransformation,
  weights: Weights,
  quantizer: quantizers.Quantizer | None,
  state: State,
  still: Any,
  teacher: Any,
  batch: dict[str, jax.Array],
  key: Key[Array, ''],
) -> tuple[State, dict[str, jax.Array]]:
  """Updates what trains once.

  Args:
    dims: The model's dimensions.
    tx: The optimizer.
    weights: What is minimized.
    quantizer: What the features pass through; None for all of them as they are.
    state: Before; its buffers are given up.
    still: What does not train, see `choices.split`.
    teacher: The parameters of the model to distil; None without.
    batch: From `batches`.
    key: What quantizers draw is drawn from it.

  Returns:
    The state after, and the losses; 'full' is the captions' without a
    quantizer, 'caption' with one.
  """
  key = jax.random.fold_in(key, state.step)
  one = functools.partial(loss, dims, weights, quantizer)
  grads, (metrics, sent) = jax.grad(one, has_aux=True)(
    state.params, still, state.codes, teacher, batch, key
  )
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  codes = state.codes
  if sent is not None and codes is not None:
    x, chosen = sent
    codes = ema_codebook.update(
      codes, x, chosen, key, weights.decay, weights.dead
    )
  return State(params, opt_state, codes, state.step + 1), metrics


def _codes(message, stages):
  """The codes of all vectors of a batch, i32[rows, stages]."""
  inner = base.unprefix('centroids', message)
  if 'x' in inner:
    return inner['x'].reshape(-1, stages)
  columns = [inner[f'stage{s}'].reshape(-1) for s in range(stages)]
  return jnp.stack(columns, axis=1)
