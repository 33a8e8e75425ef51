"""One codebook for all images: only places in it are sent."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import (
  base,
  pretrained,
)
from collab_jax.quantizers.vectors import codebook


@dataclasses.dataclass(frozen=True)
class SharedVQ:
  """Sends the place of the nearest code of a codebook that both ends hold.

  Attributes:
    size: Number of codes.
    book: A book of kind 'codebook', or 'random'.

  Source: section 2 of van den Oord et al. 2017, arXiv 1711.00937, with a
  codebook that is trained afterwards, by k-means.
  """

  size: int = 1024
  book: str = 'tiny/shared'

  def __post_init__(self):
    _validate.integer('size', self.size, 2, 2**16)
    pretrained.check_name(self.book)

  @property
  def uses_key(self) -> bool:
    """Nothing is drawn."""
    return False

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the codebook and the frequencies of its codes."""
    del n
    return codebook.load(self.book, key, 1, self.size, d)

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': the code of each vector}."""
    del key
    return {'x': codebook.nearest(x, params['codes'][0])}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector replaced by its code."""
    return base.full_grid(params['codes'][0][message['x'].astype(jnp.int32)])

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n codes."""
    del d
    return {'x': messages.Symbols(self.size, (n,))}

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns how often each code came in training."""
    return {'x': params['frequencies']}

  def sent(self, n: int) -> int:
    """Returns n: all of them."""
    return n
