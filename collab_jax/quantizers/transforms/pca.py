"""A learned linear transform in front of any quantizer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import (
  base,
  pretrained,
)
from collab_jax.quantizers.transforms import base as base_lib
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class PCA(base_lib.TransformWrapper):
  """Moves vectors to their principal axes and quantizes the first of them.

  The axes are those of a book: eigenvectors of the covariance of training
  vectors, in a metric that says which errors matter to what comes after. The
  rest is put in the place of its mean.

  Attributes:
    dims: How many axes, at most the width of the vectors.
    vectors: What quantizes the vectors' coordinates.
    book: A book of kind 'linear', or 'random' for random orthogonal axes.

  Source: reverse water-filling (Cover and Thomas, 10.3.3) needs independent
  numbers whose errors count alike; of Gaussian vectors these axes give them.
  """

  dims: int = 32
  vectors: base.Quantizer = identity.FLOAT16
  book: str = 'tiny/centroids'

  def __post_init__(self):
    _validate.integer('dims', self.dims, 1, 2**16)
    pretrained.check_name(self.book)

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the transform and its inverse, and the inner parameters."""
    self._check(d)
    if self.book == pretrained.RANDOM:
      axes = jnp.linalg.qr(jax.random.normal(key, (d, d)))[0]
      mean, forward, inverse = jnp.zeros(d), axes, axes.T
    else:
      book = pretrained.load(self.book, 'linear', d)
      mean = pretrained.array(book, 'mean', (d,))
      forward = pretrained.array(book, 'forward', (d, d))
      inverse = pretrained.array(book, 'inverse', (d, d))
    return {
      'mean': jnp.asarray(mean, jnp.float32),
      'forward': jnp.asarray(forward[:, : self.dims], jnp.float32),
      'inverse': jnp.asarray(inverse[: self.dims], jnp.float32),
      **base.nest('vectors', self.vectors.init_params(key, n, self.dims)),
    }

  def quantize(
    self,
    params: base.Params,
    x: Float[Array, 'n d'],
    key: Key[Array, ''],
    **extra: Any,
  ) -> messages.Message:
    """Returns the message of the coordinates."""
    z = jnp.matmul(x - params['mean'], params['forward'], precision='highest')
    inner = base.unnest('vectors', params)
    inner = self.vectors.quantize(inner, z, key, **extra)
    return base.prefix('vectors', inner)

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns what `vectors` rebuilds, moved back."""
    tokens = self.vectors.dequantize(
      base.unnest('vectors', params), base.unprefix('vectors', message)
    )
    x = jnp.matmul(tokens.x, params['inverse'], precision='highest')
    return tokens._replace(x=x + params['mean'])

  def coordinates(self) -> str:
    """Returns what tells its coordinates from those of other transforms."""
    axes = self.book
    if axes != pretrained.RANDOM:
      axes = pretrained.load(axes, 'linear').fingerprint
    return f'{axes}/{self.dims}'

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns the fields of the coordinates."""
    self._check(d)
    return base.prefix('vectors', self.vectors.fields(n, self.dims))

  def _check(self, d):
    if self.dims > d:
      raise ValueError(
        f'dims = {self.dims} axes cannot be taken of vectors of width d = {d};'
        f' choose dims <= {d}.'
      )
