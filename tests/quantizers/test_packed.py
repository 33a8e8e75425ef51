"""Several centroids in each vector that is sent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers

KEY = jax.random.key(0)


def _data(n=16, d=6):
  return jax.random.normal(KEY, (n, d))


@pytest.mark.parametrize('rebuild', ['grid', 'keep', 'close'])
def test_it_is_merging_to_more_clusters_in_fewer_coordinates(rebuild):
  packed = quantizers.Packed(2, 3, smooth=1, rebuild=rebuild, book='random')
  apart = quantizers.make(
    f'merge(k=6,smooth=1,rebuild={rebuild},centroids=pca(dims=2,book=random))'
  )
  x = _data()
  one = packed.init_params(KEY, 16, 6)
  other = {'centroids': one}
  want = apart.dequantize(other, apart.quantize(other, x, KEY))
  got = packed.dequantize(one, packed.quantize(one, x, KEY))
  np.testing.assert_array_equal(got.x, want.x)
  np.testing.assert_array_equal(got.valid, want.valid)
  np.testing.assert_array_equal(got.positions, want.positions)


def test_its_message_has_the_size_of_k_vectors():
  packed = quantizers.Packed(3, 4, book='random')
  assert packed.sent(16) == 3
  assert packed.fields(16, 10)['packed'].shape == (3, 8)  # 4 * (10 // 4)
  vectors = quantizers.Agglomerative(3).fields(16, 8)['centroids/x']
  assert packed.fields(16, 8)['packed'] == vectors


def test_the_shipped_axes_lose_little():
  # Vectors of the shipped model: as their book says, in 128 dimensions.
  packed = quantizers.Packed(2)
  params = packed.init_params(KEY, 256, 128)
  axes = np.asarray(params['forward']) @ np.asarray(params['inverse'])
  np.testing.assert_allclose(axes @ axes, axes, atol=2e-3)  # In 16 bits.
  assert np.linalg.matrix_rank(axes, tol=0.1) == 64


def test_clusters_of_a_lost_vector_go_to_the_nearest_that_arrived():
  packed = quantizers.Packed(2, 2, book='random')
  assert packed.row_fields(4, 4) == ('packed',)
  message = {
    'assignments': jnp.array([0, 1, 2, 3]),
    'packed': jnp.zeros((2, 4), jnp.float16),
  }
  kept = packed.conceal(message, jnp.array([True, False]), ('packed',))
  # The second row had clusters 1 and 3: of a grid of 2 x 2, the right column.
  np.testing.assert_array_equal(kept['assignments'], [0, 0, 2, 2])


@pytest.mark.parametrize(
  ('fields', 'n', 'd', 'error'),
  [
    ({'k': 9}, 16, 6, r'k = 9 .* got 18 clusters of n = 16 .* choose k <= 8'),
    ({'k': 1, 'parts': 7}, 16, 6, 'got 7 centroids .* d = 6 .* parts <= 6'),
    ({'k': 0}, 16, 6, 'k'),
    ({'k': 2, 'parts': 0}, 16, 6, 'parts'),
    ({'k': 2, 'weight': 2}, 16, 6, 'weight'),
    ({'k': 2, 'rebuild': 'no'}, 16, 6, 'rebuild'),
  ],
)
def test_bad_settings_are_refused(fields, n, d, error):
  with pytest.raises(ValueError, match=error):
    quantizers.Packed(**fields, book='random').fields(n, d)
