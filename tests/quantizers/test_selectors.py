"""Properties of each way to choose vectors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collab_jax as cj
from collab_jax import quantizers
from collab_jax.quantizers.clusters import bisecting
from collab_jax.quantizers.math import lloyd, saliency

KEY = jax.random.key(0)
# Three groups of directions, two of which differ in length only.
SPOTS = np.array([[4.0, 0, 0], [0, 3, 0], [0, 0, 5]])


def _grouped(n=18, noise=0.05, seed=0):
  generator = np.random.default_rng(seed)
  owner = generator.permutation(np.arange(n) % 3)
  x = SPOTS[owner] + noise * generator.normal(size=(n, 3))
  return x.astype(np.float32), owner


def _same(found, owner):
  """Whether two partitions are the same, whatever their numbers."""
  pairs = set(zip(np.asarray(found).tolist(), owner.tolist(), strict=True))
  return len(pairs) == len(set(owner.tolist())) == len({a for a, _ in pairs})


@pytest.mark.parametrize(
  'name',
  [
    'spherical',
    'medoids',
    'dpc_knn(neighbours=3)',
    'attended(saliency=contrast,dominant=0)',
    'bisecting',
    'salient(power=1)',
    'spatial(weight=0)',
  ],
)
def test_groups_that_are_far_apart_are_found(name):
  x, owner = _grouped(25)
  head, _, rest = name.partition('(')
  quantizer = quantizers.make(f'{head}(k=3,{rest}' if rest else f'{head}(k=3)')
  message = quantizer.quantize({}, jnp.asarray(x), KEY)
  got = quantizer.dequantize({}, message).x
  _, found = np.unique(np.asarray(got).round(3), axis=0, return_inverse=True)
  assert _same(found.ravel(), owner)
  # Means, or members; both lie within the noise, and the 16 bits.
  np.testing.assert_allclose(got, SPOTS[owner], atol=0.25)


def test_length_says_nothing_about_direction():
  x, owner = _grouped(noise=0.02)
  lengths = np.linspace(0.2, 5, len(x))[:, None].astype(np.float32)
  quantizer = quantizers.make('spherical(k=3)')
  found = quantizer.quantize({}, jnp.asarray(x * lengths), KEY)['assignments']
  assert _same(found, owner)


def test_medoids_are_members_and_nearly_the_best():
  x = np.random.default_rng(1).normal(size=(9, 2)).astype(np.float32)
  quantizer = quantizers.Medoids(3, centroids=quantizers.Identity('float32'))
  message = quantizer.quantize({}, jnp.asarray(x), KEY)
  got = np.asarray(quantizer.dequantize({}, message).x)
  assert {tuple(row) for row in got} <= {tuple(row) for row in x}
  gaps = np.linalg.norm(x[:, None] - x, axis=2)
  best = min(
    gaps[list(chosen)].min(axis=0).sum()
    for chosen in itertools.combinations(range(9), 3)
  )
  assert np.linalg.norm(x - got, axis=1).sum() <= 1.25 * best


def test_diverse_vectors_are_those_of_a_plain_loop():
  x = np.random.default_rng(2).normal(size=(12, 4)).astype(np.float32)
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  gaps = 1 - unit @ unit.T
  chosen = [int(np.argmax((gaps + 9 * np.eye(12)).min(axis=0)))]
  while len(chosen) < 4:
    nearest = gaps[chosen].min(axis=0)
    nearest[chosen] = -1
    chosen.append(int(np.argmax(nearest)))
  got = quantizers.DivPrune(4).select(jnp.asarray(x), KEY)
  np.testing.assert_array_equal(got, chosen)


def test_the_first_layers_are_coarser_clusters():
  x, _ = _grouped(25, noise=1.0)
  quantizer = quantizers.Bisecting(4, centroids=quantizers.Identity('float32'))
  message = quantizer.quantize({}, jnp.asarray(x), KEY)
  fields = quantizer.fields(25, 3)
  history = bisecting.split(jnp.asarray(x), 4, quantizer.iters)
  for layers, count in ((1, 1), (2, 2), (3, 4)):
    some = {n: v for n, v in message.items() if fields[n].layer < layers}
    got = quantizer.dequantize({}, some).x
    members = np.asarray(history[count - 1])
    means = lloyd.means(jnp.asarray(x), members, count)
    # Means that are not sent follow from sums, in float32.
    np.testing.assert_allclose(got, np.asarray(means)[members], atol=1e-4)
  errors = [
    float(((x - lloyd.means(jnp.asarray(x), m, 4)[m]) ** 2).sum())
    for m in history
  ]
  assert errors == sorted(errors, reverse=True)


def test_names_stay_through_many_layers():
  x = np.random.default_rng(5).normal(size=(64, 3)).astype(np.float32)
  quantizer = quantizers.Bisecting(32, centroids=quantizers.Identity('float32'))
  message = quantizer.quantize({}, jnp.asarray(x), KEY)
  for layer, new in enumerate((0, 1, 2, 4, 8, 16)):
    moves = np.asarray(message[f'moves{layer}'])
    assert moves.min() == 0
    assert moves.max() == new
  members = np.asarray(bisecting.split(jnp.asarray(x), 32, 10)[-1])
  got = np.asarray(quantizer.dequantize({}, message).x)
  means = np.asarray(lloyd.means(jnp.asarray(x), members, 32))
  np.testing.assert_allclose(got, means[members], atol=1e-3)


def test_what_is_salient_pulls_the_mean():
  x = jnp.asarray([[0.0], [1.0], [0.0], [9.0]])
  values = saliency.of('contrast', x)
  assert values.argmax() == 3
  assert float(values.mean()) == pytest.approx(1, abs=1e-5)
  quantizer = quantizers.WeightedKMeans(
    1, centroids=quantizers.Identity('float32')
  )
  got = float(quantizer.dequantize({}, quantizer.quantize({}, x, KEY)).x[0, 0])
  weights = np.asarray(values) ** 2
  assert got == pytest.approx(
    float(weights @ x[:, 0] / weights.sum()), rel=1e-4
  )
  assert got > float(x.mean())


def test_places_make_clusters_hold_together():
  x = np.random.default_rng(4).normal(size=(36, 2)).astype(np.float32)

  def borders(weight):
    found = quantizers.Spatial(4, weight).quantize({}, jnp.asarray(x), KEY)
    grid = np.asarray(found['assignments']).reshape(6, 6)
    return (grid[1:] != grid[:-1]).sum() + (grid[:, 1:] != grid[:, :-1]).sum()

  assert borders(20.0) < borders(0.0) / 2


@pytest.mark.parametrize('rebuild', ['keep', 'close'])
def test_centroids_alone_go_on(rebuild):
  x, owner = _grouped(25)
  quantizer = quantizers.Agglomerative(3, rebuild=rebuild)
  message = quantizer.quantize({}, jnp.asarray(x), KEY)
  tokens = quantizer.dequantize({}, message)
  assert tokens.x.shape == (3, 3)
  assert bool(tokens.valid.all())
  origins = np.asarray(quantizer.origins(message))
  # What stands for a cluster is of it, and has its own place or its rank.
  np.testing.assert_allclose(tokens.x, SPOTS[owner[origins]], atol=0.25)
  places = origins if rebuild == 'keep' else np.arange(3)
  np.testing.assert_array_equal(tokens.positions, places)
  assert int(tokens.end) == (25 if rebuild == 'keep' else 3)
  whole = quantizers.Agglomerative(3).quantize({}, jnp.asarray(x), KEY)
  for name, value in whole.items():  # The edge does not care.
    np.testing.assert_array_equal(value, message[name])


@pytest.fixture(scope='module')
def model():
  return cj.load('tiny')


def test_the_encoder_tells_what_it_attends_to(model):
  images = np.stack([s.image for s in cj.data.scenes('val', 2)])
  pixels = images / 127.5 - 1
  features, received = model.encode_image(pixels, attention=True)
  # Its last block stands apart, so products are added in another order.
  np.testing.assert_allclose(features, model.encode_image(pixels), atol=2e-5)
  assert received.shape == (2, 256)
  np.testing.assert_allclose(received.sum(axis=1), 1, rtol=1e-5)
  other = model.transposed().encode_image(pixels, attention=True)[1]
  np.testing.assert_allclose(received, other, atol=1e-6)
  # A codec hands it to its quantizer, within others too.
  for name in ('attended(k=2)', 'centred(vectors=attended(k=2))'):
    codec = cj.FeatureCodec(model, quantizers.make(name))
    packets = codec.encode(images, KEY)
    seen, extra = codec.observe(images)
    np.testing.assert_allclose(extra['attention'], received, atol=1e-6)
    message = codec.quantize(seen, KEY, None, extra)
    assert codec.pack(message) == packets
    assert codec.encode_features(codec.features(images), KEY) != packets
  top = np.asarray(received.argmax(axis=1))
  codec = cj.FeatureCodec(model, quantizers.make('attended(k=2)'))
  tokens, _ = codec.rebuild(codec.encode(images, KEY))
  for row, at in enumerate(top):  # The dominant vector is sent as it is.
    np.testing.assert_allclose(
      tokens.x[row, at], features[row, at], rtol=1e-3, atol=1e-3
    )
  plain = cj.FeatureCodec(model, quantizers.Agglomerative(2))
  whole = plain.features(images)
  assert plain.observe(images, whole) == (whole, {})


def test_a_reduced_picture_is_encoded(model):
  side = model.config.vision.image_size
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (2, side, side, 3), np.uint8)
  whole = side // model.config.vision.patch_size
  same = quantizers.LowResolution(
    whole**2, whole**2, quantizers.Identity('float32')
  )
  codec = cj.FeatureCodec(model, same)
  features = codec.features(images)
  got = codec.rebuild(codec.encode(images, KEY))[0]
  np.testing.assert_allclose(got.x, features, atol=2e-5)
  few = quantizers.LowResolution(4, whole**2, quantizers.Identity('float32'))
  codec = cj.FeatureCodec(model, few)
  _, extra = codec.observe(images)
  assert extra['reduced'].shape == (2, 4, features.shape[-1])
  # A flat picture is flat at any size: only the positions differ.
  got = codec.rebuild(codec.encode(images, KEY))[0]
  grid = np.asarray(got.x).reshape(2, 2, whole // 2, 2, whole // 2, -1)
  for row, column in ((0, 0), (1, 1)):
    cell = grid[:, row, :, column].reshape(2, -1, features.shape[-1])
    want = extra['reduced'][:, 2 * row + column]
    np.testing.assert_allclose(cell, want[:, None] + 0 * cell, atol=1e-6)
  with pytest.raises(ValueError, match='nearest are 4 and 9'):
    quantizers.LowResolution(8)
  wrong = quantizers.make('centred(vectors=resized(k=4),book=random)')
  with pytest.raises(ValueError, match='those of another picture'):
    cj.FeatureCodec(model, wrong).encode(images, KEY)


@pytest.mark.parametrize(
  'text',
  [
    'pool(k=16)',
    'resized(k=16)',
    'resized(k=256)',
    'merge(k=256)',
    'pool(k=1)',
  ],
)
def test_what_is_lost_with_a_packet_is_known_where_not_every_k_can_be(text):
  found = quantizers.make(text).row_fields(256, 4)
  assert found == ('centroids/x',)
