"""Residual vector quantization: coarse to fine, a layer a stage."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.quantizers import (
  base,
  pretrained,
)
from collab_jax.quantizers.vectors import codebook


@dataclasses.dataclass(frozen=True)
class ResidualVQ:
  """Sends a code of each stage; a vector is the sum of its codes.

  Each stage quantizes what the stages before it left. The stages are layers
  of a progressive message: a receiver that has the first few rebuilds from
  those.

  Attributes:
    stages: Number of stages, at most those of the book.
    size: Codes of each stage.
    book: A book of kind 'codebook', or 'random'.

  Source: Juang and Gray 1982; Zeghidour et al. 2021, arXiv 2107.03312.
  """

  stages: int = 4
  size: int = 256
  book: str = 'tiny/residual'

  def __post_init__(self):
    _validate.integer('stages', self.stages, 1, 64)
    _validate.integer('size', self.size, 2, 2**16)
    pretrained.check_name(self.book)

  @property
  def uses_key(self) -> bool:
    """Nothing is drawn."""
    return False

  def init_params(self, key: Key[Array, ''], n: int, d: int) -> base.Params:
    """Returns the codebooks and the frequencies of their codes."""
    del n
    return codebook.load(self.book, key, self.stages, self.size, d)

  def quantize(
    self, params: base.Params, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> messages.Message:
    """Returns the codes, a field for each stage."""
    del key
    message = {}
    for stage in range(self.stages):
      codes = params['codes'][stage]
      message[f'stage{stage}'] = chosen = codebook.nearest(x, codes)
      x = x - codes[chosen]
    return message

  def dequantize(
    self, params: base.Params, message: messages.Message
  ) -> messages.Tokens:
    """Returns the whole grid, from the stages that the message has.

    Raises:
      ValueError: It lacks the first stage, or one between others.
    """
    have = [s for s in range(self.stages) if f'stage{s}' in message]
    if not have or have != list(range(len(have))):
      raise ValueError(
        f'got the stages {have} of {self.stages}, expected the first of them'
        ' without a gap'
      )
    x = jnp.zeros((), jnp.float32)
    for stage in have:
      chosen = message[f'stage{stage}'].astype(jnp.int32)
      x = x + params['codes'][stage][chosen]
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

  def sent(self, n: int) -> int:
    """Returns n: all of them."""
    return n
