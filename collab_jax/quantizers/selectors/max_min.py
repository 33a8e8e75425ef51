"""Greedy max-min selectors: each vector is far from those chosen before."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers.math import geometry, weighted
from collab_jax.quantizers.selectors import base


@dataclasses.dataclass(frozen=True)
class DivPrune(base.Selection):
  """Sends k vectors by greedy max-min cosine distance.

      DivPrune(k=16)

  The first is the vector whose nearest other one is farthest; each further one
  is the vector farthest from its nearest chosen vector. `farthest_point` does
  the same with Euclidean distances and starts far from the mean.

  O(n^2 d) once, then O(n) a vector.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'; see `Selection`.
    vectors: Quantizer of the sent vectors.

  Source: Alvar et al. 2025, arXiv 2503.02175. Ties: the lowest index.
  """

  dynamic_k: ClassVar[bool] = True

  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Returns the indices in the order in which they are chosen."""
    del key
    return _by_cosine(x, self.k)


@dataclasses.dataclass(frozen=True)
class FarthestPoint(base.Selection):
  """Sends k vectors chosen by greedy k-center.

      FarthestPoint(k=16)

  The first is the vector farthest from the mean; each further one is the
  vector farthest from its nearest chosen vector. Ties: the lowest index.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'; see `Selection`.
    vectors: Quantizer of the sent vectors.

  Source: Gonzalez 1985, whose radius is at most twice the best.
  """

  rebuild: str = 'nearest'

  dynamic_k: ClassVar[bool] = True

  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Returns the indices in the order in which they are chosen."""
    del key
    return _by_distance(x, self.k)


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames='k')
def _by_cosine(x, k):
  points = weighted.unit(x.astype(jnp.float32))
  gaps = 1 - geometry.gram(points)
  n = len(gaps)
  others = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, gaps)
  first = jnp.argmax(jnp.min(others, axis=0))
  return geometry.farthest(lambda chosen: gaps[chosen], first, n, k)


@functools.partial(jax.jit, static_argnames='k')
def _by_distance(x, k):
  points = geometry.centred(x).points
  gram = geometry.gram(points)
  norms = jnp.diagonal(gram)
  # |x_i - mean|^2, without the terms that all have in common.
  first = jnp.argmax(norms - 2 * jnp.mean(gram, axis=1))

  def distances(chosen):
    return norms - 2 * gram[chosen] + norms[chosen]

  return geometry.farthest(distances, first, len(gram), k)
