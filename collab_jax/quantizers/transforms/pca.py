"""Principal component analysis in front of any quantizer."""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, Float, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base, pretrained
from collab_jax.quantizers.math import projection
from collab_jax.quantizers.transforms import base as transform
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class PCA(transform.TransformWrapper):
  """Projects vectors to their first principal axes and quantizes those.

      PCA(dims=32, vectors=Scalar(bits=4))

  The axes come from a parameter file: eigenvectors of the covariance of
  training vectors, in a metric that says which errors matter to what comes
  after. The coordinates left out are replaced by their mean.

  Attributes:
    dims: Number of axes, at most the width of the vectors.
    vectors: Quantizer of the coordinates.
    book: Parameter file of kind 'linear', or 'random' for random orthogonal
      axes.

  Source: reverse water-filling (Cover and Thomas, 10.3.3) needs independent
  numbers whose errors count alike; of Gaussian vectors these axes give them.
  """

  dims: int = 32
  vectors: base.QuantizerLike = identity.FLOAT16
  book: str = 'tiny/centroids'

  row_wise: ClassVar[bool] = True

  def __post_init__(self):
    _validate.integer('dims', self.dims, 1, 2**16)
    pretrained.check_name(self.book)

  def inner_shape(self, n: int, d: int) -> tuple[int, int]:
    """Returns n and dims."""
    if self.dims > d:
      raise ValueError(
        f'dims: got {self.dims}, expected at most the width d = {d} of the'
        f' vectors; choose dims <= {d}'
      )
    return n, self.dims

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the transform and its inverse, and the inner parameters."""
    inner = super().init_params(key, n, d)
    axes = pretrained.principal_axes(self.book, key, d, self.dims)
    return {**axes, **inner}

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    **aux: Any,
  ) -> messages.Message:
    """Returns the message of the coordinates."""
    return self.quantize_inner(
      params, projection.project(params, x), key, **aux
    )

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the vectors of the rebuilt coordinates."""
    tokens = self.dequantize_inner(params, message)
    return tokens._replace(x=projection.reconstruct(params, tokens.x))

  def coordinates(self) -> str:
    """Returns the fingerprint of the axes and how many are kept."""
    axes = self.book
    if axes != pretrained.RANDOM:
      axes = pretrained.load(axes, 'linear').fingerprint
    return f'{axes}/{self.dims}'
