"""Base of quantizers that send some of the vectors themselves."""

import abc
from collections.abc import Collection
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base, concealment
from collab_jax.quantizers.math import geometry
from collab_jax.quantizers.vectors import identity

REBUILDS = ('close', 'keep', 'zero', 'nearest')


@dataclasses.dataclass(frozen=True)
class Selection(base.Composite):
  """Sends k of the n vectors, and a mask of their positions.

      @dataclasses.dataclass(frozen=True)
      class First(cj.quantizers.Selection):
        def select(self, x, key):
          return jnp.arange(self.k)

  Subclasses choose the vectors, in `select`, and set `draws` if that uses its
  key, `dynamic_k` if the first of many vectors are those chosen for a smaller
  k. `rebuild` selects what the server puts in the place of the others, which
  the paper leaves open:

  - 'close': nothing; the sent vectors close up to positions 0..k-1.
  - 'keep': nothing; the sent vectors keep their positions in the grid.
  - 'zero': zeros.
  - 'nearest': the sent vector nearest on the grid (Euclidean; ties: the
    lowest index). The vectors must form a square grid.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'.
    vectors: Quantizer of the sent vectors.
  """

  k: int
  rebuild: str = 'close'
  vectors: base.QuantizerLike = identity.FLOAT16

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
    """Selection with the first way to rebuild: one program on the edge."""
    return dataclasses.replace(self, rebuild=REBUILDS[0])

  @property
  def receiver(self) -> 'ReceivedSelection':
    """Quantizer that is equal for all ways to select."""
    return ReceivedSelection(self.k, self.rebuild, self.inner.receiver)

  def inner_shape(self, n: int, d: int) -> tuple[int, int]:
    """Returns k and d."""
    base.check_k_of_n(self.k, n)
    if self.rebuild == 'nearest':
      geometry.side(n)
    return self.k, d

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'mask' of n symbols 0 and 1, and the vectors' fields."""
    return {'mask': messages.Symbols(2, (n,)), **super().fields(n, d)}

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the mask, and the message of the vectors in grid order."""
    n = x.shape[0]
    self.inner_shape(*x.shape)
    select_key, inner_key = self.split_key(key)
    indices = self._in_order(self.select(x, select_key), n)
    rows = base.pad_rows(x[indices], self.num_used)
    inner = self.quantize_inner(params, rows, inner_key)
    mask = jnp.zeros(n, jnp.int32).at[indices].set(1, mode='drop')
    return {'mask': mask, **inner}

  def _in_order(self, indices, n):
    """Returns indices in increasing order, n in the place of unused ones."""
    if self.num_used is not None:
      used = jnp.arange(self.k) < self.num_used
      indices = jnp.where(used, indices, n)
    return jnp.sort(indices)

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns k tokens ('close', 'keep') or n tokens ('zero', 'nearest')."""
    sent = self.dequantize_inner(params, message).x.astype(jnp.float32)
    n = message['mask'].shape[0]
    indices = self.positions(message)
    tokens = base.full_grid(sent, self.num_used)
    if self.rebuild == 'close':
      return tokens
    if self.rebuild == 'keep':
      end = jnp.asarray(n, jnp.int32)
      positions = jnp.minimum(indices, n - 1)
      return tokens._replace(positions=positions, end=end)
    if self.rebuild == 'zero':
      grid = jnp.zeros((n, sent.shape[1]))
      return base.full_grid(grid.at[indices].set(sent, mode='drop'))
    return base.full_grid(sent[nearest(indices, n, tokens.valid)])

  def origins(self, message: messages.Message) -> Int[Array, ' k'] | None:
    """Returns which vector each of k tokens stands for, None for n tokens."""
    all_tokens = self.rebuild in ('zero', 'nearest')
    return None if all_tokens else self.positions(message)

  def positions(self, message: messages.Message) -> Int[Array, ' k']:
    """Returns the grid positions of the sent vectors, in increasing order.

    Those of vectors that are not used are n. A damaged mask may not have k
    ones; then zeros are taken too, or ones left out.
    """
    order = jnp.argsort(-message['mask'].astype(jnp.int32), stable=True)
    return self._in_order(order[: self.k].astype(jnp.int32), len(order))

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Replaces a lost vector by the nearest on the grid that arrived."""
    positions = self.positions(message)
    n = message['mask'].shape[0]
    source = concealment.closest(positions, positions, received, n)
    return concealment.copied(message, rows, source)


@dataclasses.dataclass(frozen=True)
class ReceivedSelection(Selection):
  """Rebuilds the message of any selection."""

  dynamic_k: ClassVar[bool] = True

  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Refuses: the receiving end does not select.

    Raises:
      TypeError: Always.
    """
    raise TypeError('a receiver has no way to select; quantize by the sender')


def nearest(
  indices: Int[Array, ' k'], n: int, used: Bool[Array, ' k'] | None = None
) -> Int[Array, ' n']:
  """Returns which of k grid positions is nearest to each of all n.

  Args:
    indices: Positions in [0, n) of a square grid, row by row, increasing.
    n: Number of positions, a square.
    used: False for a position to leave out; None for all.

  Returns:
    For each position the place in `indices` of the nearest; ties go to the
    lowest index.
  """
  geometry.side(n)
  used = jnp.ones(len(indices), bool) if used is None else used
  return concealment.closest(jnp.arange(n), indices, used, n)
