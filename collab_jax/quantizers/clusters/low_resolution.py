"""The features of a smaller picture."""

import dataclasses
import math

from jaxtyping import Array, Float, Key

from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import avg_pool


@dataclasses.dataclass(frozen=True)
class LowResolution(avg_pool.AvgPool):
  """Sends the vectors of the picture reduced to k patches; k is a square.

  The encoder sees the smaller picture with its positions interpolated. The
  server repeats each vector over its cell, as of `Pool`. Where the caller has
  the features only, they are averaged over the cells, which is `Pool`.

  A control: what fewer vectors are worth that nobody had to choose. The edge
  could do with the small picture alone, 256 / k times less to encode; codecs
  run the encoder on both.

  Attributes:
    k: Number of patches of the reduced picture.
    n: As of `Pool`.
    centroids: What quantizes the vectors.

  Source: `models.observing.encode_reduced`.
  """

  @property
  def needs(self) -> tuple[str, ...]:
    """The vectors of the reduced picture."""
    return (f'reduced={math.isqrt(self.k)}',)

  def grid(self) -> tuple[int, int]:
    """Returns the rows and columns of patches.

    Raises:
      ValueError: If k is no square.
    """
    side = math.isqrt(self.k)
    if side * side != self.k:
      near = side**2, (side + 1) ** 2
      raise ValueError(
        f'k = {self.k} patches form no square; the nearest are {near[0]} and'
        f' {near[1]}.'
      )
    return side, side

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    reduced: Float[Array, 'k d'] | None = None,
  ) -> messages.Message:
    """Returns the message of the reduced picture's vectors, row by row."""
    if reduced is None:
      return super().quantize(params, x, key)
    self._check(x.shape[0])
    return self._send(params, reduced, key)
