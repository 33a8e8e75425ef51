"""The quantizer inside of the model: what it rebuilds, with a gradient."""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import message as messages
from collab_jax import quantizers
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import (
  avg_pool,
)
from collab_jax.quantizers.clusters import (
  base as base_lib,
)

GRADIENTS = ('mean', 'straight')


class Passed(NamedTuple):
  """What came through a quantizer.

  Attributes:
    tokens: What the receiver rebuilds.
    sent: The centroids before they were quantized, with their gradient; of an
      empty cluster the mean of all vectors. None if there are no clusters.
    message: What crossed the link.
  """

  tokens: messages.Tokens
  sent: Float[Array, 'k d'] | None
  message: messages.Message


def through(
  quantizer: quantizers.Quantizer,
  params: base.Params,
  x: Float[Array, 'n d'],
  key: Key[Array, ''],
  gradient: str = 'mean',
) -> Passed:
  """Quantizes and rebuilds the vectors of an image.

  The value is that of `dequantize(quantize(x))`. With 'mean', a vector's
  centroid is the mean of its cluster, or of its cell of the grid, and has the
  gradient of that mean with the clusters held: each of c members gets 1/c of
  it. What quantizes the centroids is passed straight through.

  Args:
    quantizer: Any quantizer.
    params: What its `init_params` returned.
    x: The vectors.
    key: The key of this image.
    gradient: 'straight' for `quantizers.straight_through`; 'mean' differs from
      it for clusterings and `Pool` only.

  Raises:
    ValueError: As `quantizers.straight_through`.
  """
  message = quantizer.quantize(params, jax.lax.stop_gradient(x), key)
  tokens = quantizer.dequantize(params, message)
  if not isinstance(quantizer, base_lib.Clustering | avg_pool.AvgPool):
    tokens = base.with_gradient(quantizer, x, message, tokens)
    return Passed(tokens, None, message)
  rows = quantizer.row_of(message)
  member = jax.nn.one_hot(
    message.get('assignments', rows), quantizer.k, dtype=x.dtype
  )
  count = member.sum(0)[:, None]
  means = jnp.einsum('nk,nd->kd', member, x, precision='highest')
  means = jnp.where(count > 0, means / jnp.maximum(count, 1), x.mean(0))
  if gradient == 'straight':
    tokens = base.with_gradient(quantizer, x, message, tokens)
    return Passed(tokens, means, message)
  wire = (means - jax.lax.stop_gradient(means))[rows]
  rebuilt = jax.lax.stop_gradient(tokens.x) + wire
  return Passed(tokens._replace(x=rebuilt), means, message)
