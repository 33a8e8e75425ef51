import numpy as np
import pytest

from collab_jax import metrics


def test_rate_is_the_bytes():
  assert metrics.bits(b'') == 0
  assert metrics.bits(bytes(100)) == 800
  assert metrics.bpp(bytes(512), 64, 64) == 1.0
  with pytest.raises(ValueError, match='0 x 64'):
    metrics.bpp(b'1', 0, 64)


def test_mse_is_per_number_and_never_broadcasts():
  x = np.zeros((4, 2), np.float32)
  assert metrics.mse(x, x) == 0.0
  assert metrics.mse(x, x + np.float32(0.5)) == 0.25
  with pytest.raises(ValueError, match='equal'):
    metrics.mse(x, x[:1])
