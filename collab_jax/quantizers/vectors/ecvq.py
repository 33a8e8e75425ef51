"""Residual vector quantization for a coder that knows the frequencies."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.math import vmap
from collab_jax.quantizers.vectors import (
  symbol_tables,
  vq,
)

# Sums of a vector that the search goes on with; it compares size as many.
_WIDEST = 64


@dataclasses.dataclass(frozen=True)
class ECVQ(vq.CodebookQuantizer):
  """Sends a code of each stage, together the best for their bits.

  A vector is the sum of its codes. Of all sums that the search looks at, that
  of least squared distance + weight x bits is sent, bits being what its codes
  take with the frequencies of a book. Unlike those of `ResidualVQ`, the stages
  are one layer: nothing can be rebuilt from some of them, and there is one
  check for all.

  Attributes:
    stages: Number of stages, at most those of the book.
    size: Codes of each stage.
    weight: What a bit costs, in squared units of the vectors' numbers.
    beam: How many sums of the first stages the search goes on with; 1 takes
      the best at each stage, 64 is the most.
    book: A book of kind 'codebook', or 'random'.

  Source: Chou, Lookabaugh and Gray 1989 (entropy-constrained vector
  quantization); Kossentini, Smith and Barnes 1995 (with residual stages).
  """

  stages: int = 4
  size: int = 256
  weight: int | float = 0.1
  beam: int = 8
  book: str = 'tiny/ecvq'

  def __post_init__(self):
    _validate.integer('stages', self.stages, 1, 64)
    _validate.number('weight', self.weight, 0.0, 1e6)
    _validate.integer('beam', self.beam, 1, _WIDEST)
    super().__post_init__()

  def codebooks(self) -> tuple[int, int]:
    """Returns a codebook for each stage, of whole vectors."""
    return self.stages, 1

  @property
  def receiver(self) -> 'ECVQ':
    """Quantizer that is equal for all ways to search."""
    return ECVQ(self.stages, self.size, book=self.book)

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the codebooks, and frequencies and lengths of their codes."""
    params = super().init_params(key, n, d)
    bits = symbol_tables.bits(np.asarray(params['frequencies']))
    return {**params, 'bits': jnp.asarray(bits, jnp.float32)}

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': the codes, a column for each stage}."""
    del key
    prices = self.weight * params['bits']
    one = functools.partial(search, beam=self.beam)
    return {'x': vmap.map_or_vmap(one)(x, params['codes'], prices)}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector the sum of its codes."""
    chosen = message['x'].astype(jnp.int32)
    codes = params['codes'][jnp.arange(self.stages), chosen]
    return base.full_grid(jnp.sum(codes, axis=1))

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n x stages codes."""
    del d
    return {'x': messages.Symbols(self.size, (n, self.stages))}


@functools.partial(jax.jit, static_argnames='beam')
def search(
  x: Float[Array, 'n d'],
  codes: Float[Array, 'stages size d'],
  prices: Float[Array, 'stages size'],
  beam: int,
) -> Int[Array, 'n stages']:
  """Returns the codes whose sums are near for their price.

  Args:
    x: Vectors.
    codes: Codebooks.
    prices: What each code adds to the squared distance.
    beam: How many of the cheapest sums are kept after each stage.
  """
  size = codes.shape[1]
  rest = vq.shortened(x)[:, None]
  # What the codes so far have changed of |x|^2, prices included.
  cost = jnp.zeros(rest.shape[:2], jnp.float32)
  chosen = jnp.zeros((*rest.shape[:2], 0), jnp.int32)
  for stage, price in zip(codes, prices, strict=True):
    cross = jnp.einsum('nbd,kd->nbk', rest, stage, precision='highest')
    change = jnp.sum(stage * stage, axis=1) - 2 * cross + price
    every = (cost[..., None] + change).reshape(len(x), -1)
    least, places = jax.lax.top_k(-every, min(beam, every.shape[1]))
    parents, code = (places // size)[..., None], places % size
    cost = -least
    rest = jnp.take_along_axis(rest, parents, axis=1) - stage[code]
    before = jnp.take_along_axis(chosen, parents, axis=1)
    chosen = jnp.concatenate([before, code[..., None]], axis=2)
  return chosen[:, 0]
