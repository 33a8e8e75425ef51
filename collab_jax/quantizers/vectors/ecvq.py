"""Entropy-constrained residual vector quantization."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.math import vmap
from collab_jax.quantizers.vectors import symbol_tables, vq

# Largest beam; the search compares beam x size sums at a time.
_WIDEST = 64


@dataclasses.dataclass(frozen=True)
class ECVQ(vq.CodebookQuantizer):
  """Sends a code of each stage, chosen jointly for distance and bits.

      ECVQ(stages=4, weight=0.1)

  A vector is the sum of its codes. A beam search looks for the sum of least
  squared distance + weight x bits, where bits is the length of its codes with
  the frequencies of the parameter file. Unlike those of `ResidualVQ`, the
  stages are one layer: nothing can be rebuilt from some of them.

  Attributes:
    stages: Number of stages, at most those of the parameter file.
    size: Number of codes of each stage.
    weight: Cost of a bit, in squared units of the vectors' numbers.
    beam: Number of partial sums that the search keeps after each stage, at most
      64; 1 is greedy.
    book: Parameter file of kind 'codebook', or 'random'.

  Source: Chou, Lookabaugh and Gray 1989 (entropy-constrained vector
  quantization); Kossentini, Smith and Barnes 1995 (with residual stages).
  """

  stages: int = 4
  size: int = 256
  weight: int | float = 0.1
  beam: int = 8
  book: str = 'tiny/ecvq'

  row_wise: ClassVar[bool] = True

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
    """Returns {'x': the indices of the codes, a column for each stage}."""
    del key
    prices = self.weight * params['bits']
    search_image = vmap.map_or_vmap(functools.partial(search, beam=self.beam))
    return {'x': search_image(x, params['codes'], prices)}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector the sum of its codes."""
    indices = message['x'].astype(jnp.int32)
    codes = params['codes'][jnp.arange(self.stages), indices]
    return base.full_grid(jnp.sum(codes, axis=1))

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n x stages indices."""
    del d
    return {'x': messages.Symbols(self.size, (n, self.stages))}


@functools.partial(jax.jit, static_argnames='beam')
def search(
  x: Float[Array, 'n d'],
  codes: Float[Array, 'stages size d'],
  prices: Float[Array, 'stages size'],
  beam: int,
) -> Int[Array, 'n stages']:
  """Returns the codes of least squared distance plus price, by beam search.

  Args:
    x: Vectors.
    codes: Codebooks.
    prices: Price of each code, in squared distance.
    beam: Number of the cheapest sums that are kept after each stage.
  """
  size = codes.shape[1]
  residual = vq.shortened(x)[:, None]
  # Change of |x|^2 by the codes so far, prices included.
  cost = jnp.zeros(residual.shape[:2], jnp.float32)
  indices = jnp.zeros((*residual.shape[:2], 0), jnp.int32)
  for stage, price in zip(codes, prices, strict=True):
    cross = jnp.einsum('nbd,kd->nbk', residual, stage, precision='highest')
    change = jnp.sum(stage * stage, axis=1) - 2 * cross + price
    candidates = (cost[..., None] + change).reshape(len(x), -1)
    best, flat = jax.lax.top_k(-candidates, min(beam, candidates.shape[1]))
    parents, code = (flat // size)[..., None], flat % size
    cost = -best
    residual = jnp.take_along_axis(residual, parents, axis=1) - stage[code]
    prefix = jnp.take_along_axis(indices, parents, axis=1)
    indices = jnp.concatenate([prefix, code[..., None]], axis=2)
  return indices[:, 0]
