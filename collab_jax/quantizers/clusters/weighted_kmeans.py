"""k-means in which salient vectors count more."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import geometry, saliency, weighted
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class WeightedKMeans(clustering.Clustering):
  """Sends the weighted means of k clusters of weighted k-means.

      WeightedKMeans(k=8, saliency='contrast')

  A vector's squared error counts by its saliency to a power, both when clusters
  are formed and in their means, so that a small thing that stands out pulls a
  centroid away from a large background.

  As `kmeans`, and O(n^2) for 'contrast'.

  Attributes:
    k: Number of clusters, at most n.
    saliency: 'contrast', 'norm' or 'attention'; see `saliency.of`.
    power: Exponent of the saliency; 0 is `kmeans`.
    iters: Largest number of iterations; it stops earlier once converged.
    centroids: Quantizer of the centroids.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: weighted Lloyd; the start draws by weight times squared distance, as
  Arthur and Vassilvitskii 2007 do for weighted points.
  """

  k: int
  saliency: str = 'contrast'
  power: int | float = 2
  iters: int = 50
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  draws: ClassVar[bool] = True
  dynamic_k: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('iters', self.iters, 0)
    _validate.choice('saliency', self.saliency, saliency.KINDS)
    _validate.number('power', self.power, 0.0, 8.0)

  @property
  def aux_inputs(self) -> tuple[str, ...]:
    """The attention, if it is the saliency."""
    return ('attention',) if self.saliency == 'attention' else ()

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, ''], **aux: Any
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the clusters, and their weighted means."""
    n = x.shape[0]
    weights = saliency.of(self.saliency, x, **aux) ** self.power
    weights = jnp.clip(weights / jnp.mean(weights), 1e-6)
    noise = jax.random.gumbel(key, (self.k * n,)).reshape(self.k, n)
    points = geometry.centred(x.astype(jnp.float32)).points
    assignments = weighted.cluster(
      points, weights, noise, self.iters, num_used=self.num_used
    )
    return assignments, weighted.means(x, weights, assignments, self.k)
