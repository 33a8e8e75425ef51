"""Merging to as many clusters as an image needs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import agglomerative
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import geometry, lloyd, potts
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class Adaptive(clustering.Clustering):
  """Sends at most k means, as few as leave a given share of squared error.

      Adaptive(k=32, error=0.2)

  `Agglomerative` goes on from k clusters for as long as the squared distance of
  the vectors from their means is at most `error` times that from the mean of
  all. An empty scene then takes fewer vectors than a full one; `error` sets the
  average, see `error_for`.

  All shapes are those of k means. The rows behind the last mean are zeros,
  which the coding 'best' does not send where the means are symbols (see
  `message.Symbols.rows`); floats, and 'fixed', send all k.

  Attributes:
    k: Largest number of clusters, at most n.
    error: Share of the squared error, from 0 to 1; 0 is `Agglomerative`.
    weight: As of `Agglomerative`.
    smooth: As of `Agglomerative`.
    centroids: Quantizer of the means.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: that of `Agglomerative`; the stopping rule is that of Ward's method,
  by the explained share of variance.
  """

  k: int
  error: int | float = 0.2
  weight: int | float = 0.25
  smooth: int | float = 0.0
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  def __post_init__(self):
    super().__post_init__()
    for name, most in (('error', 1.0), ('weight', 1.0), ('smooth', 100.0)):
      _validate.number(name, getattr(self, name), 0.0, most)

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the clusters that are left; means of others are zeros."""
    del key
    assignments = agglomerative.merge(x, self.k, float(self.weight))
    owners, shares = merges(x, assignments, self.k, float(self.weight))
    # Shares grow with every merge, except for rounding.
    small = jnp.cumsum(shares > self.error) == 0
    assignments = owners[jnp.maximum(small.sum() - 1, 0)][assignments]
    if self.smooth:
      assignments = potts.smooth(x, assignments, self.k, self.smooth)
    means = lloyd.means(x, assignments, self.k)
    counts = jnp.zeros(self.k, jnp.float32).at[assignments].add(1)
    return assignments, jnp.where(counts[:, None] > 0, means, 0)

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    **aux: Any,
  ) -> messages.Message:
    """Returns the assignments, and the means' message, zero behind the last."""
    message = super().quantize(params, x, key, **aux)
    behind = jnp.arange(self.k) > message['assignments'].max()
    for name in self._rows(*x.shape):
      value = message[name]
      blank = behind.reshape(-1, *[1] * (value.ndim - 1))
      message[name] = jnp.where(blank, jnp.zeros_like(value), value)
    return message

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns a clustering's fields; symbol rows are those in use."""
    fields = super().fields(n, d)
    for name in self._rows(n, d):
      field = fields[name]
      if isinstance(field, messages.Symbols) and not field.layer:
        fields[name] = dataclasses.replace(field, rows='assignments')
    return fields

  def _rows(self, n, d):
    """Returns the names of the fields with a row for each mean."""
    del n
    fields, more = (self.centroids.fields(k, d) for k in (self.k, self.k + 1))
    grown = {name for name, field in fields.items() if field != more[name]}
    return [*base.prefix('centroids', dict.fromkeys(grown))]


@functools.partial(jax.jit, static_argnames=('k', 'weight'))
def merges(
  x: Float[Array, 'n d'],
  assignments: Int[Array, ' n'],
  k: int,
  weight: float = 0.25,
) -> tuple[Int[Array, 'k k'], Float[Array, ' k']]:
  """Merges k clusters until one is left.

  Args:
    x: Finite vectors.
    assignments: The cluster of each, in [0, k).
    k: Number of clusters.
    weight: As of `Agglomerative`.

  Returns:
    The cluster of each of the k, before the first merge and after each; and the
    squared distance of all vectors from their means then, as a share of that
    from the mean of all.
  """
  points = geometry.centred(x.astype(jnp.float32)).points
  sums = jnp.zeros((k, x.shape[1]), jnp.float32).at[assignments].add(points)
  counts = jnp.zeros(k, jnp.float32).at[assignments].add(1.0)
  means = sums / jnp.maximum(counts, 1)[:, None]
  pairs = (counts[:, None] > 0) & (counts > 0) & ~jnp.eye(k, dtype=bool)
  gaps = jnp.sum((means[:, None] - means) ** 2, axis=-1)
  gaps = jnp.where(pairs, gaps, jnp.inf)
  both = jnp.maximum(counts[:, None] + counts, 1)
  size = counts[:, None] * counts / both
  costs = jnp.where(pairs, gaps * size**weight, jnp.inf)

  def step(state, _):
    slots, owner = agglomerative.join(state[0], state[1], weight)
    return (slots, owner), owner

  first = jnp.arange(k, dtype=jnp.int32)
  state = agglomerative.Slots(gaps, costs, counts), first
  owners = jax.lax.scan(step, state, None, length=k - 1)[1]
  owners = jnp.concatenate([first[None], owners])

  def explained(owner):
    whole = jnp.zeros_like(sums).at[owner].add(sums)
    number = jnp.zeros_like(counts).at[owner].add(counts)
    return jnp.sum(jnp.sum(whole**2, axis=1) / jnp.maximum(number, 1))

  errors = jnp.sum(points**2) - jax.vmap(explained)(owners)
  errors = jnp.maximum(errors, 0)
  return owners, errors / jnp.maximum(errors[-1], 1e-30)


def error_for(
  quantizer: Adaptive, features: Float[Array, 'B n d'], mean: float
) -> float:
  """Chooses `error` by the average number of vectors.

  Args:
    quantizer: Quantizer with the k and weight to use.
    features: Features of images like those to be sent.
    mean: Average number of vectors wanted, from 1 to k.

  Returns:
    The least error, to four decimals, with which these images send at most so
    many vectors; smoothing may empty a few clusters more.

  Raises:
    ValueError: The mean is out of range.
  """
  k, weight = quantizer.k, float(quantizer.weight)
  _validate.number('mean', mean, 1.0, float(k))

  @jax.vmap
  def shares(x):
    return merges(x, agglomerative.merge(x, k, weight), k, weight)[1]

  errors = np.asarray(shares(features), np.float64)
  low, high = 0, 10_000  # Ten-thousandths.
  while low < high:
    middle = (low + high) // 2
    merged = np.cumsum(errors > middle / 10_000, axis=1) == 0
    left = k + 1 - np.maximum(merged.sum(1), 1)
    low, high = (low, middle) if left.mean() <= mean else (middle + 1, high)
  return low / 10_000
