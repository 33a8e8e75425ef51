"""Properties of the quantizers of numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers
from collab_jax.quantizers.vectors import symbol_tables

KEY = jax.random.key(0)


def _through(quantizer, x, params=None):
  if params is None:
    params = quantizer.init_params(KEY, *x.shape)
  message = quantizer.quantize(params, x, KEY)
  return message, np.asarray(quantizer.dequantize(params, message).x)


@pytest.fixture(scope='module')
def normal():
  return np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


def test_scalar_rounds_to_half_a_level(normal):
  for scales, axis in (('vector', 1), ('dimension', 0)):
    for bits in (2, 8):
      message, rebuilt = _through(quantizers.Scalar(bits, scales), normal)
      step = np.expand_dims(message['step'].astype(np.float32), axis)
      assert message['x'].max() == 2**bits - 1
      assert np.all(np.abs(rebuilt - normal) <= step * 0.501)
      reach = np.ptp(normal, axis=axis, keepdims=True)
      # Up to bfloat16's rounding away from the data, of both ends.
      assert np.all(step * (2**bits - 1) <= reach * 1.03 + 0.03)


def test_scalar_with_a_books_levels_sends_no_scales(normal):
  quantizer = quantizers.Scalar(6, 'book', book='random')
  message, rebuilt = _through(quantizer, normal)
  assert message.keys() == {'x'}
  inside = np.abs(normal) < 2.6
  step = 2 * 2.67 / 63
  assert np.all(np.abs(rebuilt - normal)[inside] < step * 0.51)


def _code_length(quantizer, params, message):
  rows = np.asarray(quantizer.priors(params)['x'])
  assert rows.min() >= 1
  assert rows.sum(axis=1).max() <= 2**16
  symbols = np.asarray(message['x'])
  share = rows[np.arange(len(rows)), symbols] / rows.sum(axis=1)
  return -np.log2(share).sum() / symbols.size


@pytest.mark.parametrize('step', [0.25, 1.0, 2.0])
def test_ecsq_without_weight_is_near_the_entropy_of_a_normal_number(
  normal, step
):
  quantizer = quantizers.ECSQ(step, weight=0, book='random')
  params = quantizer.init_params(KEY, *normal.shape)
  message, rebuilt = _through(quantizer, normal, params)
  length = _code_length(quantizer, params, message)
  # The entropy of a normal number rounded to the step, from its integral.
  edges = (np.arange(-60, 61) - 0.5) * step
  mass = np.diff(jax.scipy.stats.norm.cdf(edges))
  entropy = -np.sum(mass * np.log2(np.maximum(mass, 1e-12)))
  assert length == pytest.approx(entropy, abs=0.12)
  # A symbol's own mean is never worse than its middle.
  error = np.mean((rebuilt - normal) ** 2)
  assert error <= np.mean((np.round(normal / step) * step - normal) ** 2) * 1.05


def test_ecsq_weight_pays_error_for_bits(normal):
  found = []
  for weight in (0, 0.1, 0.3):
    quantizer = quantizers.ECSQ(1.0, weight, book='random')
    params = quantizer.init_params(KEY, *normal.shape)
    message, rebuilt = _through(quantizer, normal, params)
    length = _code_length(quantizer, params, message)
    found.append((length, np.mean((rebuilt - normal) ** 2)))
  lengths, errors = zip(*found, strict=True)
  assert lengths[0] > lengths[1] > lengths[2]
  assert errors[0] < errors[1] < errors[2]


def test_fsq_of_the_paper():
  # What section 3.1's bound makes of these: round(2 tanh z) for five levels.
  z = np.array([[-9, -0.5, 0, 0.2, 0.3, 9]], np.float32).T
  quantizer = quantizers.FSQ(5, book='random')
  params = dict(quantizer.init_params(KEY, 6, 1))
  params['mean'], params['scale'] = jnp.zeros(1), jnp.ones(1)
  message, _ = _through(quantizer, z, params)
  np.testing.assert_array_equal(message['x'][:, 0], [0, 1, 2, 2, 3, 4])
  # Even numbers of levels: zero stays the level in the middle, L // 2.
  for levels in (2, 4, 8):
    even = quantizers.FSQ(levels, book='random')
    params = dict(even.init_params(KEY, 3, 1)) | {
      'mean': jnp.zeros(1),
      'scale': jnp.ones(1),
    }
    z = np.array([[-9, 0, 9]], np.float32).T
    message, _ = _through(even, z, params)
    want = [0, levels // 2, levels - 1]
    np.testing.assert_array_equal(message['x'][:, 0], want)


def test_fsq_levels_of_each_number(normal):
  quantizer = quantizers.FSQ('8x5x5x3x2x2', book='random')
  message, _ = _through(quantizer, normal)
  top = np.asarray(message['x']).max(axis=0) + 1
  np.testing.assert_array_equal(top, [8, 5, 5, 3, 2, 2])
  with pytest.raises(ValueError, match=r'pca\(dims=2\)'):
    quantizers.FSQ('8x5').fields(3, 6)
  for levels in ('8x', '1', 'a', -3):
    with pytest.raises(
      ValueError, match=r'levels: got .*, expected numbers from 2 to'
    ):
      quantizers.FSQ(levels)


def test_pca_keeps_what_lies_on_its_axes(normal):
  quantizer = quantizers.PCA(
    3, vectors=quantizers.Identity('float32'), book='random'
  )
  params = quantizer.init_params(KEY, *normal.shape)
  _, rebuilt = _through(quantizer, normal, params)
  axes = np.asarray(params['forward'])
  np.testing.assert_allclose(rebuilt, normal @ axes @ axes.T, atol=1e-5)
  with pytest.raises(ValueError, match='choose dims <= 6'):
    quantizers.PCA(7, book='random').fields(4, 6)


@pytest.mark.parametrize(
  ('kw', 'match'),
  [
    ({'name': 'scalar', 'bits': 1}, 'bits: got 1, expected an integer from 2'),
    ({'name': 'scalar', 'scales': 'row'}, "scales: got 'row', expected one of"),
    ({'name': 'ecsq', 'step': 0}, 'step: got .*a number from 1e-06'),
    ({'name': 'ecsq', 'reach': 0}, 'reach: got 0, expected an integer'),
    ({'name': 'pca', 'dims': 0}, 'dims: got 0, expected an integer'),
  ],
)
def test_refuses(kw, match):
  with pytest.raises(ValueError, match=match):
    quantizers.make(**kw)


def test_frequencies_are_positive_integers_of_one_sum():
  counts = np.array([[0, 0, 1000, 3, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 10**6]])
  rows = symbol_tables.normalized(counts)
  assert rows.dtype == np.int32
  assert rows.min() >= 1
  np.testing.assert_array_equal(rows.sum(axis=1), symbol_tables.TOTAL)
  # What lies beside something that came is likelier than what lies far off.
  assert rows[0, 1] > rows[0, 0]
  np.testing.assert_allclose(rows[1] / symbol_tables.TOTAL, 0.2, rtol=1e-3)
