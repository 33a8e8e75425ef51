"""Bisecting k-means with a progressive message, coarse to fine."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import geometry, lloyd, vmap
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class Bisecting(clustering.CentroidQuantizer):
  """Sends k centroids of clusters that split in two, the first ones first.

      Bisecting(k=8)

  The cluster of the greatest squared error splits in two by k-means, until
  there are k. It starts from its member farthest from its mean and the one
  farthest from that, so nothing is drawn.

  The message is progressive: layer l turns the clusters of the layer before
  into min(2^l, k): for each vector the new cluster it moves to, if any, and the
  means of the new ones. The largest piece of a cluster stays; its mean follows
  from the counts and is not sent. So k vectors cross the link for k clusters,
  as always, and the first layers are a message, too.

  O(n^2 d) once, then O(n^2) an iteration of each of k - 1 splits.

  Attributes:
    k: Number of clusters, at most n.
    iters: Iterations of each split.
    centroids: Quantizer of the means. Its errors add up in the means that are
      not sent: at most by the number of pieces that a layer makes of a cluster.
    rebuild: 'grid', 'keep' or 'close'; see `CentroidQuantizer`.

  Source: Steinbach, Karypis and Kumar 2000 (bisecting k-means).
  """

  k: int
  iters: int = 10
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('iters', self.iters, 0)

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the parameters of `centroids`, by layer."""
    base.check_k_of_n(self.k, n)
    params: dict[str, base.Params] = {}
    for layer, count in enumerate(self._new()):
      inner = self.inner.init_params(key, count, d)
      params |= base.nest(f'centroids{layer}', inner)
    return params

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns a field of moves and the new centroids for each layer."""
    base.check_k_of_n(self.k, x.shape[0])
    ends = self._ends()
    history = split(x, self.k, self.iters)
    before = after = moves = history[0]
    message = {}
    for layer, (count, new) in enumerate(zip(ends, self._new(), strict=True)):
      if layer:
        pieces = history[count - 1]
        after = largest_stays(before, pieces, count - new, count)
        moves = jnp.where(after == before, 0, after - (count - new) + 1)
      message[f'moves{layer}'] = moves.astype(jnp.int32)
      means = lloyd.means(x, after, count)[count - new :]
      name = f'centroids{layer}'
      inner = self.inner.quantize(base.unnest(name, params), means, key)
      message |= base.prefix(name, inner)
      before = after
    return message

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Rebuilds from as many layers as the message has.

    Raises:
      ValueError: It lacks the first layer, or one between others.
    """
    means = jnp.zeros((), jnp.float32)
    assignments = message['moves0'].astype(jnp.int32)
    for layer in self._layers(message):
      name = f'centroids{layer}'
      inner = self.inner.dequantize(
        base.unnest(name, params), base.unprefix(name, message)
      ).x
      if layer:
        moves = message[f'moves{layer}'].astype(jnp.int32)
        means, assignments = joined(means, assignments, inner, moves)
      else:
        means = inner
    return clustering.expand(means, assignments, self.rebuild)

  def assignments(self, message: messages.Message) -> Int[Array, ' n']:
    """Returns the cluster of each vector by the layers in the message."""
    assignments = message['moves0'].astype(jnp.int32)
    for layer in self._layers(message)[1:]:
      moves = message[f'moves{layer}'].astype(jnp.int32)
      first = self._ends()[layer] - self._new()[layer]
      assignments = jnp.where(moves > 0, first - 1 + moves, assignments)
    return assignments

  def origins(self, message: messages.Message) -> Int[Array, ' k']:
    """Returns which vector each token stands for."""
    return clustering.token_origins(
      self.assignments(message), self.k, self.rebuild
    )

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'moves0' and the centroids' fields, and so on, by layer."""
    base.check_k_of_n(self.k, n)
    fields: dict[str, messages.Field] = {}
    for layer, count in enumerate(self._new()):
      inner = base.prefix(f'centroids{layer}', self.inner.fields(count, d))
      # Of alphabet 1 in the first layer: no bytes, but it tells n.
      alphabet = count + 1 if layer else 1
      fields[f'moves{layer}'] = messages.Symbols(alphabet, (n,), layer)
      fields |= {
        name: dataclasses.replace(field, layer=layer)
        for name, field in inner.items()
      }
    return fields

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns the frequencies of the centroids' symbols."""
    priors = {}
    for layer in range(len(self._ends())):
      name = f'centroids{layer}'
      inner = self.inner.priors(base.unnest(name, params))
      priors |= base.prefix(name, inner)
    return priors

  def _ends(self) -> list[int]:
    """Returns the number of clusters after each layer."""
    ends = [1]
    while ends[-1] < self.k:
      ends.append(min(2 * ends[-1], self.k))
    return ends

  def _new(self) -> list[int]:
    """Returns how many clusters are new in each layer."""
    ends = self._ends()
    return [1, *(b - a for a, b in itertools.pairwise(ends))]

  def _layers(self, message):
    count = len(self._ends())
    present = [i for i in range(count) if f'moves{i}' in message]
    if not present or present != list(range(len(present))):
      raise ValueError(
        f'got the layers {present} of {count}, expected the first of them'
        ' without a gap'
      )
    return present


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames=('k', 'iters'))
def split(x: Float[Array, 'n d'], k: int, iters: int) -> Int[Array, 'k n']:
  """Splits clusters in two, k - 1 times.

  Args:
    x: Finite vectors.
    k: Number of clusters, at most n.
    iters: Iterations of each split.

  Returns:
    Row i holds the cluster of each vector among i + 1 clusters; the last one is
    the smaller half of the cluster that was split.
  """
  return vmap.map_or_vmap(functools.partial(_split, k=k, iters=iters))(x)


