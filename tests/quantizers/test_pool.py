import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ('k', 'grid'),
  [(1, (1, 1)), (8, (2, 4)), (9, (3, 3)), (64, (8, 8)), (7, (1, 7))],
)
def test_means_of_cells(k, grid):
  assert quantizers.AvgPool(k).grid() == grid
  x = np.random.default_rng(0).normal(size=(256, 5)).astype(np.float32)
  quantizer = quantizers.AvgPool(k, centroids=quantizers.Identity('float32'))
  message = quantizer.quantize({}, jnp.asarray(x), KEY)
  got = quantizer.dequantize({}, message).x
  image = x.reshape(16, 16, 5)
  want = np.zeros_like(image)
  means = []
  edges = [[-(-i * 16 // parts) for i in range(parts + 1)] for parts in grid]
  for top, bottom in zip(edges[0][:-1], edges[0][1:], strict=True):
    for left, right in zip(edges[1][:-1], edges[1][1:], strict=True):
      mean = image[top:bottom, left:right].mean(axis=(0, 1))
      want[top:bottom, left:right] = mean
      means.append(mean)
  np.testing.assert_allclose(message['centroids/x'], means, atol=1e-6)
  np.testing.assert_allclose(got, want.reshape(256, 5), atol=1e-6)


def test_cells_differ_by_at_most_one_row():
  for k in range(1, 17):
    cell = quantizers.AvgPool(k)._cell().reshape(16, 16)
    assert set(cell.ravel()) == set(range(k))
    widths = np.unique(cell[0], return_counts=True)[1]
    assert widths.max() - widths.min() <= 1


def test_refusals():
  with pytest.raises(ValueError, match=r'k: got 17, .* are 16 and 18'):
    quantizers.AvgPool(17)
  with pytest.raises(ValueError, match='square'):
    quantizers.AvgPool(4, n=200)
  with pytest.raises(ValueError, match='k <= 256'):
    quantizers.AvgPool(512)
  with pytest.raises(
    ValueError, match=r'n: got 64 .* 256; use AvgPool\(k=4, n=64\)'
  ):
    quantizers.AvgPool(4).quantize({}, jnp.zeros((64, 2)), KEY)
