"""Vector quantization: indices into trained codebooks that both ends hold."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import base, pretrained
from collab_jax.quantizers.math import geometry
from collab_jax.quantizers.vectors import symbol_tables


class CodebookQuantizer(base.Quantizer):
  """Base for quantizers that send indices of codes in trained codebooks.

  Subclasses are dataclasses that say how many codebooks they read, in
  `codebooks`, and send the indices as a field 'x' unless they say otherwise.

  Attributes:
    size: Number of codes in each codebook.
    book: Parameter file of kind 'codebook', or 'random'.
  """

  size: int
  book: str

  def __post_init__(self):
    _validate.integer('size', self.size, 2, 2**16)
    pretrained.check_name(self.book)

  @abc.abstractmethod
  def codebooks(self) -> tuple[int, int]:
    """Returns the number of codebooks, and of pieces a vector is cut into."""

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the codebooks and the frequencies of their codes."""
    del n
    count, pieces = self.codebooks()
    return load(self.book, key, count, self.size, d // pieces, pieces)

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns how often each code came in training, a row for each codebook."""
    return {'x': params['frequencies']}


@dataclasses.dataclass(frozen=True)
class SharedVQ(CodebookQuantizer):
  """Sends the index of the nearest code of one codebook for all images.

      SharedVQ(size=1024)

  Attributes:
    size: Number of codes.
    book: Parameter file of kind 'codebook', or 'random'.

  Source: section 2 of van den Oord et al. 2017, arXiv 1711.00937, with a
  codebook that is trained afterwards, by k-means.
  """

  size: int = 1024
  book: str = 'tiny/shared'

  row_wise: ClassVar[bool] = True

  def codebooks(self) -> tuple[int, int]:
    """Returns one codebook, of whole vectors."""
    return 1, 1

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': the index of the nearest code of each vector}."""
    del key
    return {'x': nearest(x, params['codes'][0])}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, each vector replaced by its code."""
    return base.full_grid(params['codes'][0][message['x'].astype(jnp.int32)])

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n indices."""
    del d
    return {'x': messages.Symbols(self.size, (n,))}


@dataclasses.dataclass(frozen=True)
class ProductVQ(CodebookQuantizer):
  """Product quantization: a code for each of several pieces of a vector.

      ProductVQ(groups=8, size=256)

  The pieces are of equal width, each with a codebook of its own.

  Attributes:
    groups: Number of pieces; it divides the vectors' width.
    size: Number of codes of each piece.
    book: Parameter file of kind 'codebook', or 'random'.

  Source: Jegou, Douze and Schmid 2011.
  """

  groups: int = 8
  size: int = 256
  book: str = 'tiny/product'

  row_wise: ClassVar[bool] = True

  def __post_init__(self):
    _validate.integer('groups', self.groups, 1, 2**16)
    super().__post_init__()

  def codebooks(self) -> tuple[int, int]:
    """Returns a codebook for each piece."""
    return self.groups, self.groups

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the codebooks and the frequencies of their codes."""
    self._check(d)
    return super().init_params(key, n, d)

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns {'x': the index of the nearest code of each piece}."""
    del key
    pieces = x.reshape(x.shape[0], self.groups, -1)
    nearest_of_piece = jax.vmap(nearest, in_axes=(1, 0), out_axes=1)
    return {'x': nearest_of_piece(pieces, params['codes'])}

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, the codes side by side."""
    indices = message['x'].astype(jnp.int32)
    codes = params['codes'][jnp.arange(self.groups), indices]
    return base.full_grid(codes.reshape(indices.shape[0], -1))

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns one field 'x' of n x groups indices."""
    self._check(d)
    return {'x': messages.Symbols(self.size, (n, self.groups))}

  def _check(self, d):
    if d % self.groups:
      raise _validate.error(
        'groups',
        self.groups,
        f'a divisor of the width d = {d}',
        kind=pretrained.QuantizerParamsError,
      )


@dataclasses.dataclass(frozen=True)
class ResidualVQ(CodebookQuantizer):
  """Residual vector quantization: coarse to fine, one code a stage.

      ResidualVQ(stages=4, size=256)

  A vector is the sum of its codes; each stage quantizes what the stages before
  it left. The stages are layers of a progressive message: a receiver that has
  the first few rebuilds from those.

  Attributes:
    stages: Number of stages, at most those of the parameter file.
    size: Number of codes of each stage.
    book: Parameter file of kind 'codebook', or 'random'.

  Source: Juang and Gray 1982; Zeghidour et al. 2021, arXiv 2107.03312.
  """

  stages: int = 4
  size: int = 256
  book: str = 'tiny/residual'

  row_wise: ClassVar[bool] = True

  def __post_init__(self):
    _validate.integer('stages', self.stages, 1, 64)
    super().__post_init__()

  def codebooks(self) -> tuple[int, int]:
    """Returns a codebook for each stage, of whole vectors."""
    return self.stages, 1

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the indices of the codes, a field for each stage."""
    del key
    message = {}
    for stage in range(self.stages):
      codes = params['codes'][stage]
      message[f'stage{stage}'] = indices = nearest(x, codes)
      x = x - codes[indices]
    return message

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, from the stages that the message has.

    Raises:
      ValueError: It lacks the first stage, or one between others.
    """
    present = [s for s in range(self.stages) if f'stage{s}' in message]
    if not present or present != list(range(len(present))):
      raise ValueError(
        f'got the stages {present} of {self.stages}, expected the first of them'
        ' without a gap'
      )
    x = jnp.zeros((), jnp.float32)
    for stage in present:
      indices = message[f'stage{stage}'].astype(jnp.int32)
      x = x + params['codes'][stage][indices]
    return base.full_grid(x)

  def fields(self, n: int, d: int) -> dict[str, messages.Field]:
    """Returns 'stage0' and so on, each in a layer of its own."""
    del d
    return {
      f'stage{stage}': messages.Symbols(self.size, (n,), layer=stage)
      for stage in range(self.stages)
    }

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns how often each code came in training."""
    rows = params['frequencies']
    return {f'stage{stage}': rows[stage, None] for stage in range(self.stages)}


def load(
  book: str,
  key: Key[Array, ''],
  count: int,
  size: int,
  width: int,
  pieces: int = 1,
) -> base.Params:
  """Returns the first codebooks of a parameter file.

  Args:
    book: Parameter file of kind 'codebook', or 'random' for normal numbers.
    key: Key for random ones.
    count: Number of codebooks; a file may hold more.
    size: Number of codes in each.
    width: Width of each code.
    pieces: Number of codes a vector is cut into; the file must be for so many.

  Returns:
    'codes', f32[count, size, width], and 'frequencies', int32[count, size]
    of sum `symbol_tables.TOTAL` a row.

  Raises:
    QuantizerParamsError: There is no such file.
  """
  if book == pretrained.RANDOM:
    codes = jax.random.normal(key, (count, size, width))
    uniform = symbol_tables.normalized(np.ones((count, size)))
    return {'codes': codes, 'frequencies': jnp.asarray(uniform)}
  stored = pretrained.load(book, 'codebook', width * pieces)
  codes = pretrained.array(stored, 'codes', (None, size, width))
  if len(codes) < count or (pieces > 1 and len(codes) != count):
    raise pretrained.QuantizerParamsError(
      f'book: got {book!r}, which holds {len(codes)} codebooks, expected'
      f' {count}'
    )
  counts = pretrained.array(stored, 'counts', (len(codes), size))
  if np.min(counts) < 0:
    raise pretrained.QuantizerParamsError(
      f'book {book!r}: got counts below 0, expected how often each code came;'
      ' train it anew with experiments/train_codebook.py.'
    )
  return {
    'codes': jnp.asarray(codes[:count], jnp.float32),
    'frequencies': jnp.asarray(symbol_tables.normalized(counts[:count])),
  }


def shortened(x: Float[Array, 'n width']) -> Float[Array, 'n width']:
  """Returns vectors, scaled down where their squares would leave float32."""
  top = jnp.maximum(jnp.max(jnp.abs(x), axis=1, keepdims=True), 1e-30)
  return jnp.where(top > 1e15, x * (1e15 / top), x)


def nearest(
  x: Float[Array, 'n width'], codes: Float[Array, 'size width']
) -> Int[Array, ' n']:
  """Returns the index of the code nearest to each vector; ties: the lowest."""
  x = shortened(x)
  cross = jnp.einsum('kw,nw->kn', codes, x, precision='highest')
  squares = jnp.sum(codes * codes, axis=1, keepdims=True)
  return geometry.first_min(squares - 2 * cross)[0]
