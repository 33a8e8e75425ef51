"""k-means on the vectors of one image: the paper's feature selection."""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float, Int, Key

from collab_jax import _validate
from collab_jax.quantizers import base
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import lloyd
from collab_jax.quantizers.vectors import identity


@dataclasses.dataclass(frozen=True)
class KMeans(clustering.Clustering):
  """Sends k centroids, and for every vector which of them replaces it.

      KMeans(k=8, init='++')

  Exact Lloyd in float32; see `lloyd.lloyd` for ties and empty clusters.

  Attributes:
    k: Number of clusters, at most n.
    init: 'random' (k different vectors, as in the paper) or '++' (k-means++).
    iters: Largest number of iterations; it stops earlier once converged.
    centroids: Quantizer of the centroids.
    rebuild: 'grid', 'keep' or 'close'; see `Clustering`.

  Source: section 2 of the paper; checked against scikit-learn.
  """

  k: int
  init: str = 'random'
  iters: int = 50
  centroids: base.QuantizerLike = identity.FLOAT16
  rebuild: str = 'grid'

  draws: ClassVar[bool] = True
  dynamic_k: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    _validate.choice('init', self.init, ('random', '++'))
    _validate.integer('iters', self.iters, 0)

  def cluster(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
    """Returns the clusters of Lloyd's algorithm from a drawn start."""
    if self.init == '++':
      clusters = lloyd.plus_plus(
        x, key, self.k, self.iters, num_used=self.num_used
      )
    else:
      start = base.shuffled(key, x.shape[0])[: self.k]
      clusters = lloyd.lloyd(x, start, self.iters, num_used=self.num_used)
    return clusters.assignments, clusters.centroids
