"""JAX with 64 bits: what is computed stays in 32."""

import jax
import numpy as np
import pytest

from collab_jax import quantizers


@pytest.mark.parametrize(
  'text',
  [
    'kmeans(k=3,init=++)',
    'merge(k=3,iters=2,smooth=0.5)',
    'low_rank(k=2)',
    'spherical(k=3)',
  ],
)
def test_double_precision_changes_nothing_but_what_is_drawn(text):
  quantizer = quantizers.make(text)
  x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)

  def sent():
    key = jax.random.key(0)
    message = quantizer.quantize(quantizer.init_params(key, 16, 4), x, key)
    return {name: np.asarray(value) for name, value in message.items()}

  with jax.enable_x64(True):
    found = sent()
  expected = sent()
  for name, value in expected.items():
    assert found[name].dtype == value.dtype
    if not quantizer.uses_key:
      np.testing.assert_array_equal(found[name], value)
