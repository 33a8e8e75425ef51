"""Centroids as mixtures, and means of places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import quantizers
from collab_jax.quantizers import base, pretrained
from collab_jax.quantizers.clusters import agglomerative, low_rank
from collab_jax.quantizers.math import jacobi


def _data(n=16, d=6, seed=0):
  return jax.random.normal(jax.random.key(seed), (n, d)) + 3.0


@pytest.mark.parametrize('k', [1, 3, 5])
def test_factors_are_the_best_of_their_rank(k):
  means = np.asarray(_data(5))
  weights = np.array([1.0, 2.0, 0.5, 1.5, 3.0], np.float32)
  mix, basis = low_rank.factors(means, weights, k)
  assert mix.shape == (5, k)
  assert basis.shape == (k, 6)
  np.testing.assert_allclose(np.abs(mix).max(axis=0), 1, rtol=1e-6)
  left = np.linalg.norm(weights[:, None] * (means - mix @ basis))
  # Eckart and Young: the singular values that are left out.
  values = np.linalg.svd(weights[:, None] * means, compute_uv=False)
  np.testing.assert_allclose(
    left, np.linalg.norm(values[k:]), rtol=1e-3, atol=1e-4
  )


@pytest.mark.parametrize('rank', [0, 1, 2, 5])
def test_factors_of_a_lower_rank_are_those_of_numpy(rank):
  generator = np.random.default_rng(rank)
  means = generator.normal(size=(9, rank)) @ generator.normal(size=(rank, 16))
  means = means.astype(np.float32)
  mix, basis = low_rank.factors(means, np.ones(9, np.float32), 8)
  np.testing.assert_allclose(mix @ basis, means, atol=1e-5)
  assert np.abs(basis).any(axis=1).sum() == rank
  assert np.abs(mix).any(axis=0).sum() == rank


def test_more_vectors_than_numbers_are_no_noise():
  x = _data(16, 3)
  quantizer = quantizers.LowRank(8, reach=2**15)
  message = quantizer.quantize({}, x, jax.random.key(0))
  want = np.asarray(
    agglomerative.Agglomerative(9).cluster(x, jax.random.key(0))[1]
  )
  got = quantizer.dequantize({}, message).x
  members = agglomerative.merge(x, 9)
  np.testing.assert_allclose(got, want[members], atol=5e-3)  # In 16 bits.


@pytest.mark.parametrize('m', [1, 2, 7, 12])
def test_eigenvectors_are_those_of_numpy(m):
  root = np.random.default_rng(m).normal(size=(m, m))
  matrix = (root @ root.T / np.trace(root @ root.T)).astype(np.float32)
  _, vectors = np.linalg.eigh(matrix)
  k = (m + 1) // 2
  got = np.asarray(jacobi.largest(jnp.asarray(matrix), k))
  # Up to their signs.
  same = np.abs(np.sum(got * vectors[:, ::-1][:, :k], axis=0))
  np.testing.assert_allclose(same, 1, atol=1e-4)


def test_at_full_rank_it_is_merging():
  x = _data()
  quantizer = quantizers.LowRank(4, more=0, reach=2**15)
  message = quantizer.quantize({}, x, jax.random.key(0))
  other = quantizers.Agglomerative(4).quantize({}, x, jax.random.key(0))
  np.testing.assert_array_equal(message['assignments'], other['assignments'])
  got = quantizer.dequantize({}, message).x
  expected = quantizers.Agglomerative(4).dequantize({}, other).x
  # Both round to 16 bits, the one mixtures' parts and the other their sum.
  np.testing.assert_allclose(got, expected, atol=0.02)


def test_rank_saves_vectors_where_clusters_lie_in_a_plane():
  generator = np.random.default_rng(0)
  plane = generator.normal(size=(2, 6))
  spots = generator.normal(size=(4, 2)) @ plane
  x = jnp.asarray(np.repeat(spots, 4, axis=0), jnp.float32)
  quantizer = quantizers.LowRank(2, more=2, reach=2**12)
  assert quantizer.sent(16) == 2
  message = quantizer.quantize({}, x, jax.random.key(0))
  np.testing.assert_allclose(quantizer.dequantize({}, message).x, x, atol=5e-3)
  message = quantizers.Agglomerative(2).quantize({}, x, jax.random.key(0))
  other = quantizers.Agglomerative(2).dequantize({}, message).x
  assert np.abs(other - x).max() > 0.5


def test_a_lost_vector_is_left_out_of_all_mixtures():
  quantizer = quantizers.LowRank(2, more=1)
  message = quantizer.quantize({}, _data(), jax.random.key(0))
  assert quantizer.row_fields(16, 6) == ('basis/x',)
  kept = quantizer.conceal(message, jnp.array([True, False]), ('basis/x',))
  mix = (np.asarray(kept['mix']) - quantizer.reach) / quantizer.reach
  assert not mix[:, 1].any()
  got = quantizer.dequantize({}, kept).x
  first = np.asarray(message['basis/x'][0], np.float32)
  expected = mix[:, :1] * first
  np.testing.assert_allclose(
    got, expected[np.asarray(message['assignments'])], rtol=1e-5
  )


@pytest.fixture(scope='module')
def book(tmp_path_factory):
  mean = np.arange(96, dtype=np.float16).reshape(16, 6)
  path = tmp_path_factory.mktemp('places') / 'places.safetensors'
  pretrained.save(path, {'mean': mean}, kind='places', width=6)
  return str(path), mean.astype(np.float32)


@pytest.mark.parametrize('rebuild', ['close', 'keep', 'zero'])
def test_every_place_gets_its_own_mean_back(book, rebuild):
  path, mean = book
  inner = quantizers.Random(3, rebuild, vectors=quantizers.Identity('float32'))
  quantizer = quantizers.PositionMean(inner, path)
  params = quantizer.init_params(jax.random.key(0), 16, 6)
  x = _data() + mean
  message = quantizer.quantize(params, x, jax.random.key(1))
  tokens = quantizer.dequantize(params, message)
  at = np.flatnonzero(np.asarray(message['vectors/mask']))
  if rebuild == 'zero':
    expected = mean.copy()
    expected[at] = x[at]
  else:
    expected = x[at]
  np.testing.assert_allclose(tokens.x, expected, rtol=1e-5)


def test_clusters_are_not_drawn_apart_by_places(book):
  path, mean = book
  spots = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
  owner = np.arange(16) % 2
  x = jnp.asarray(spots[owner] + mean)
  quantizer = quantizers.PositionMean(quantizers.Agglomerative(2), path)
  params = quantizer.init_params(jax.random.key(0), 16, 6)
  message = quantizer.quantize(params, x, jax.random.key(0))
  np.testing.assert_array_equal(message['vectors/assignments'], owner)
  # Rounded to 16 bits are the differences, not the large means.
  np.testing.assert_allclose(
    quantizer.dequantize(params, message).x, x, atol=3e-3
  )
  apart = agglomerative.merge(x, 2)
  assert not np.array_equal(apart, owner)


def test_a_book_of_another_grid_is_refused(book):
  with pytest.raises(
    pretrained.QuantizerParamsError, match='one mean for each place'
  ):
    quantizers.PositionMean(book=book[0]).init_params(jax.random.key(0), 9, 6)


def test_books_within_are_for_other_coordinates(book):
  text = f'centred(book={book[0]},vectors=pca(dims=4))'
  with pytest.raises(
    pretrained.QuantizerParamsError, match='these are coordinates of'
  ):
    pretrained.check_coordinates(quantizers.make(text))


def test_rows_of_what_is_within(book):
  quantizer = quantizers.PositionMean(quantizers.Agglomerative(3), book[0])
  rows = quantizer.row_fields(16, 6)
  assert rows == ('vectors/centroids/x',)
  params = quantizer.init_params(jax.random.key(0), 16, 6)
  message = quantizer.quantize(params, _data(), jax.random.key(0))
  received = jnp.array([True, False, True])
  got = quantizer.conceal(message, received, rows)
  expected = quantizers.Agglomerative(3).conceal(
    base.unprefix('vectors', message),
    received,
    ('centroids/x',),
  )
  assert got.keys() == message.keys()
  np.testing.assert_array_equal(
    got['vectors/assignments'], expected['assignments']
  )
