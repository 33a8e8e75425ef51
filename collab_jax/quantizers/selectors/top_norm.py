"""The vectors of greatest norm."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers.selectors import base


@dataclasses.dataclass(frozen=True)
class TopNorm(base.Selection):
  """Sends the k vectors of greatest L2 norm; ties go to the lowest index.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'; see `Selection`.
    vectors: What quantizes the sent vectors.

  Source: the norms are those of the paper's Fig. 2; the rule is a control.
  """

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
