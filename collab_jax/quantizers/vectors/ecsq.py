"""Entropy-constrained scalar quantization."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base, pretrained
from collab_jax.quantizers.vectors import symbol_tables

# Alternations between choosing symbols and measuring their lengths.
_ROUNDS = 4


@dataclasses.dataclass(frozen=True)
class ECSQ(base.Quantizer):
  """Rounds every number to a multiple of a step, at a price for its bits.

      ECSQ(step=1.0, weight=0.1)

  Every number becomes the symbol of least squared distance from its multiple
  + weight x step^2 x bits, where bits is the symbol's length with the
  frequencies of a parameter file. Those are the `priors`, so that a number that
  hardly varies costs hardly anything: with one step for all numbers this is
  reverse water-filling. A symbol is rebuilt as the mean of the training data
  that have it.

  Attributes:
    step: Width of a symbol, in units of the vectors' numbers.
    weight: Cost of a bit, in squared steps.
    reach: Symbols are -reach..reach; numbers beyond become the last one.
    book: Parameter file of kind 'linear', whose quantiles give the frequencies,
      or 'random' for numbers of a normal distribution.

  Source: Chou, Lookabaugh and Gray 1989; at low rates nearly as good as any
  scalar quantizer (Sullivan 1996).
  """

  row_wise: ClassVar[bool] = True
  reads_quantiles: ClassVar[bool] = True

  step: int | float = 1.0
  weight: int | float = 0.1
  reach: int = 20
  book: str = 'tiny/centroids'

  def __post_init__(self):
    _validate.number('step', self.step, 1e-6, 1e6)
    _validate.number('weight', self.weight, 0.0, 10.0)
    _validate.integer('reach', self.reach, 1, 1000)
    pretrained.check_name(self.book)

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns each symbol's frequency, length and mean, of each number."""
    del key, n
    values = symbol_tables.points(self.book, d)
    middles = np.arange(-self.reach, self.reach + 1.0) * self.step
    middles = np.tile(middles, (d, 1))
    near = np.clip(np.round(values / self.step), -self.reach, self.reach)
    symbols = near.astype(np.int64) + self.reach
    for _ in range(_ROUNDS if self.weight else 0):
      bits = symbol_tables.bits(
        symbol_tables.frequencies(symbols, middles.shape[1])
      )
      costs = (values[:, :, None] - middles[:, None]) ** 2
      costs += self.weight * self.step**2 * bits[:, None]
      symbols = costs.argmin(axis=2)
    frequencies = symbol_tables.frequencies(symbols, middles.shape[1])
    means = symbol_tables.means(values, symbols, middles)
    return {
      'means': jnp.asarray(means, jnp.float32),
      'bits': jnp.asarray(symbol_tables.bits(frequencies), jnp.float32),
      'frequencies': jnp.asarray(frequencies),
    }

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': the symbols}."""
    del key
    # Further away all symbols would be equally wrong in float32.
    multiples = jnp.arange(-self.reach, self.reach + 1.0)
    z = jnp.clip(x / self.step, -1000.0 * self.reach, 1000.0 * self.reach)
    costs = (z[:, :, None] - multiples) ** 2 + self.weight * params['bits']
    return {'x': jnp.argmin(costs, axis=2).astype(jnp.int32)}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each number the mean of its symbol."""
    means, symbols = params['means'], message['x'].astype(jnp.int32)
    return base.full_grid(means[jnp.arange(means.shape[0]), symbols])

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n x d symbols."""
    return {'x': messages.Symbols(2 * self.reach + 1, (n, d))}

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns the frequencies of the symbols, a row for each number."""
    return {'x': params['frequencies']}
