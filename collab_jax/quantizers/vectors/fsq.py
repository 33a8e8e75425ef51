"""Finite scalar quantization: bounded numbers rounded to a few levels."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base, pretrained
from collab_jax.quantizers.vectors import symbol_tables

_EPS = 1e-3


@dataclasses.dataclass(frozen=True)
class FSQ(base.Quantizer):
  """Bounds every number by a tanh and rounds it to one of `levels` integers.

      FSQ(levels=5)

  The codebook is the grid of all levels, so there is none to train. The paper
  learns the projections before and after; here a parameter file gives the
  spread of each number, and the value of a level: the mean of the training
  data.

  Attributes:
    levels: Number of levels, at least 2: one for all numbers, '5', or one for
      each of the d numbers with an x between them, '8x5x5x5'.
    book: Parameter file of kind 'linear', or 'random' for numbers of a normal
      distribution.

  Source: Mentzer et al. 2023, arXiv 2309.15505, section 3.1 and appendix A.1.
  """

  row_wise: ClassVar[bool] = True
  reads_quantiles: ClassVar[bool] = True

  levels: int | str = 5
  book: str = 'tiny/centroids'

  def __post_init__(self):
    parts = str(self.levels).split('x')
    if not all(p.isdecimal() and 2 <= int(p) <= 2**15 for p in parts):
      raise _validate.error(
        'levels',
        self.levels,
        f"numbers from 2 to {2**15}, such as 5 or '8x5x5x5'",
      )
    pretrained.check_name(self.book)

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns spread of the numbers, and the levels' means and frequencies."""
    del key, n
    values = symbol_tables.points(self.book, d)
    mean = values.mean(axis=1)
    scale = np.maximum(values.std(axis=1), 1e-12)
    levels = self._levels(d)
    symbols = np.asarray(
      _bound(jnp.asarray((values - mean[:, None]) / scale[:, None]).T, levels)
    ).T
    top = int(levels.max())
    # Without data, a level is rebuilt as the value bounded to its middle.
    half, offset, shift = (a[:, None] for a in _constants(levels))
    inside = (np.arange(top) - levels[:, None] // 2 + offset) / half
    middles = np.arctanh(np.clip(inside, -0.99, 0.99)) - shift
    middles = middles * scale[:, None] + mean[:, None]
    return {
      'mean': jnp.asarray(mean, jnp.float32),
      'scale': jnp.asarray(scale, jnp.float32),
      'means': jnp.asarray(
        symbol_tables.means(values, symbols, middles), jnp.float32
      ),
      'frequencies': jnp.asarray(symbol_tables.frequencies(symbols, top)),
    }

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': the levels, from 0}."""
    del key
    z = (x - params['mean']) / params['scale']
    return {'x': _bound(z, self._levels(x.shape[1]))}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each number the mean of its level."""
    means, symbols = params['means'], message['x'].astype(jnp.int32)
    return base.full_grid(means[jnp.arange(means.shape[0]), symbols])

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n x d levels."""
    return {'x': messages.Symbols(int(self._levels(d).max()), (n, d))}

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns the frequencies of the levels, a row for each number."""
    return {'x': params['frequencies']}

  def _levels(self, d: int) -> Int[np.ndarray, ' d']:
    parts = [int(part) for part in str(self.levels).split('x')]
    if len(parts) not in (1, d):
      raise ValueError(
        f'levels: got {self.levels!r}, {len(parts)} numbers, expected 1 or'
        f' {d}, the width of the vectors; put pca(dims={len(parts)}) before it'
      )
    return np.resize(np.array(parts), d)


def _constants(levels):
  """Returns half the range, and offset and shift of even level counts."""
  half = (levels - 1) * (1 - _EPS) / 2
  offset = np.where(levels % 2, 0.0, 0.5)
  return half, offset, np.tan(offset / half)


def _bound(z, levels):
  """Returns the level of each number, from 0."""
  half, offset, shift = _constants(levels)
  moved = jnp.tanh(z + jnp.asarray(shift, z.dtype)) * half - offset
  level = jnp.round(moved).astype(jnp.int32) + levels // 2
  return jnp.clip(level, 0, levels - 1).astype(jnp.int32)
