"""Base of quantizers that send k centroids, one for each cluster of vectors."""

import abc
from collections.abc import Collection
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from collab_jax import _renamed, _validate
from collab_jax import message as messages
from collab_jax.quantizers import base, concealment
from collab_jax.quantizers.math import geometry

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

REBUILDS = ('grid', 'keep', 'close')


class CentroidQuantizer(base.Composite):
  """Base for quantizers that send k centroids.

  `rebuild` selects how the server expands them to tokens:

  - 'grid': all n vectors, each replaced by its centroid, as in the paper.
  - 'keep': the k centroids, each at the position of its cluster's member
    nearest to the middle of the cluster on the grid (in a line if n is no
    square); the server's prefill is shorter.
  - 'close': the k centroids at the positions 0..k-1, by first members.

  Attributes:
    k: Number of clusters, at most n.
    centroids: Quantizer of the centroids.
    rebuild: 'grid', 'keep' or 'close'.
  """

  inner_field = 'centroids'

  k: int
  centroids: base.QuantizerLike
  rebuild: str = REBUILDS[0]

  def __post_init__(self):
    base.check_k(self.k)
    _validate.choice('rebuild', self.rebuild, REBUILDS)

  @property
  def sender(self) -> Any:
    """Quantizer with the first way to rebuild: one program on the edge."""
    if self.rebuild == REBUILDS[0]:  # It need not be a field.
      return self
    return dataclasses.replace(cast(Any, self), rebuild=REBUILDS[0])

  def inner_shape(self, n: int, d: int) -> tuple[int, int]:
    """Returns k and d."""
    base.check_k_of_n(self.k, n)
    return self.k, d


class Clustering(CentroidQuantizer):
  """Sends k centroids, and for every vector which of them replaces it.

      @dataclasses.dataclass(frozen=True)
      class Stripes(cj.quantizers.Clustering):
        k: int
        centroids: cj.quantizers.QuantizerLike = cj.quantizers.Identity()

        def cluster(self, x, key):
          stripe = jnp.arange(len(x)) * self.k // len(x)
          members = jax.nn.one_hot(stripe, self.k, axis=0)
          sums = jnp.matmul(members, x, precision='highest')
          return stripe, sums / members.sum(1)[:, None]

  Subclasses are dataclasses that assign vectors to clusters, in `cluster`, and
  set `draws` if that uses its key, `dynamic_k` if it makes `num_used` clusters
  of k where that is not None.
  """

  @property
  def receiver(self) -> 'ReceivedClusters':
    """Quantizer that is equal for all ways to cluster."""
    return ReceivedClusters(self.k, self.inner.receiver, self.rebuild)

  @abc.abstractmethod
  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the cluster of each vector, and the centroid of each cluster.

    A subclass with `aux_inputs` takes those by keyword.
    """

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'assignments' of n symbols, and the centroids' fields."""
    inner = super().fields(n, d)
    return {'assignments': messages.Symbols(self.k, (n,)), **inner}

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    **aux: Any,
  ) -> messages.Message:
    """Returns the assignments, and the centroids' message."""
    self.inner_shape(*x.shape)
    draw_key, inner_key = self.split_key(key)
    assignments, means = relabel_by_first_use(*self.cluster(x, draw_key, **aux))
    means = base.pad_rows(means, self.num_used)
    inner = self.quantize_inner(params, means, inner_key)
    return {'assignments': assignments, **inner}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns n tokens ('grid') or k ('keep', 'close')."""
    centroids = self.dequantize_inner(params, message).x
    assignments = message['assignments'].astype(jnp.int32)
    return expand(centroids, assignments, self.rebuild, self.num_used)

  def origins(self, message: messages.Message) -> Int[Array, ' m']:
    """Returns which vector each token stands for."""
    assignments = message['assignments'].astype(jnp.int32)
    return token_origins(assignments, self.k, self.rebuild)

  def row_of(self, message: messages.Message) -> Int[Array, ' m']:
    """Returns which centroid makes each token."""
    assignments = message['assignments'].astype(jnp.int32)
    return token_rows(assignments, self.k, self.rebuild)

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Gives the vectors of lost clusters to the nearest that arrived."""
    del rows
    return concealment.reassigned(message, received)


