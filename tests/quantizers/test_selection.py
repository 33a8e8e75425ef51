import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers

KEY = jax.random.key(3)
N, D, K, SIDE = 25, 3, 6, 5


def _rebuild(quantizer, x):
  message = quantizer.quantize({}, x, KEY)
  return message, quantizer.dequantize({}, message)


@pytest.fixture(scope='module')
def x():
  # Halves, which float16 sends exactly.
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.integers(-50, 50, (N, D)) / 2, jnp.float32)


@pytest.mark.parametrize('rebuild', ['close', 'keep', 'zero', 'nearest'])
@pytest.mark.parametrize('name', ['random', 'top_norm', 'farthest_point'])
def test_rebuild(name, rebuild, x):
  quantizer = quantizers.make(name, k=K, rebuild=rebuild)
  message, tokens = _rebuild(quantizer, x)
  at = np.flatnonzero(message['mask'])
  assert len(at) == K
  x = np.asarray(x)
  np.testing.assert_array_equal(message['vectors/x'], x[at])
  if rebuild == 'close':
    want, positions, end = x[at], np.arange(K), K
  elif rebuild == 'keep':
    want, positions, end = x[at], at, N
  else:
    want, positions, end = np.zeros_like(x), np.arange(N), N
    for i in range(N):
      if rebuild == 'zero':
        want[i] = x[i] if i in at else 0
      else:
        here = np.array(divmod(i, SIDE))
        gaps = [((here - divmod(int(j), SIDE)) ** 2).sum() for j in at]
        want[i] = x[at[np.argmin(gaps)]]
  np.testing.assert_array_equal(tokens.x, want)
  np.testing.assert_array_equal(tokens.positions, positions)
  assert tokens.end == end
  assert tokens.valid.all()


def test_nearest_needs_a_square_grid():
  quantizer = quantizers.Random(2, rebuild='nearest')
  with pytest.raises(ValueError, match='square'):
    quantizer.fields(24, 3)
  assert quantizers.Random(2).fields(24, 3)


def test_a_damaged_mask_gives_tokens(x):
  for rebuild in ('close', 'keep', 'zero', 'nearest'):
    quantizer = quantizers.Random(K, rebuild=rebuild)
    message = quantizer.quantize({}, x, KEY)
    for mask in (np.zeros(N, np.int32), np.ones(N, np.int32)):
      tokens = quantizer.dequantize({}, {**message, 'mask': jnp.asarray(mask)})
      assert np.isfinite(tokens.x).all()
      assert ((tokens.positions >= 0) & (tokens.positions < N)).all()


def test_random_is_even_and_nested():
  x = jnp.zeros((16, 1))
  keys = jax.random.split(jax.random.key(0), 2000)
  masks = {}
  for k in (3, 4):
    quantizer = quantizers.Random(k)
    message = jax.vmap(quantizer.quantize, in_axes=(None, None, 0))({}, x, keys)
    masks[k] = np.asarray(message['mask'])
    share = masks[k].mean(axis=0)
    sigma = np.sqrt(k / 16 * (1 - k / 16) / len(keys))
    assert np.abs(share - k / 16).max() < 4.5 * sigma
  assert (masks[3] <= masks[4]).all()


def test_top_norm(x):
  quantizer = quantizers.TopNorm(K)
  for scale in (1, 1e-30, 1e30):
    mask = quantizer.quantize({}, x * scale, KEY)['mask']
    norms = np.linalg.norm(np.asarray(x, np.float64), axis=1)
    want = np.argsort(-norms, kind='stable')[:K]
    np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(want))
  mask = quantizer.quantize({}, jnp.ones((N, D)), KEY)['mask']
  np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(K))


@pytest.mark.parametrize('shift', [0, 100])
def test_farthest_point(shift):
  for seed in range(20):
    x = np.random.default_rng(seed).normal(size=(49, 8)) + shift
    x = x.astype(np.float32).astype(np.float64)
    chosen = [int(np.argmax(((x - x.mean(0)) ** 2).sum(1)))]
    while len(chosen) < 10:
      gaps = ((x[:, None] - x[chosen]) ** 2).sum(2).min(1)
      chosen.append(int(np.argmax(gaps)))
    got = quantizers.FarthestPoint(10).select(jnp.asarray(x, jnp.float32), KEY)
    np.testing.assert_array_equal(got, chosen)
