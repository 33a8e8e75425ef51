"""Product quantization: a code for each piece of a vector."""

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
class ProductVQ:
  """Cuts vectors into pieces of equal width, each with a codebook of its own.

  Attributes:
    groups: Number of pieces; it divides the vectors' width.
    size: Codes of each piece.
    book: A book of kind 'codebook', or 'random'.

  Source: Jegou, Douze and Schmid 2011.
  """

  groups: int = 8
  size: int = 256
  book: str = 'tiny/product'

  def __post_init__(self):
    _validate.integer('groups', self.groups, 1, 2**16)
    _validate.integer('size', self.size, 2, 2**16)
    pretrained.check_name(self.book)

  @property
  def uses_key(self) -> bool:
    """Nothing is drawn."""
    return False

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the codebooks and the frequencies of their codes."""
    del n
    return codebook.load(
      self.book, key, self.groups, self.size, self._width(d), self.groups
    )

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': the code of each piece}."""
    del key
    pieces = x.reshape(x.shape[0], self.groups, -1)
    find = jax.vmap(codebook.nearest, in_axes=(1, 0), out_axes=1)
    return {'x': find(pieces, params['codes'])}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, the codes side by side."""
    chosen = message['x'].astype(jnp.int32)
    codes = params['codes'][jnp.arange(self.groups), chosen]
    return base.full_grid(codes.reshape(chosen.shape[0], -1))

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n x groups codes."""
    self._width(d)
    return {'x': messages.Symbols(self.size, (n, self.groups))}

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns how often each code came in training, a row for each piece."""
    return {'x': params['frequencies']}

  def sent(self, n: int) -> int:
    """Returns n: all of them."""
    return n

  def _width(self, d):
    if d % self.groups:
      raise pretrained.QuantizerParamsError(
        f'groups = {self.groups} does not divide the width d = {d}; choose one'
        ' that does.'
      )
    return d // self.groups
