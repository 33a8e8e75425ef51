"""Several short centroids packed into each vector that is sent."""

from collections.abc import Collection
import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base, concealment, pretrained
from collab_jax.quantizers.clusters import agglomerative
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import projection
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class Packed(base.Quantizer):
  """Sends k vectors, each of which holds `parts` centroids of merged clusters.

      Packed(k=8, parts=2)

  Of vectors with d numbers, a centroid keeps its first d // parts principal
  coordinates, by the axes of a parameter file. The message is as large as k
  vectors, and describes k * parts clusters.

  Attributes:
    k: Number of vectors sent.
    parts: Centroids in each; k * parts is at most n, and parts at most d.
    weight: As of `Agglomerative`.
    smooth: As of `Agglomerative`.
    rebuild: As of `CentroidQuantizer`, of k * parts centroids.
    book: Parameter file of kind 'linear', or 'random' for random orthogonal
      axes.

  Source: Pearson 1901 (principal axes), clusters as in `Agglomerative`.
  Complexity: that of merging to k * parts clusters.
  """

  k: int
  parts: int = 2
  weight: int | float = 0.25
  smooth: int | float = 0.0
  rebuild: str = 'grid'
  book: str = 'tiny/axes'

  def __post_init__(self):
    base.check_k(self.k)
    _validate.integer('parts', self.parts, 1, 2**16)
    _validate.choice('rebuild', self.rebuild, clustering.REBUILDS)
    pretrained.check_name(self.book)
    self._clusters()  # Checks weight and smooth.

  @property
  def sender(self) -> 'Packed':
    """Quantizer that is equal for all ways to rebuild."""
    return dataclasses.replace(self, rebuild='grid')

  @property
  def receiver(self) -> 'Packed':
    """Quantizer that is equal for all ways to cluster."""
    return Packed(self.k, self.parts, rebuild=self.rebuild, book=self.book)

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the transform to the axes, and its inverse."""
    self._check(n, d)
    return pretrained.principal_axes(self.book, key, d, d // self.parts)

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the assignments, and the coordinates as k vectors."""
    self._check(*x.shape)
    assignments, means = clustering.relabel_by_first_use(
      *self._clusters().cluster(x, key)
    )
    z = projection.project(params, means)
    z = identity.FLOAT16.quantize({}, z, key)['x']
    # Cluster c goes into row c mod k, so that neighbours in the image, whose
    # numbers are consecutive, are not lost together.
    rows = z.reshape(self.parts, self.k, -1)
    return {
      'assignments': assignments,
      'packed': rows.swapaxes(0, 1).reshape(self.k, -1),
    }

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns n tokens ('grid') or k * parts ('keep', 'close')."""
    rows = message['packed'].reshape(self.k, self.parts, -1)
    z = rows.swapaxes(0, 1).reshape(self.k * self.parts, -1)
    means = projection.reconstruct(params, z.astype(jnp.float32))
    assignments = message['assignments'].astype(jnp.int32)
    return clustering.expand(means, assignments, self.rebuild)

  def origins(self, message: messages.Message) -> Int[Array, ' m']:
    """Returns which vector each of the tokens stands for."""
    assignments = message['assignments'].astype(jnp.int32)
    return clustering.token_origins(
      assignments, self.k * self.parts, self.rebuild
    )

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Gives the clusters of lost vectors to the nearest that arrived."""
    del rows
    # Row r holds the clusters r, r + k, r + 2 k and so on.
    return concealment.reassigned(message, jnp.tile(received, self.parts))

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'assignments' of n symbols, and 'packed', k rows of float16."""
    self._check(n, d)
    numbers = self.parts * (d // self.parts)
    return {
      'assignments': messages.Symbols(self.k * self.parts, (n,)),
      'packed': messages.Values('float16', (self.k, numbers)),
    }

  def sent(self, n: int) -> int:
    """Returns k: the message has the size of k vectors."""
    self._check(n, self.parts)
    return self.k

  def _clusters(self):
    clusters = self.k * self.parts
    return agglomerative.Agglomerative(
      clusters, weight=self.weight, smooth=self.smooth
    )

  def _check(self, n, d):
    if self.k * self.parts > n:
      raise ValueError(
        f'k = {self.k} vectors of parts = {self.parts} centroids: got'
        f' {self.k * self.parts} clusters of n = {n} vectors, expected at most'
        f' n; choose k <= {n // self.parts}, or fewer parts.'
      )
    if self.parts > d:
      raise ValueError(
        f'parts: got {self.parts} centroids in a vector of d = {d} numbers;'
        f' choose parts <= {d}.'
      )
