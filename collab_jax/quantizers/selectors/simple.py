"""Selectors that need no distances: a random subset, and the longest."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers import base
from collab_jax.quantizers.selectors import base as selection


@dataclasses.dataclass(frozen=True)
class Random(selection.Selection):
  """Sends k vectors drawn evenly without replacement: the paper's baseline.

      Random(k=16, rebuild='keep')

  With one key, the vectors of a smaller k are among those of a larger one.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'; see `Selection`.
    vectors: Quantizer of the sent vectors.

  Source: section 3 of the paper, which does not say how it rebuilds.
  """

  draws: ClassVar[bool] = True
  dynamic_k: ClassVar[bool] = True

  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Returns k random indices."""
    return base.shuffled(key, x.shape[0])[: self.k]


@dataclasses.dataclass(frozen=True)
class TopNorm(selection.Selection):
  """Sends the k vectors of greatest L2 norm; ties go to the lowest index.

      TopNorm(k=16)

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'; see `Selection`.
    vectors: Quantizer of the sent vectors.

  Source: the norms are those of the paper's Fig. 2; the rule is a control.
  """

  dynamic_k: ClassVar[bool] = True

  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Returns the indices of the k longest vectors."""
    del key
    # Squares of the largest and smallest float32 would leave its range.
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x))
    scaled = x / jnp.where(largest > 0, largest, 1)
    return jax.lax.top_k(jnp.sum(scaled * scaled, axis=1), self.k)[1]