def _split(x, *, k, iters):
  gaps = geometry.distances(x.astype(jnp.float32))
  n = len(gaps)

  def errors(hot):
    """Returns squared distances to the mean of some vectors, and their sum."""
    count = jnp.maximum(jnp.sum(hot), 1)
    totals = gaps @ hot
    inner = hot @ totals / (2 * count)
    return (totals - inner) / count, inner

  def step(state, number):
    members, costs = state
    chosen = jnp.argmax(costs)
    inside = members == chosen
    hot = inside.astype(jnp.float32)
    a = jnp.argmax(jnp.where(inside, errors(hot)[0], -jnp.inf))
    away = jnp.where(inside, gaps[a], -jnp.inf).at[a].set(-jnp.inf)
    b = jnp.argmax(away)

    def update(_, half):
      nearer = errors(hot * half)[0] - errors(hot * (1 - half))[0]
      new = (nearer < 0).astype(jnp.float32)
      inner = jnp.sum(hot * new)
      valid = (inner > 0) & (inner < jnp.sum(hot))
      return jnp.where(valid, new, half)

    start = (gaps[b] < gaps[a]).astype(jnp.float32).at[b].set(1).at[a].set(0)
    half = jax.lax.fori_loop(0, iters, update, start)
    first, second = hot * half, hot * (1 - half)
    smaller = jnp.where(jnp.sum(first) <= jnp.sum(second), first, second)
    members = jnp.where(smaller > 0, number, members)

    def cost(label):
      hot = (members == label).astype(jnp.float32)
      return jnp.where(jnp.sum(hot) > 1, errors(hot)[1], -1)

    costs = costs.at[chosen].set(cost(chosen)).at[number].set(cost(number))
    return (members, costs), members

  undivided = jnp.zeros(n, jnp.int32)
  costs = jnp.full(k, -2.0, jnp.float32).at[0].set(0)
  numbers = jnp.arange(1, k, dtype=jnp.int32)
  history = jax.lax.scan(step, (undivided, costs), numbers)[1]
  return jnp.concatenate([undivided[None], history])


def largest_stays(
  before: Int[Array, ' n'], after: Int[Array, ' n'], old: int, count: int
) -> Int[Array, ' n']:
  """Renumbers pieces so that the largest of each cluster keeps its number.

  Args:
    before: Clusters in [0, old).
    after: Pieces of these in [0, count), in any order.
    old: Number of clusters before.
    count: Number of pieces.

  Returns:
    The pieces: the largest ones by the old numbers, the others by new ones in
    [old, count).
  """
  sizes = jnp.zeros(count, jnp.int32).at[after].add(1)
  parents = jnp.full(count, -1).at[after].set(before)
  is_piece = parents == jnp.arange(old)[:, None]
  largest = jnp.argmax(jnp.where(is_piece, sizes, -1), axis=1)
  # A cluster without members has no pieces.
  largest = jnp.where(jnp.any(is_piece, axis=1), largest, count)
  stays = jnp.zeros(count, bool).at[largest].set(True, mode='drop')
  new = old - 1 + jnp.cumsum((sizes > 0) & ~stays)
  return jnp.where(stays, parents, new)[after].astype(jnp.int32)


def joined(
  means: Float[Array, 'c d'],
  before: Int[Array, ' n'],
  new: Float[Array, 'e d'],
  moves: Int[Array, ' n'],
) -> tuple[Float[Array, 'c+e d'], Int[Array, ' n']]:
  """Adds the new clusters of a layer to those of the layers before.

  Args:
    means: Means of the clusters before.
    before: The cluster of each vector.
    new: Means of the new clusters.
    moves: 0, or 1 + the index of the new cluster that a vector moves to.

  Returns:
    The means of all clusters, those of the pieces that stay computed from the
    counts; and the cluster of each vector.
  """
  old, count = len(means), len(new)
  after = jnp.where(moves > 0, old - 1 + moves, before).astype(jnp.int32)
  sizes = jnp.zeros(old + count, jnp.float32).at[after].add(1)
  # Members of each new cluster by old cluster: of an intact message, one each.
  parts = jnp.zeros((count + 1, old), jnp.float32).at[moves, before].add(1)[1:]
  steps = new[:, None] - means
  moved = jnp.einsum('eo,eod->od', parts, steps)
  staying = means - moved / jnp.maximum(sizes[:old, None], 1)
  return jnp.concatenate([staying, new]), after
