"""One numbering for all that means the same."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def relabel_by_first_use(
  assignments: Int[Array, ' n'], centroids: Float[Array, 'k d']
) -> tuple[Int[Array, ' n'], Float[Array, 'k d']]:
  """Numbers clusters by their first vectors, which takes fewest bytes.

  Which number a cluster has says nothing; a decoder that expects new clusters
  in order need not be told which of them it is. Without vectors they are last.

  Args:
    assignments: The cluster of each vector.
    centroids: The centroid of each cluster.
  """
  n, k = assignments.shape[0], centroids.shape[0]
  first = n + jnp.arange(k)
  first = first.at[assignments].min(jnp.arange(n))
  # Ranks by comparisons: a sort takes longer to compile.
  rank = jnp.sum(first[None] < first[:, None], axis=1, dtype=jnp.int32)
  return rank[assignments], jnp.zeros_like(centroids).at[rank].set(centroids)
