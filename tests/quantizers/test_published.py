"""Selectors beside their published definitions, written as plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers
from collab_jax.quantizers.clusters import dpc_knn, medoids, tome


def _data(n, d=4, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def _partition(owner):
  """Clusters as sets of members, whatever their numbers."""
  owner = np.asarray(owner)
  return {frozenset(np.flatnonzero(owner == o).tolist()) for o in set(owner)}


def _tome(x, k):
  """Bipartite soft matching, round by round, with sizes as weights."""
  groups = [[i] for i in range(len(x))]
  points = x.astype(np.float64)
  while len(groups) > k:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosines = unit[::2] @ unit[1::2].T
    merged = min(len(groups) - k, len(groups) // 2)
    order = np.argsort(-cosines.max(axis=1), kind='stable')
    going, staying = order[:merged], np.sort(order[merged:])
    new = [list(groups[2 * i]) for i in staying]
    for j in range(cosines.shape[1]):
      sources = [i for i in going if cosines[i].argmax() == j]
      new.append(sum((groups[2 * i] for i in sources), groups[2 * j + 1][:]))
    groups = new
    points = np.stack([x[members].mean(axis=0) for members in groups])
  return {frozenset(members) for members in groups}


@pytest.mark.parametrize(('n', 'k'), [(21, 4), (8, 4)])
def test_token_merging(n, k):
  x = _data(n)
  assert _partition(tome.match(jnp.asarray(x), k)) == _tome(x, k)


def test_density_peaks():
  x, k, neighbours = _data(24), 5, 4
  gaps = np.linalg.norm(x[:, None] - x, axis=2)
  gaps /= np.sqrt(((x - x.mean(0)) ** 2).sum(axis=1).mean())
  near = np.sort(gaps, axis=1)[:, :neighbours]
  density = np.exp(-(near**2).mean(axis=1))
  apart = [
    min((gaps[i, j] for j in range(24) if density[j] > density[i]), default=9)
    for i in range(24)
  ]
  chosen = np.argsort(-density * apart)[:k]
  members, found = dpc_knn.peaks(jnp.asarray(x), k, neighbours)
  np.testing.assert_allclose(found, density, rtol=1e-5)
  assert _partition(members) == _partition(gaps[chosen].argmin(axis=0))


def test_means_by_density():
  x = _data(24)
  quantizer = quantizers.DpcKnn(3, weight=2)
  members, means = quantizer.cluster(jnp.asarray(x), jax.random.key(0))
  density = np.asarray(dpc_knn.peaks(jnp.asarray(x), 3, 5)[1])
  for j in range(3):
    mine = np.asarray(members) == j
    want = np.average(x[mine], axis=0, weights=density[mine] ** 2)
    np.testing.assert_allclose(means[j], want, rtol=1e-4, atol=1e-5)


def test_medoids_in_turns():
  x, k = _data(20, 2, seed=4), 4
  gaps = np.linalg.norm(x[:, None] - x, axis=2)
  chosen: list[int] = []
  for _ in range(k):
    costs = [
      gaps[[*chosen, i]].min(axis=0).sum() if i not in chosen else np.inf
      for i in range(20)
    ]
    chosen.append(int(np.argmin(costs)))
  greedy = list(chosen)
  for _ in range(20):
    members = gaps[chosen].argmin(axis=0)
    chosen = [
      min(
        np.flatnonzero(members == j),
        key=lambda i: gaps[i, members == j].sum(),
      )
      for j in range(k)
    ]
  assert set(chosen) != set(greedy)  # So that turns are seen to matter.
  for iters, want in ((0, greedy), (20, chosen)):
    _, found = medoids.medoids(jnp.asarray(x), k, iters)
    assert np.asarray(found).tolist() == want
