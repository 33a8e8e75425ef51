"""What the quantizers share that replace every vector by a centroid."""

import abc
from collections.abc import Collection
import dataclasses
import math
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import (
  base,
  concealment,
)
from collab_jax.quantizers.math import (
  geometry,
  relabel,
)

REBUILDS = ('grid', 'keep', 'close')


class Rebuilding:
  """Sends k centroids; what the server makes of them is a field.

  - 'grid': all n vectors, each replaced by its centroid, as in the paper.
  - 'keep': the k centroids, each at the position of its cluster's member
    nearest to the middle of the cluster on the grid (in a line if n is no
    square); the server's prefill is shorter.
  - 'close': the k centroids at the positions 0..k-1, by first members.

  Attributes:
    k: Number of clusters, at most n.
    centroids: What quantizes the centroids.
    rebuild: 'grid', 'keep' or 'close'.
  """

  k: int
  centroids: base.Quantizer
  rebuild: str = REBUILDS[0]

  # Whether clusters are drawn.
  draws: ClassVar[bool] = False

  @property
  def uses_key(self) -> bool:
    """Whether the clusters, or what quantizes the centroids, is drawn."""
    return self.draws or self.centroids.uses_key

  @property
  def sender(self) -> Any:
    """The same for all ways to rebuild: one program on the edge."""
    if self.rebuild == REBUILDS[0]:  # It need not be a field.
      return self
    return dataclasses.replace(cast(Any, self), rebuild=REBUILDS[0])

  def check(self) -> None:
    """Raises ValueError unless k and rebuild can be what they are."""
    base.check_k(self.k)
    _validate.choice('rebuild', self.rebuild, REBUILDS)


class Clustering(Rebuilding, abc.ABC):
  """Sends k centroids, and for every vector which of them replaces it.

  Subclasses are dataclasses that say how to cluster, in `cluster`.
  """

  @property
  def receiver(self) -> 'Received':
    """The same for all ways to cluster: one program on the server."""
    return Received(self.k, base.receiver(self.centroids), self.rebuild)

  @abc.abstractmethod
  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the cluster of each vector, and what stands for each cluster.

    A subclass with a property `needs` takes that by keyword; see `base.needs`.
    """

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the parameters of `centroids`."""
    base.check_k_of_n(self.k, n)
    return base.nest('centroids', self.centroids.init_params(key, self.k, d))

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    **extra: Any,
  ) -> messages.Message:
    """Returns the assignments, and the centroids' message."""
    base.check_k_of_n(self.k, x.shape[0])
    draw_key, inner_key = base.split(key, self.centroids)
    found = self.cluster(x, draw_key, **extra)
    assignments, means = relabel.relabel_by_first_use(*found)
    inner = self.centroids.quantize(
      base.unnest('centroids', params), means, inner_key
    )
    return {'assignments': assignments, **base.prefix('centroids', inner)}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns n tokens ('grid') or k ('keep', 'close')."""
    inner = self.centroids.dequantize(
      base.unnest('centroids', params), base.unprefix('centroids', message)
    )
    assignments = message['assignments'].astype(jnp.int32)
    return rebuilt(inner.x, assignments, self.rebuild)

  def origins(self, message: messages.Message) -> Int[Array, ' k']:
    """Returns which vector each of k tokens stands for."""
    assignments = message['assignments'].astype(jnp.int32)
    return origins(assignments, self.k, self.rebuild)

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Gives the vectors of lost clusters to the nearest that arrived."""
    del rows
    return concealment.reassigned(message, received)

  def row_of(self, message: messages.Message) -> Int[Array, ' n']:
    """Returns which centroid makes each token."""
    assignments = message['assignments'].astype(jnp.int32)
    return rows(assignments, self.k, self.rebuild)

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'assignments' of n symbols, and the centroids' fields."""
    base.check_k_of_n(self.k, n)
    inner = self.centroids.fields(self.k, d)
    return {
      'assignments': messages.Symbols(self.k, (n,)),
      **base.prefix('centroids', inner),
    }

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns the frequencies of the centroids' symbols."""
    inner = base.priors(self.centroids, base.unnest('centroids', params))
    return base.prefix('centroids', inner)

  def sent(self, n: int) -> int:
    """Returns k: the paper counts centroids, not assignments."""
    base.check_k_of_n(self.k, n)
    return self.k


