"""The most diverse vectors: the least distance among them is large."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers.math import (
  geometry,
  weighted,
)
from collab_jax.quantizers.selectors import base


@dataclasses.dataclass(frozen=True)
class DivPrune(base.Selection):
  """Sends k vectors by greedy max-min cosine distance.

  The first is the vector whose nearest other one is farthest; each further one
  is the vector farthest from its nearest chosen vector. `farthest_point` does
  the same with Euclidean distances and starts far from the mean.

  O(n^2 d) once, then O(n) a vector.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'; see `Selection`.
    vectors: What quantizes the sent vectors.

  Source: Alvar et al. 2025, arXiv 2503.02175. Ties: the lowest index.
  """

  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Returns the indices in the order in which they are chosen."""
    del key
    return _select(x, self.k)


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames='k')
def _select(x, k):
  points = weighted.unit(x.astype(jnp.float32))
  gaps = 1 - geometry.gram(points)
  n = len(gaps)
  others = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, gaps)
  first = jnp.argmax(jnp.min(others, axis=0))
  return geometry.farthest(lambda chosen: gaps[chosen], first, n, k)
