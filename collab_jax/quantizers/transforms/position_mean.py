"""What a place of the grid looks like on average, taken out and put back."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import message as messages
from collab_jax.quantizers import (
  base,
  pretrained,
)
from collab_jax.quantizers.transforms import base as base_lib
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class PositionMean(base_lib.TransformWrapper):
  """Subtracts each place's mean over training pictures, and adds it again.

  An encoder's features know where they are: part of every vector is the same
  in all pictures. Both ends hold that part in a book, so that it need not be
  sent, clusters are not drawn apart by it, and every vector of a cluster gets
  that of its own place back.

  Attributes:
    vectors: What quantizes the differences.
    book: A book of kind 'places', or 'random' for means drawn at random.
  """

  vectors: base.Quantizer = identity.FLOAT16
  book: str = 'tiny/places'

  def __post_init__(self):
    pretrained.check_name(self.book)

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the means of n places, and the inner parameters."""
    if self.book == pretrained.RANDOM:
      mean = jax.random.normal(key, (n, d))
    else:
      book = pretrained.load(self.book, 'places', d)
      why = ': one mean for each place of the grid'
      mean = pretrained.array(book, 'mean', (n, d), why)
    inner = self.vectors.init_params(key, n, d)
    return {
      'mean': jnp.asarray(mean, jnp.float32),
      **base.nest('vectors', inner),
    }

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    **extra: Any,
  ) -> messages.Message:
    """Returns the message of the differences."""
    inner = base.unnest('vectors', params)
    away = x - params['mean']
    return base.prefix(
      'vectors', self.vectors.quantize(inner, away, key, **extra)
    )

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns what `vectors` rebuilds, with the means of the places."""
    inner = base.unprefix('vectors', message)
    tokens = self.vectors.dequantize(base.unnest('vectors', params), inner)
    mean = params['mean']
    if len(tokens.x) != len(mean):
      mean = mean[self.origins(message)]
    return tokens._replace(x=tokens.x + mean)

  def coordinates(self) -> str:
    """Returns what tells its differences from those of other means."""
    if self.book == pretrained.RANDOM:
      return f'{self.book}/places'
    return f'{pretrained.load(self.book, "places").fingerprint}/places'

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns the fields of the differences."""
    return base.prefix('vectors', self.vectors.fields(n, d))
