"""Features of the image at a lower resolution."""

import dataclasses
import math

from jaxtyping import Array, Float, Key

from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import avg_pool


@dataclasses.dataclass(frozen=True)
class LowResolution(avg_pool.AvgPool):
  """Sends the vectors of the image reduced to k patches; k is a square.

      LowResolution(k=16)

  The encoder sees the smaller image with its positions interpolated. The
  server repeats each vector over its cell, as `AvgPool` does. Where the caller
  has the features only, they are averaged over the cells, which is `AvgPool`.

  A control: the worth of fewer vectors without any selection. The edge could
  encode the small image alone, 256 / k times less work; codecs run the encoder
  on both.

  Attributes:
    k: Number of patches of the reduced image.
    n: As of `AvgPool`.
    centroids: Quantizer of the vectors.

  Source: `models.encoder_aux.encode_reduced`.
  """

  @property
  def aux_inputs(self) -> tuple[str, ...]:
    """The vectors of the reduced image."""
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
        f'k: got {self.k} patches, expected a square; the nearest are'
        f' {near[0]} and {near[1]}'
      )
    return side, side

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    reduced: Float[Array, 'k d'] | None = None,
  ) -> messages.Message:
    """Returns the message of the reduced image's vectors, row by row."""
    if reduced is None:
      return super().quantize(params, x, key)
    self.inner_shape(*x.shape)
    return self.quantize_inner(params, reduced, key)
