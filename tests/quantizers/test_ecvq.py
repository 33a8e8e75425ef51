"""Residual codes for an entropy coder: the search, and what it weighs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers
from collab_jax.quantizers.vectors import ecvq

KEY = jax.random.key(3)
N, D, SIZE = 40, 6, 5


@pytest.fixture(scope='module')
def x():
  return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32) * 2


@pytest.fixture(scope='module')
def params():
  found = quantizers.ECVQ(3, SIZE, book='random').init_params(KEY, N, D)
  rng = np.random.default_rng(1)
  return {**found, 'bits': jnp.asarray(rng.uniform(1, 6, (3, SIZE)), 'float32')}


def _totals(x, params, symbols):
  """Squared distances, and bits, of each vector."""
  codes, bits = (np.asarray(params[k], np.float64) for k in ('codes', 'bits'))
  stages = np.arange(symbols.shape[-1])
  rebuilt = codes[stages, symbols].sum(axis=-2)
  return ((x - rebuilt) ** 2).sum(axis=-1), bits[stages, symbols].sum(axis=-1)


def test_a_wide_search_finds_the_least_of_all(x, params):
  every = np.array([*itertools.product(range(SIZE), repeat=3)])
  errors, bits = _totals(x[:, None], params, every[None])
  best = (errors + 0.7 * bits).min(axis=1)
  prices = 0.7 * params['bits']
  found = ecvq.search(x, params['codes'], prices, SIZE**2)
  errors, bits = _totals(x, params, np.asarray(found))
  np.testing.assert_allclose(errors + 0.7 * bits, best, rtol=1e-5)
  costs = []
  for beam in (1, 4, SIZE**2):
    found = ecvq.search(x, params['codes'], prices, beam)
    errors, bits = _totals(x, params, np.asarray(found))
    costs.append((errors + 0.7 * bits).mean())
  assert costs[0] > costs[1] >= costs[2]


def test_without_weight_and_beam_it_is_a_residual_vq(x):
  own = quantizers.ECVQ(3, SIZE, 0, 1, 'random')
  plain = quantizers.ResidualVQ(3, SIZE, 'random')
  found, want = (
    q.quantize(q.init_params(KEY, N, D), jnp.asarray(x), KEY)
    for q in (own, plain)
  )
  for stage in range(3):
    np.testing.assert_array_equal(found['x'][:, stage], want[f'stage{stage}'])
  rebuilt = [
    q.dequantize(q.init_params(KEY, N, D), m).x
    for q, m in ((own, found), (plain, want))
  ]
  np.testing.assert_allclose(*rebuilt, rtol=1e-5, atol=1e-5)
  # One layer, so one check in a message.
  assert {f.layer for f in own.fields(N, D).values()} == {0}


def test_weight_pays_error_for_bits(x, params):
  lines = []
  for weight in (0, 0.5, 5):
    message = quantizers.ECVQ(3, SIZE, weight, book='random').quantize(
      params, jnp.asarray(x), KEY
    )
    errors, bits = _totals(x, params, np.asarray(message['x']))
    lines.append((errors.mean(), bits.mean()))
  errors, bits = zip(*lines, strict=True)
  assert errors[0] < errors[1] < errors[2]
  assert bits[0] > bits[1] > bits[2]


def test_many_pictures_take_the_memory_of_one():
  quantizer = quantizers.ECVQ(2, 64, beam=16, book='random')
  params = quantizer.init_params(KEY, N, D)
  run = jax.jit(jax.vmap(quantizer.quantize, in_axes=(None, 0, None)))
  taken = []
  for images in (1, 16):
    compiled = run.lower(params, np.zeros((images, N, D), 'float32'), KEY)
    taken.append(compiled.compile().memory_analysis().temp_size_in_bytes)
  # Those of all sums of all pictures would be sixteen times as much.
  assert taken[1] < 3 * taken[0]
  with pytest.raises(ValueError, match=r'beam: got .*an integer from 1 to 64'):
    quantizers.ECVQ(beam=65)


def test_many_pictures_are_quantized_as_one_by_one(x, params):
  quantizer = quantizers.ECVQ(3, SIZE, book='random')
  images = jnp.asarray(x.reshape(4, N // 4, D))
  many = jax.vmap(quantizer.quantize, in_axes=(None, 0, None))
  found = many(params, images, KEY)['x']
  for image, got in zip(images, found, strict=True):
    want = quantizer.quantize(params, image, KEY)['x']
    np.testing.assert_array_equal(got, want)


def test_all_ways_to_search_share_a_receiver():
  text = 'merge(k=4,smooth={},centroids=pca(dims=8,vectors=ecvq(weight={})))'
  made = [quantizers.make(text.format(*w)) for w in ((0, 0.1), (2, 0.3))]
  assert made[0].receiver == made[1].receiver
  wide = quantizers.make('merge(k=4,centroids=pca(dims=9,vectors=ecvq))')
  assert wide.receiver != made[0].receiver
