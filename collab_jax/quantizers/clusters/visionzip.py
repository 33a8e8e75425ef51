"""VisionZip: dominant vectors by attention, and the others merged."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import geometry, lloyd, saliency
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class VisionZip(clustering.Clustering):
  """Sends the vectors that received most attention, and means of the others.

      VisionZip(k=16)

  A part of the k are the dominant vectors, as they are. From the others a
  diverse few are chosen, each the farthest from those chosen before, dominant
  ones included; the remaining vectors join the nearest of these few, whose
  means are sent.

  O(n^2 d) once, then O(n) a vector.

  Attributes:
    k: Number of clusters, at most n.
    dominant: Part of k that are dominant vectors, rounded down.
    saliency: 'attention', 'contrast' or 'norm'; see `saliency.of`.
    centroids: Quantizer of the vectors and means.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: VisionZip, arXiv 2412.04467 (dominant vectors by the attention
  received, the others merged); VisPruner, arXiv 2412.01818 (diversity of the
  others). SigLIP has no class token, so attention is that of all vectors.
  """

  k: int
  dominant: int | float = 0.5
  saliency: str = 'attention'
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  def __post_init__(self):
    super().__post_init__()
    _validate.number('dominant', self.dominant, 0.0, 0.99)
    _validate.choice('saliency', self.saliency, saliency.KINDS)

  @property
  def aux_inputs(self) -> tuple[str, ...]:
    """The attention, if it is the saliency and there are dominant vectors."""
    used = self.saliency == 'attention' and int(self.k * self.dominant) > 0
    return ('attention',) if used else ()

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, ''], **aux: Any
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the dominant vectors' clusters of one, then the others."""
    del key
    values = saliency.of(self.saliency, x, **aux)
    assignments = _cluster(x, values, self.k, int(self.k * self.dominant))
    return assignments, lloyd.means(x, assignments, self.k)


# Jitted here, so that calls outside of jit compile once, too.
@functools.partial(jax.jit, static_argnames=('k', 'dominant'))
def _cluster(x, values, k, dominant):
  gaps = geometry.distances(x.astype(jnp.float32))
  n = len(gaps)
  every = jnp.arange(n)
  first = jax.lax.top_k(values, dominant)[1]
  is_dominant = jnp.any(every[:, None] == first, axis=1)
  # Distances from the dominant ones; without them, from all on average.
  nearest = jnp.min(
    jnp.where(is_dominant[:, None], gaps, jnp.inf), axis=0, initial=jnp.inf
  )
  nearest = nearest if dominant else jnp.mean(gaps, axis=0)

  def step(state, _):
    nearest, free, started = state
    index = jnp.argmax(jnp.where(free, nearest, -1))
    nearest = jnp.where(started, jnp.minimum(nearest, gaps[index]), gaps[index])
    return (nearest, free.at[index].set(False), True), index

  start = (nearest, ~is_dominant, bool(dominant))
  seeds = jax.lax.scan(step, start, length=k - dominant)[1]
  is_seed = every == seeds[:, None]
  joined = geometry.first_min(jnp.where(is_seed, -1, gaps[seeds]))[0] + dominant
  rank = jnp.argmax(every[:, None] == first, axis=1) if dominant else joined
  return jnp.where(is_dominant, rank, joined).astype(jnp.int32)
