import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster import hierarchy

from collab_jax import quantizers
from collab_jax.quantizers.clusters import agglomerative
from collab_jax.quantizers.math import potts


def _scipy(x, k, method):
  """Clusters of SciPy's first n - k merges, numbered by first members."""
  n = len(x)
  members = {i: [i] for i in range(n)}
  for step, (a, b, *_) in enumerate(hierarchy.linkage(x, method)[: n - k]):
    members[n + step] = members.pop(int(a)) + members.pop(int(b))
  found = np.zeros(n, int)
  for number, cluster in enumerate(sorted(members.values(), key=min)):
    found[cluster] = number
  return found


@pytest.mark.parametrize(('weight', 'method'), [(0.0, 'centroid'), (1, 'ward')])
def test_agrees_with_scipy(weight, method):
  x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
  for k in (7, 30):
    got = agglomerative.merge(x, k, float(weight))
    np.testing.assert_array_equal(got, _scipy(x.astype(float), k, method))


def test_what_stands_out_keeps_a_centroid():
  # A textured background of two halves, and three small things.
  rng = np.random.default_rng(1)
  x = rng.normal(size=(256, 8)).astype(np.float32)
  x[:128, 0] += 4
  for i, place in enumerate((3, 77, 200)):
    x[place, 2 + i] += 12
  key = jax.random.key(0)

  def alone(quantizer):
    message = quantizer.quantize({}, x, key)
    counts = np.bincount(message['assignments'], minlength=quantizer.k)
    return [counts[message['assignments'][place]] for place in (3, 77, 200)]

  assert alone(quantizers.Agglomerative(4)) == [1, 1, 1]
  assert max(alone(quantizers.Agglomerative(4, weight=1))) > 100


def test_lloyd_after_it_lowers_the_error():
  x = np.random.default_rng(2).normal(size=(64, 4)).astype(np.float32)
  errors = []
  for iters in (0, 5):
    quantizer = quantizers.Agglomerative(5, iters=iters)
    message = quantizer.quantize({}, jnp.asarray(x), jax.random.key(0))
    rebuilt = quantizer.dequantize({}, message).x
    errors.append(float(np.mean((rebuilt - x) ** 2)))
  assert errors[1] < errors[0]


@pytest.mark.parametrize('weight', [-0.1, 2, True])
def test_refuses(weight):
  with pytest.raises(ValueError, match=r'weight: got .*a number from 0 to 1'):
    quantizers.Agglomerative(4, weight=weight)


def test_smoothing_takes_out_what_is_hardly_better():
  rng = np.random.default_rng(3)
  halves = np.where(np.arange(256) % 16 < 8, -1.0, 1.0)
  x = np.stack([halves, np.zeros(256)], axis=1).astype(np.float32)
  x += rng.normal(size=x.shape).astype(np.float32) * 0.7
  x[[20, 21]] += [[0, 30]]  # Two that stand out.
  near = np.stack([np.abs(x[:, 0] - c) for c in (-1, 1)]).argmin(axis=0)
  near[[20, 21]] = 2
  start = jnp.asarray(near, jnp.int32)

  def edges(assignments):
    grid = np.asarray(assignments).reshape(16, 16)
    return sum(int((np.diff(grid, axis=a) != 0).sum()) for a in (0, 1))

  counts = [edges(potts.smooth(x, start, 3, w)) for w in (0, 0.3, 1.0, 3.0)]
  assert counts == sorted(counts, reverse=True)
  got = np.asarray(potts.smooth(x, start, 3, 1.0))
  np.testing.assert_array_equal(got[[20, 21]], 2)
  others = np.delete(np.arange(256), [20, 21])
  wrong = np.mean(got[others] != (halves > 0)[others])
  assert wrong < 0.3 * np.mean(near[others] != (halves > 0)[others])


def test_smoothing_moves_nothing_to_unused_clusters():
  # Their means would be the mean of all, which is near here.
  x = np.random.default_rng(0).normal(size=(36, 2)).astype(np.float32)
  start = jnp.asarray(x[:, 0] > 0, jnp.int32)
  got = potts.smooth(x, start, 8, 0.1, jnp.asarray(2))
  np.testing.assert_array_equal(got, potts.smooth(x, start, 2, 0.1))
  assert np.max(potts.smooth(x, start, 8, 0.1)) > 1