@dataclasses.dataclass(frozen=True)
class ReceivedClusters(Clustering):
  """Rebuilds the message of any clustering."""

  k: int
  centroids: base.QuantizerLike
  rebuild: str = REBUILDS[0]

  dynamic_k: ClassVar[bool] = True

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Refuses: the receiving end does not cluster.

    Raises:
      TypeError: Always.
    """
    raise TypeError('a receiver has no way to cluster; quantize by the sender')


def relabel_by_first_use(
  assignments: Int[Array, ' n'], centroids: Float[Array, 'k d']
) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
  """Numbers clusters by their first vectors, which takes fewest bytes.

  The numbers carry no information; a decoder that expects new clusters in order
  need not be told which of them it is. Clusters without vectors are last.

  Args:
    assignments: The cluster of each vector.
    centroids: The centroid of each cluster.
  """
  n, k = assignments.shape[0], centroids.shape[0]
  first = n + jnp.arange(k)
  first = first.at[assignments].min(jnp.arange(n))
  # Ranks by comparisons: a sort takes longer to compile.
  rank = jnp.sum(first[None] < first[:, None], axis=1, dtype=jnp.int32)
  return rank[assignments], jnp.zeros_like(centroids).at[rank].set(centroids)


def expand(
  centroids: Float[Array, 'k d'],
  assignments: Int[Array, ' n'],
  rebuild: str,
  num_used: Int[Array, ''] | None = None,
) -> messages.Tokens:
  """Returns the tokens of k centroids; see `CentroidQuantizer`.

  Args:
    centroids: Centroids of k clusters.
    assignments: The cluster of each vector.
    rebuild: 'grid', 'keep' or 'close'.
    num_used: How many of the centroids are used; None for all.
  """
  k = len(centroids)
  of_token = token_rows(assignments, k, rebuild)
  if rebuild == 'grid':
    return base.full_grid(centroids[of_token])
  tokens = base.full_grid(centroids[of_token], num_used)
  # A damaged message may have clusters without members.
  counts = jnp.zeros(k, jnp.float32).at[assignments].add(1)
  tokens = tokens._replace(valid=counts[of_token] > 0)
  if rebuild == 'close':
    return tokens
  end = jnp.asarray(assignments.shape[0], jnp.int32)
  positions = token_origins(assignments, k, rebuild)
  return tokens._replace(positions=positions, end=end)


def token_rows(
  assignments: Int[Array, ' n'], k: int, rebuild: str
) -> Int[Array, ' m']:
  """Returns which centroid makes each token of `expand`."""
  if rebuild == 'grid':
    return assignments
  if rebuild == 'keep':
    return jnp.argsort(middles(assignments, k)).astype(jnp.int32)
  return jnp.arange(k, dtype=jnp.int32)


def token_origins(
  assignments: Int[Array, ' n'], k: int, rebuild: str
) -> Int[Array, ' m']:
  """Returns which vector each token of `expand` stands for.

  'keep': the member in the middle of its cluster; 'close': the first one.
  """
  n = assignments.shape[0]
  if rebuild == 'grid':
    return jnp.arange(n, dtype=jnp.int32)
  if rebuild == 'keep':
    return jnp.sort(middles(assignments, k))
  every = jnp.arange(n, dtype=jnp.int32)
  return jnp.full(k, n - 1, jnp.int32).at[assignments].min(every)


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
  width = geometry.grid_width(n)
  positions = jnp.stack(jnp.divmod(jnp.arange(n), width), axis=1)
  hot = assignments[:, None] == jnp.arange(k)
  counts = jnp.sum(hot, axis=0)
  # In whole numbers, times the count, so that ties are ties everywhere.
  totals = jnp.sum(jnp.where(hot[..., None], positions[:, None], 0), axis=0)
  away = positions[:, None] * counts[:, None] - totals
  away = jnp.sum(away**2, axis=2)
  away = jnp.where(hot, away, jnp.iinfo(jnp.int32).max)
  nearest = geometry.first_min(away)[0]
  return jnp.where(counts > 0, nearest, n - 1).astype(jnp.int32)
