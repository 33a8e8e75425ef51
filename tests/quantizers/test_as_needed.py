"""Adaptive quantizer: the number of clusters follows from the picture."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers, wire
from collab_jax.quantizers.clusters import adaptive
from collab_jax.quantizers.vectors import identity

KEY = jax.random.key(0)
FLOAT = identity.Identity('float32')


def _blobs(count, seed=0):
  """64 vectors in so many blobs, all far apart from each other."""
  rng = np.random.default_rng(seed)
  which = np.sort(rng.permutation(np.arange(64) % count))
  centres = 9 * np.eye(16)[:count]
  noise = 0.1 * rng.normal(size=(64, 16))
  return jnp.asarray(centres[which] + noise, jnp.float32), which


@pytest.mark.parametrize('count', [1, 2, 4, 7])
def test_a_picture_gets_what_it_needs(count):
  x, which = _blobs(count)
  error = 0.01 if count > 1 else 1.0
  quantizer = quantizers.Adaptive(7, error, centroids=FLOAT)
  message = quantizer.quantize({}, x, KEY)
  assert np.array_equal(message['assignments'], which)
  means = np.asarray(message['centroids/x'])
  assert np.abs(means[count:]).max(initial=0) == 0
  got = quantizer.dequantize({}, message)
  np.testing.assert_allclose(got.x, x, atol=0.6)


def test_without_error_it_is_merging():
  x = jax.random.normal(KEY, (64, 8))
  found = quantizers.Adaptive(6, 0, centroids=FLOAT).quantize({}, x, KEY)
  want = quantizers.Agglomerative(6, centroids=FLOAT).quantize({}, x, KEY)
  for name in want:
    np.testing.assert_allclose(found[name], want[name], atol=1e-6)


def test_merges_go_on_where_merging_ended():
  x = jax.random.normal(KEY, (64, 8))
  first = adaptive.agglomerative.merge(x, 6, 0.25)
  owners, shares = adaptive.merges(x, first, 6, 0.25)
  whole = float(jnp.sum((x - x.mean(0)) ** 2))
  for left in range(1, 7):
    owner = np.asarray(owners[6 - left])[np.asarray(first)]
    want = np.asarray(adaptive.agglomerative.merge(x, left, 0.25))
    # The same partition, whatever its numbers are.
    assert len({*zip(owner, want, strict=True)}) == left
    rows = np.asarray(x, np.float64)
    means = np.stack([rows[want == j].mean(0) for j in range(left)])
    error = ((rows - means[want]) ** 2).sum()
    np.testing.assert_allclose(shares[6 - left], error / whole, rtol=1e-4)


def test_the_error_is_what_was_asked_for():
  x = jax.random.normal(KEY, (64, 8)) * jnp.arange(1, 9)
  whole = float(jnp.sum((x - x.mean(0)) ** 2))
  counts = []
  for error in (0.9, 0.7, 0.5, 0.3):
    quantizer = quantizers.Adaptive(40, error, centroids=FLOAT)
    message = quantizer.quantize({}, x, KEY)
    left = float(jnp.sum((x - quantizer.dequantize({}, message).x) ** 2))
    assert left <= error * whole * 1.0001
    counts.append(int(message['assignments'].max()) + 1)
  assert counts == sorted({*counts})


@pytest.mark.parametrize('mean', [1.0, 2.5, 4.0, 5.0])
def test_the_average_is_what_was_asked_for(mean):
  x = jnp.stack([_blobs(1 + i % 5, i)[0] for i in range(40)])
  quantizer = quantizers.Adaptive(5)
  error = quantizers.error_for(quantizer, x, mean)

  def average(error):
    if error < 0:
      return np.inf
    made = quantizers.Adaptive(5, error)
    found = jax.vmap(lambda x: made.quantize({}, x, KEY))(x)
    return (1 + found['assignments'].max(axis=1)).mean()

  assert average(error) <= mean
  # Pictures of five kinds: there is no error for each average.
  assert average(error) > mean - 1
  assert average(error - 1e-4) > mean
  with pytest.raises(ValueError, match=r'mean: got 6.*expected .* to 5'):
    quantizers.error_for(quantizer, x, 6.0)


def test_what_a_picture_does_not_need_is_not_sent():
  centroids = quantizers.make('ecvq(stages=3,size=16,book=random)')
  quantizer = quantizers.Adaptive(7, 0.01, centroids=centroids)
  params = quantizer.init_params(KEY, 64, 16)
  fields = quantizer.fields(64, 16)
  assert fields['centroids/x'].rows == 'assignments'
  priors = jax.device_get(quantizer.priors(params))
  session = wire.Session(fields, priors)
  sizes = []
  for count in (2, 4, 7):
    message = jax.device_get(quantizer.quantize(params, _blobs(count)[0], KEY))
    assert message['assignments'].max() == count - 1
    data = session.pack(message)
    got = session.unpack(data)
    assert all(np.array_equal(got[name], message[name]) for name in message)
    sizes.append(session.sizes(data)['centroids/x'])
  assert sizes[2] >= 3 * sizes[0]
  assert sizes == sorted(sizes)
