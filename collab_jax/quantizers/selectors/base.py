"""What the quantizers share that send some of the vectors themselves."""

import abc
from collections.abc import Collection
import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import (
  base,
  concealment,
)
from collab_jax.quantizers.math import geometry
from collab_jax.quantizers.vectors import identity

REBUILDS = ('close', 'keep', 'zero', 'nearest')


@dataclasses.dataclass(frozen=True)
class Selection(abc.ABC):
  """Sends k of the n vectors, and a mask that tells which.

  Subclasses say which, in `select`. The paper leaves open what the server
  puts in the place of the vectors that it did not get:

  - 'close': nothing; the sent vectors close up to positions 0..k-1.
  - 'keep': nothing; the sent vectors keep their positions in the grid.
  - 'zero': zeros.
  - 'nearest': the sent vector nearest on the grid (Euclidean; ties: the
    lowest index). The vectors must form a square grid.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'.
    vectors: What quantizes the sent vectors.
  """

  k: int
  rebuild: str = 'close'
  vectors: base.Quantizer = identity.FLOAT16

  # Whether `select` uses its key.
  draws: ClassVar[bool] = False

  def __post_init__(self):
    base.check_k(self.k)
    _validate.choice('rebuild', self.rebuild, REBUILDS)

  @abc.abstractmethod
  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Returns the indices of k different vectors, in any order."""

  @property
  def sender(self) -> 'Selection':
    """The same for all ways to rebuild: one program on the edge."""
    return dataclasses.replace(self, rebuild=REBUILDS[0])

  @property
  def uses_key(self) -> bool:
    """Whether the selection, or what quantizes the vectors, is drawn."""
    return self.draws or self.vectors.uses_key

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the parameters of `vectors`."""
    self._check(n)
    return base.nest('vectors', self.vectors.init_params(key, self.k, d))

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the mask, and the message of the vectors in grid order."""
    n = x.shape[0]
    self._check(n)
    select_key, inner_key = base.split(key, self.vectors)
    indices = jnp.sort(self.select(x, select_key))
    inner = self.vectors.quantize(
      base.unnest('vectors', params), x[indices], inner_key
    )
    mask = jnp.zeros(n, jnp.int32).at[indices].set(1)
    return {'mask': mask, **base.prefix('vectors', inner)}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns k tokens ('close', 'keep') or n tokens ('zero', 'nearest')."""
    sent = self.vectors.dequantize(
      base.unnest('vectors', params), base.unprefix('vectors', message)
    ).x.astype(jnp.float32)
    n = message['mask'].shape[0]
    indices = self.origins(message)
    if self.rebuild == 'close':
      return base.full_grid(sent)
    if self.rebuild == 'keep':
      end = jnp.asarray(n, jnp.int32)
      return messages.Tokens(sent, jnp.ones(self.k, bool), indices, end)
    if self.rebuild == 'zero':
      return base.full_grid(jnp.zeros((n, sent.shape[1])).at[indices].set(sent))
    return base.full_grid(sent[nearest(indices, n)])

  def origins(self, message: messages.Message) -> Int[Array, ' k']:
    """Returns the grid positions of the sent vectors, in increasing order.

    A damaged mask has no k ones; then zeros serve, or ones are left out.
    """
    order = jnp.argsort(-message['mask'].astype(jnp.int32), stable=True)
    return jnp.sort(order[: self.k]).astype(jnp.int32)

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Puts in a lost vector's place the nearest on the grid that arrived."""
    n = message['mask'].shape[0]
    side = math.isqrt(n)
    width = side if side * side == n else n
    at = self.origins(message)
    near = concealment.closest(at, at, received, width)
    return concealment.copied(message, rows, near)

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'mask' of n symbols 0 and 1, and the vectors' fields."""
    self._check(n)
    inner = self.vectors.fields(self.k, d)
    return {
      'mask': messages.Symbols(2, (n,)),
      **base.prefix('vectors', inner),
    }

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns the frequencies of the vectors' symbols."""
    inner = base.priors(self.vectors, base.unnest('vectors', params))
    return base.prefix('vectors', inner)

  def sent(self, n: int) -> int:
    """Returns k."""
    self._check(n)
    return self.k

  def _check(self, n):
    base.check_k_of_n(self.k, n)
    if self.rebuild == 'nearest':
      geometry.side(n)


def nearest(indices: Int[Array, ' k'], n: int) -> Int[Array, ' n']:
  """Returns which of k grid positions lies nearest to each of all n.

  Args:
    indices: Positions in [0, n) of a square grid, row by row, increasing.
    n: Number of positions, a square.

  Returns:
    For each position the place in `indices` of the nearest; ties go to the
    lowest index.
  """
  width = geometry.side(n)
  every = jnp.arange(n)
  rows = indices[:, None] // width - every // width
  columns = indices[:, None] % width - every % width
  return geometry.first_min(rows**2 + columns**2)[0]
