import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import cluster

from collab_jax import quantizers
from collab_jax.quantizers.math import geometry, lloyd


def _features(seed, n=256, d=1152, parts=12, rank=48, noise=0.1):
  """Correlated vectors in overlapping groups, with a common mean."""
  rng = np.random.default_rng(seed)
  basis = rng.normal(size=(rank, d)) * np.linspace(2, 0.1, rank)[:, None]
  centres = rng.normal(size=(parts, rank))
  x = centres[rng.integers(0, parts, n)] + 0.7 * rng.normal(size=(n, rank))
  x = x @ basis + noise * rng.normal(size=(n, d)) + 3 * rng.normal(size=d)
  return x.astype(np.float32)


def _sklearn(x, centroids, iters=300):
  # float64, so that what we compare with is nearer to exact than we are.
  model = cluster.KMeans(
    len(centroids),
    init=np.asarray(centroids, np.float64),
    n_init=1,
    algorithm='lloyd',
    tol=0,
    max_iter=iters,
  )
  return model.fit(np.asarray(x, np.float64))


def _inertia(x, assignments, centroids):
  x, centroids = np.float64(x), np.float64(centroids)
  return ((x - centroids[np.asarray(assignments)]) ** 2).sum()


# One program for each shape.
converged = jax.jit(lambda x, c: lloyd.lloyd(x, c, 300))
all_converged = jax.jit(jax.vmap(converged))


