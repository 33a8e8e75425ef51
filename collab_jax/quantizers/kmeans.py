"""The paper's feature selection: k-means on the vectors of one image."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import message as messages
from collab_jax.quantizers import base, identity, lloyd


@dataclasses.dataclass(frozen=True)
class KMeans:
  """Sends k centroids, and for every vector which of them replaces it.

  Exact Lloyd in float32; see `lloyd.lloyd` for ties and empty clusters.

  Attributes:
    k: Number of clusters, at most n.
    init: 'random' (k different vectors, as in the paper) or '++' (k-means++).
    iters: Largest number of iterations; it stops earlier once converged.
    centroids: What quantizes the centroids.

  Source: section 2 of the paper; checked against scikit-learn.
  """

  k: int
  init: str = 'random'
  iters: int = 50
  centroids: base.Quantizer = identity.FLOAT16

  def __post_init__(self):
    base.check_k(self.k)
    base.check_choice('init', self.init, ('random', '++'))
    if not isinstance(self.iters, int) or self.iters < 0:
      raise ValueError(f'iters must be an int of at least 0: {self.iters!r}.')

  @property
  def receiver(self) -> 'KMeans':
    """The same for all ways to cluster: one program on the server."""
    return KMeans(self.k, centroids=self.centroids)

  @property
  def uses_key(self) -> bool:
    """The initial centroids are drawn."""
    return True

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the parameters of `centroids`."""
    base.check_k_of_n(self.k, n)
    return base.nest('centroids', self.centroids.init_params(key, self.k, d))

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the assignments, and the centroids' message."""
    n = x.shape[0]
    base.check_k_of_n(self.k, n)
    draw_key, inner_key = base.split(key, self.centroids)
    if self.init == '++':
      found = lloyd.plus_plus(x, draw_key, self.k, self.iters)
    else:
      start = base.shuffled(draw_key, n)[: self.k]
      found = lloyd.lloyd(x, start, self.iters)
    inner = self.centroids.quantize(
      base.unnest('centroids', params), found.centroids, inner_key
    )
    return {
      'assignments': found.assignments,
      **base.prefix('centroids', inner),
    }

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector replaced by its centroid."""
    inner = self.centroids.dequantize(
      base.unnest('centroids', params), base.unprefix('centroids', message)
    )
    return base.grid(inner.x[message['assignments'].astype(jnp.int32)])

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'assignments' of n symbols, and the centroids' fields."""
    base.check_k_of_n(self.k, n)
    inner = self.centroids.fields(self.k, d)
    return {
      'assignments': messages.Symbols(self.k, (n,)),
      **base.prefix('centroids', inner),
    }

  def sent(self, n: int) -> int:
    """Returns k: the paper counts centroids, not assignments."""
    base.check_k_of_n(self.k, n)
    return self.k
