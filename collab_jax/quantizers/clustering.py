"""What the quantizers share that replace every vector by a centroid."""

import abc
from collections.abc import Collection

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from collab_jax import message as messages
from collab_jax.quantizers import base, concealment, order


class Clustering(abc.ABC):
  """Sends k centroids, and for every vector which of them replaces it.

  Subclasses are dataclasses that say how to cluster, in `cluster`.

  Attributes:
    k: Number of clusters, at most n.
    centroids: What quantizes the centroids.
  """

  k: int
  centroids: base.Quantizer

  @property
  @abc.abstractmethod
  def uses_key(self) -> bool:
    """Whether the clusters, or what quantizes the centroids, is drawn."""

  @abc.abstractmethod
  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the cluster of each vector, and the clusters' means."""

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the parameters of `centroids`."""
    base.check_k_of_n(self.k, n)
    return base.nest('centroids', self.centroids.init_params(key, self.k, d))

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the assignments, and the centroids' message."""
    base.check_k_of_n(self.k, x.shape[0])
    draw_key, inner_key = base.split(key, self.centroids)
    found = self.cluster(x, draw_key)
    assignments, means = order.as_they_appear(*found)
    inner = self.centroids.quantize(
      base.unnest('centroids', params), means, inner_key
    )
    return {'assignments': assignments, **base.prefix('centroids', inner)}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector replaced by its centroid."""
    inner = self.centroids.dequantize(
      base.unnest('centroids', params), base.unprefix('centroids', message)
    )
    return base.grid(inner.x[message['assignments'].astype(jnp.int32)])

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Gives the vectors of lost clusters to the nearest that arrived.

    Each joins the cluster of the vector nearest to it on the grid whose
    centroid is there: what is next to it looks like it.
    """
    del rows
    assignments = message['assignments']
    near = concealment.nearest(received[assignments])
    return {**message, 'assignments': assignments[near]}

  def row_of(self, message: messages.Message) -> Int[Array, ' n']:
    """Returns which centroid makes each vector."""
    return message['assignments'].astype(jnp.int32)

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
