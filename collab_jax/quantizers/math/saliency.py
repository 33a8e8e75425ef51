"""Saliency of each vector of an image, as numbers of mean 1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from collab_jax.quantizers.math import geometry

KINDS = ('contrast', 'norm', 'attention')


def of(
  kind: str,
  x: Float[Array, 'n d'],
  attention: Float[Array, ' n'] | None = None,
) -> Float[Array, ' n']:
  """Returns the saliency of each vector, above 0 and 1 on average.

  - 'contrast': its mean squared distance to all others.
  - 'norm': its length.
  - 'attention': the attention that it received in the encoder's last block.

  Args:
    kind: 'contrast', 'norm' or 'attention'.
    x: Finite vectors.
    attention: Attention measured by the encoder. Without it, 'attention' is
      estimated from the vectors: the mean of the rows of the softmax of their
      inner products, about their mean and at unit variance, over sqrt(d).

  Source: Cheng et al. 2015 (global contrast); Yang et al. 2024, arXiv
  2412.04467 (attention received).
  """
  x = x.astype(jnp.float32)
  if kind == 'norm':
    largest = jnp.maximum(jnp.max(jnp.abs(x)), 1e-30)
    values = jnp.sqrt(jnp.sum((x / largest) ** 2, axis=1))
  elif kind == 'contrast':
    values = jnp.mean(geometry.distances(x), axis=1)
  elif attention is None:
    values = _estimated_attention(x)
  else:
    values = attention
  mean = jnp.mean(values)
  values = jnp.where(mean > 0, values / jnp.where(mean > 0, mean, 1), 1)
  return jnp.maximum(values, 1e-3)


def _estimated_attention(x):
  points = geometry.centred(x).points
  points = points - jnp.mean(points, axis=0)
  points = points / jnp.maximum(jnp.max(jnp.abs(points)), 1e-30)
  size = jnp.sqrt(jnp.mean(jnp.square(points)))
  points = points / jnp.where(size > 0, size, 1)
  scores = geometry.gram(points) / jnp.sqrt(x.shape[1])
  return jnp.mean(jax.nn.softmax(scores, axis=1), axis=0)
