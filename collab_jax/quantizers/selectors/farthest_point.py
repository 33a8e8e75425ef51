"""Vectors as far from one another as can be."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers.math import geometry
from collab_jax.quantizers.selectors import base


@dataclasses.dataclass(frozen=True)
class FarthestPoint(base.Selection):
  """Sends k vectors chosen by greedy k-center.

  The first is the vector farthest from the mean; each further one is the
  vector farthest from its nearest chosen vector. Ties: the lowest index.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'; see `Selection`.
    vectors: What quantizes the sent vectors.

  Source: Gonzalez 1985, whose radius is at most twice the best.
  """

  rebuild: str = 'nearest'

  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Returns the indices in the order in which they are chosen."""
    del key
    return _select(x, self.k)


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames='k')
def _select(x, k):
  points = geometry.centred(x).points
  gram = geometry.gram(points)
  norms = jnp.diagonal(gram)
  # |x_i - mean|^2, but for what all have in common.
  first = jnp.argmax(norms - 2 * jnp.mean(gram, axis=1))

  def distances(chosen):
    return norms - 2 * gram[chosen] + norms[chosen]

  return geometry.farthest(distances, first, len(gram), k)
