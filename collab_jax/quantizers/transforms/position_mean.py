"""Mean vector of each grid position, subtracted and added again."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import message as messages
from collab_jax.quantizers import base, pretrained
from collab_jax.quantizers.transforms import base as transform
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class PositionMean(transform.TransformWrapper):
  """Subtracts each position's mean over training images, and adds it again.

      PositionMean(vectors=Agglomerative(k=8))

  An encoder's features depend on the position: part of every vector is the
  same in all images. Both ends hold that part in a parameter file, so that it
  is not sent, does not separate clusters, and every vector of a cluster gets
  that of its own position back.

  Attributes:
    vectors: Quantizer of the differences.
    book: Parameter file of kind 'places', or 'random' for means drawn at
      random.
  """

  vectors: base.QuantizerLike = identity.FLOAT16
  book: str = 'tiny/places'

  def __post_init__(self):
    pretrained.check_name(self.book)

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the means of n positions, and the inner parameters."""
    if self.book == pretrained.RANDOM:
      mean = jax.random.normal(key, (n, d))
    else:
      book = pretrained.load(self.book, 'places', d)
      why = ': one mean for each place of the grid'
      mean = pretrained.array(book, 'mean', (n, d), why)
    return {
      'mean': jnp.asarray(mean, jnp.float32),
      **super().init_params(key, n, d),
    }

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    **aux: Any,
  ) -> messages.Message:
    """Returns the message of the differences."""
    return self.quantize_inner(params, x - params['mean'], key, **aux)

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the rebuilt differences, with the means of their positions."""
    tokens = self.dequantize_inner(params, message)
    mean = params['mean']
    if len(tokens.x) != len(mean):
      mean = mean[self.origins(message)]
    return tokens._replace(x=tokens.x + mean)

  def coordinates(self) -> str:
    """Returns the fingerprint of the means."""
    means = self.book
    if means != pretrained.RANDOM:
      means = pretrained.load(means, 'places').fingerprint
    return f'{means}/places'