@dataclasses.dataclass(frozen=True)
class Received(Clustering):
  """Rebuilds what any clustering sent."""

  k: int
  centroids: base.Quantizer
  rebuild: str = REBUILDS[0]

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Is not for the receiving end.

    Raises:
      TypeError: Always.
    """
    raise TypeError('a receiver has no way to cluster; quantize by the sender')


def rebuilt(
  centroids: Float[Array, 'k d'], assignments: Int[Array, ' n'], rebuild: str
) -> messages.Tokens:
  """Returns n tokens ('grid') or k ('keep', 'close'); see `Rebuilding`.

  Args:
    centroids: Of k clusters.
    assignments: The cluster of each vector.
    rebuild: 'grid', 'keep' or 'close'.
  """
  k = len(centroids)
  which = rows(assignments, k, rebuild)
  tokens = base.full_grid(centroids[which])
  if rebuild == 'grid':
    return tokens
  # A damaged message may have clusters without members.
  counts = jnp.zeros(k, jnp.float32).at[assignments].add(1)
  tokens = tokens._replace(valid=counts[which] > 0)
  if rebuild == 'close':
    return tokens
  end = jnp.asarray(assignments.shape[0], jnp.int32)
  places = origins(assignments, k, rebuild)
  return tokens._replace(positions=places, end=end)


def rows(
  assignments: Int[Array, ' n'], k: int, rebuild: str
) -> Int[Array, ' m']:
  """Returns which centroid makes each token of `rebuilt`."""
  if rebuild == 'grid':
    return assignments
  if rebuild == 'keep':
    return jnp.argsort(middles(assignments, k)).astype(jnp.int32)
  return jnp.arange(k, dtype=jnp.int32)


def origins(
  assignments: Int[Array, ' n'], k: int, rebuild: str
) -> Int[Array, ' m']:
  """Returns which vector each token of `rebuilt` stands for.

  'keep': the member in the middle of its cluster; 'close': the first one.
  """
  n = assignments.shape[0]
  if rebuild == 'grid':
    return jnp.arange(n, dtype=jnp.int32)
  if rebuild == 'keep':
    return jnp.sort(middles(assignments, k))
  at = jnp.arange(n, dtype=jnp.int32)
  return jnp.full(k, n - 1, jnp.int32).at[assignments].min(at)


def middles(assignments: Int[Array, ' n'], k: int) -> Int[Array, ' k']:
  """Returns the member of each cluster that is nearest to its middle.

  Args:
    assignments: The cluster of each vector of a grid, row by row; of a line if
      n is no square.
    k: Number of clusters.

  Returns:
    Positions in [0, n), of equally near ones the lowest; n - 1 for a cluster
    without members.
  """
  n = assignments.shape[0]
  side = math.isqrt(n)
  width = side if side * side == n else n
  places = jnp.stack(jnp.divmod(jnp.arange(n), width), axis=1)
  hot = assignments[:, None] == jnp.arange(k)
  counts = jnp.sum(hot, axis=0)
  # In whole numbers, times the count, so that ties are ties everywhere.
  totals = jnp.sum(jnp.where(hot[..., None], places[:, None], 0), axis=0)
  away = places[:, None] * counts[:, None] - totals
  away = jnp.sum(away**2, axis=2)
  away = jnp.where(hot, away, jnp.iinfo(jnp.int32).max)
  nearest = geometry.first_min(away)[0]
  return jnp.where(counts > 0, nearest, n - 1).astype(jnp.int32)