@pytest.mark.parametrize('shift', [0, 30])
@pytest.mark.parametrize(
  ('n', 'd', 'k'), [(30, 2, 3), (100, 5, 7), (64, 9, 20)]
)
def test_equals_scikit_learn(n, d, k, shift):
  rng = np.random.default_rng(n + k)
  xs = (rng.normal(size=(40, n, d)) + shift).astype(np.float32)
  start = np.stack([x[rng.permutation(n)[:k]] for x in xs])
  found = all_converged(xs, start)
  for i, x in enumerate(xs):
    want = _sklearn(x, start[i])
    np.testing.assert_array_equal(found.assignments[i], want.labels_)
    np.testing.assert_allclose(
      found.centroids[i], want.cluster_centers_, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('k', [2, 8, 64])
def test_equals_scikit_learn_on_features(k):
  iterations = []
  for seed in range(8):
    x = _features(seed)
    start = np.random.default_rng(seed).permutation(len(x))[:k]
    found = converged(x, start)
    want = _sklearn(x, x[start])
    np.testing.assert_array_equal(found.assignments, want.labels_)
    np.testing.assert_allclose(
      found.centroids, want.cluster_centers_, rtol=1e-4, atol=1e-4
    )
    iterations.append(int(found.iterations))
  assert max(iterations) > 3


@pytest.mark.parametrize('iters', [1, 2, 5])
def test_equals_scikit_learn_at_the_cap(iters):
  x = _features(1)
  start = np.arange(8) * 30
  found = lloyd.lloyd(jnp.asarray(x), jnp.asarray(start), iters)
  want = _sklearn(x, x[start], iters)
  np.testing.assert_array_equal(found.assignments, want.labels_)
  assert found.iterations == iters
  members = np.asarray(found.assignments)
  means = [x[members == j].mean(axis=0) for j in range(8)]
  np.testing.assert_allclose(found.centroids, means, atol=1e-4)


def test_vectors_and_their_indices_start_alike():
  x = jnp.asarray(_features(2, d=64))
  start = jnp.arange(16) * 7
  one = lloyd.lloyd(x, start, 50)
  two = lloyd.lloyd(x, x[start], 50)
  np.testing.assert_array_equal(one.assignments, two.assignments)


def test_a_common_shift_does_not_matter():
  rng = np.random.default_rng(0)
  # Quarters: the shifted vectors are exact in float32.
  x = (rng.integers(-40, 40, (200, 16)) / 4).astype(np.float32)
  start = jnp.arange(10)
  want = lloyd.lloyd(jnp.asarray(x), start, 50)
  for shift in (1000, -100000):
    found = lloyd.lloyd(jnp.asarray(x + np.float32(shift)), start, 50)
    np.testing.assert_array_equal(found.assignments, want.assignments)


def test_gram_agrees_with_distances_at_float32():
  """Only where two centroids are equally far but for rounding may it differ."""
  for seed in range(5):
    x = _features(seed)
    start = np.random.default_rng(seed).permutation(256)[:64]
    found = lloyd.lloyd(jnp.asarray(x), jnp.asarray(start), 100)
    centroids = np.float64(found.centroids)
    distances = ((np.float64(x)[:, None] - centroids) ** 2).sum(axis=2)
    got = distances[np.arange(256), np.asarray(found.assignments)]
    assert (got <= distances.min(axis=1) * (1 + 1e-5)).all()


def test_ties_go_to_the_lowest_index():
  x = jnp.array([[0.0], [2.0], [4.0]])
  found = lloyd.lloyd(x, jnp.array([[4.0], [0.0]]), 0)
  np.testing.assert_array_equal(found.assignments, [1, 0, 0])
  found = lloyd.lloyd(jnp.ones((6, 2)), jnp.array([[3.0, 3], [3, 3]]), 0)
  assert set(np.asarray(found.assignments)) == {0, 1}  # one was re-seeded


def test_an_empty_cluster_takes_the_farthest_vector():
  x = jnp.array([[0.0], [1.0], [10.0], [11.0], [30.0]])
  start = jnp.array([[0.5], [10.0], [1000.0]])
  found = lloyd.lloyd(x, start, 50)
  np.testing.assert_array_equal(found.assignments, [0, 0, 1, 1, 2])
  want = _sklearn(x, start)
  np.testing.assert_array_equal(found.assignments, want.labels_)


def test_several_empty_clusters():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
  start = jnp.full((8, 3), 1e3).at[0].set(0)
  found = lloyd.lloyd(x, start, 50)
  assert set(np.asarray(found.assignments)) == set(range(8))


@pytest.mark.parametrize('init', ['random', '++'])
def test_fewer_different_vectors_than_clusters(init):
  x = jnp.tile(jnp.array([[0.0, 1], [5, 5], [9, 0]]), (10, 1))
  quantizer = quantizers.KMeans(8, init=init)
  message = quantizer.quantize({}, x, jax.random.key(0))
  tokens = quantizer.dequantize({}, message)
  np.testing.assert_allclose(tokens.x, x, atol=1e-2)


def test_as_many_clusters_as_vectors():
  x = jax.random.normal(jax.random.key(0), (32, 4))
  for init in ('random', '++'):
    quantizer = quantizers.KMeans(32, init=init)
    message = quantizer.quantize({}, x, jax.random.key(1))
    tokens = quantizer.dequantize({}, message)
    np.testing.assert_allclose(tokens.x, x, rtol=1e-3, atol=1e-6)


def test_converged_images_do_not_change_under_vmap():
  xs = jnp.asarray(np.stack([_features(s, d=16) for s in range(6)]))
  start = jnp.stack([jnp.arange(16) * (s + 1) for s in range(6)])
  many = jax.jit(jax.vmap(lambda x, c: lloyd.lloyd(x, c, 100)))(xs, start)
  assert len(set(np.asarray(many.iterations))) > 1
  for i in range(6):
    one = lloyd.lloyd(xs[i], start[i], 100)
    np.testing.assert_array_equal(one.assignments, many.assignments[i])
    np.testing.assert_array_equal(one.iterations, many.iterations[i])
  # Two axes, as for images and seeds.
  nested = jax.vmap(
    jax.vmap(lambda x, c: lloyd.lloyd(x, c, 100)), in_axes=(None, 0)
  )(xs, jnp.stack([start, start + 1]))
  np.testing.assert_array_equal(nested.assignments[0], many.assignments)


def test_side_by_side_equals_one_after_the_other():
  """Results of `vmap`, as on other devices, equal those image by image."""
  xs = jnp.asarray(np.stack([_features(s, d=16) for s in range(3)]))
  start = jnp.stack([jnp.arange(16) * (s + 1) for s in range(3)])
  aside = jax.vmap(
    lambda x, c: lloyd._solve(x, c, 16, start=lloyd._from_vectors, iters=100)
  )(xs, start)
  after = jax.vmap(lambda x, c: lloyd.lloyd(x, c, 100))(xs, start)
  np.testing.assert_array_equal(aside.assignments, after.assignments)
  np.testing.assert_array_equal(aside.iterations, after.iterations)


def test_plus_plus_draws_in_proportion_to_squared_distance():
  x = jnp.array([[0.0], [1.0], [3.0]])
  points = geometry.centred(x).points
  noise = jax.random.gumbel(jax.random.key(0), (20000, 2, 3))
  drawn = jax.vmap(
    lambda z: lloyd.draw(geometry.gram(points), z, jnp.int32(2))
  )(noise)
  drawn = np.asarray(drawn)
  want = {
    (0, 1): 1 / 3 * 1 / 10,
    (0, 2): 1 / 3 * 9 / 10,
    (1, 0): 1 / 3 * 1 / 5,
    (1, 2): 1 / 3 * 4 / 5,
    (2, 0): 1 / 3 * 9 / 13,
    (2, 1): 1 / 3 * 4 / 13,
  }
  for pair, p in want.items():
    share = (drawn == pair).all(axis=1).mean()
    assert abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / len(drawn))
  assert (drawn[:, 0] != drawn[:, 1]).all()


def test_plus_plus_starts_better():
  x = jnp.asarray(_features(3, d=96, parts=8))
  keys = jax.random.split(jax.random.key(0), 40)
  mean = {}
  for init in ('random', '++'):
    quantizer = quantizers.KMeans(8, init=init, iters=0)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def rebuilt(x, key, quantizer=quantizer):
      return quantizer.dequantize({}, quantizer.quantize({}, x, key)).x

    mean[init] = float(((rebuilt(x, keys) - x) ** 2).mean())
  assert mean['++'] < mean['random']


def test_inertia_never_rises():
  x = jnp.asarray(_features(4, d=128))
  start = jnp.arange(20)
  inertias = []
  for iters in (0, 1, 4):
    found = lloyd.lloyd(x, start, iters)
    inertias.append(_inertia(x, found.assignments, found.centroids))
  assert (np.diff(inertias) <= 1e-6 * inertias[0]).all()


def test_bad_arguments():
  with pytest.raises(ValueError, match='k <= 3'):
    lloyd.lloyd(jnp.zeros((3, 2)), jnp.zeros((4, 2)), 1)
  with pytest.raises(ValueError, match='iters'):
    lloyd.lloyd(jnp.zeros((3, 2)), jnp.zeros((2, 2)), -1)
