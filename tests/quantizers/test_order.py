import jax
import jax.numpy as jnp
import numpy as np

from collab_jax import quantizers
from collab_jax.quantizers.clusters import base as clustering
from collab_jax.quantizers.math import lloyd


def test_clusters_are_numbered_as_they_appear():
  assignments = jnp.array([4, 4, 1, 0, 4, 1, 2])
  centroids = jnp.arange(6.0)[:, None]
  named, moved = clustering.relabel_by_first_use(assignments, centroids)
  assert named.tolist() == [0, 0, 1, 2, 0, 1, 3]
  # Clusters 3 and 5 have no vectors.
  assert moved[:, 0].tolist() == [4, 1, 0, 2, 3, 5]
  assert named.dtype == jnp.int32


def test_k_means_says_the_same_with_other_numbers():
  x = jax.random.normal(jax.random.key(0), (64, 5))
  key = jax.random.key(1)
  message = quantizers.KMeans(9, init='++', iters=20).quantize({}, x, key)
  found = lloyd.plus_plus(x, key, 9, 20)
  assignments = np.asarray(message['assignments'])
  np.testing.assert_array_equal(
    message['centroids/x'][assignments],
    found.centroids[found.assignments].astype('float16'),
  )
  first = [assignments.tolist().index(j) for j in range(9)]
  assert first == sorted(first)
  assert not np.array_equal(assignments, found.assignments)
