"""The quantizer as a layer of the model, with a gradient."""

from typing import TYPE_CHECKING, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import _renamed, quantizers
from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import avg_pool
from collab_jax.quantizers.clusters import base as clusters

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

GRADIENTS = ('mean', 'straight')


class BottleneckOutput(NamedTuple):
  """Tokens rebuilt by the receiver, and the message they come from.

  Attributes:
    tokens: Rebuilt tokens.
    centroids: Centroids before they were quantized, with their gradient; for an
      empty cluster the mean of all vectors. None if there are no clusters.
    message: The message.
  """

  tokens: messages.Tokens
  centroids: Float[Array, 'k d'] | None
  message: messages.Message


def apply(
  quantizer: quantizers.Quantizer,
  params: base.Params,
  x: Float[Array, 'n d'],
  key: Key[Array, ''],
  gradient: str = 'mean',
) -> BottleneckOutput:
  """Quantizes and rebuilds the vectors of an image.

  The value is that of `dequantize(quantize(x))`. With 'mean', a vector's
  centroid is the mean of its cluster, or of its cell of the grid, and has the
  gradient of that mean with the clusters held: each of c members gets 1/c of
  it. The centroids' own quantizer is passed straight through.

  Args:
    quantizer: Any quantizer.
    params: From its `init_params`.
    x: Vectors of an image.
    key: Random key of the image.
    gradient: 'straight' for `quantizers.straight_through`; 'mean' differs from
      it for clusterings and `AvgPool` only.

  Raises:
    ValueError: As `quantizers.straight_through`.
  """
  message = quantizer.quantize(params, jax.lax.stop_gradient(x), key)
  tokens = quantizer.dequantize(params, message)
  if not isinstance(quantizer, clusters.Clustering | avg_pool.AvgPool):
    tokens = base.with_gradient(quantizer, x, message, tokens)
    return BottleneckOutput(tokens, None, message)
  rows = quantizer.row_of(message)
  member = jax.nn.one_hot(
    message.get('assignments', rows), quantizer.k, dtype=x.dtype
  )
  count = member.sum(0)[:, None]
  means = jnp.einsum('nk,nd->kd', member, x, precision='highest')
  means = jnp.where(count > 0, means / jnp.maximum(count, 1), x.mean(0))
  if gradient == 'straight':
    tokens = base.with_gradient(quantizer, x, message, tokens)
    return BottleneckOutput(tokens, means, message)
  gradient_only = (means - jax.lax.stop_gradient(means))[rows]
  rebuilt = jax.lax.stop_gradient(tokens.x) + gradient_only
  return BottleneckOutput(tokens._replace(x=rebuilt), means, message)
