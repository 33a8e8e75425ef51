import pathlib
import re
import runpy

import jax
import numpy as np
import pytest
from sklearn import cluster, decomposition

import collab_jax
from collab_jax import data, quantizers
from collab_jax.quantizers import pretrained
from collab_jax.quantizers.vectors import ecvq
from collab_jax.training import codebooks
from collab_jax.training.codebooks import (
  joint_rvq,
  minibatch_kmeans,
  validate,
)

_CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'codebook.py'
KEY = jax.random.key(0)


def _config(mode='smoke'):
  return runpy.run_path(str(_CONFIG))['get_config'](f'mode={mode}')


def test_principal_axes_agree_with_scikit_learn():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)) + 7
  found = codebooks.principal_axes(x)
  want = decomposition.PCA().fit(x)
  unit = np.sqrt(want.explained_variance_ @ np.ones(5) / 5 * 299 / 300)
  np.testing.assert_allclose(found.mean, want.mean_)
  same = np.abs(np.sum(found.forward * unit * want.components_.T, axis=0))
  np.testing.assert_allclose(same, 1)
  np.testing.assert_allclose(
    found.variances * unit**2, want.explained_variance_ * 299 / 300
  )


def test_axes_of_a_metric_have_no_correlation_and_keep_its_errors():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4))
  root = rng.normal(size=(4, 4))
  metric = root @ root.T
  found = codebooks.principal_axes(x, metric)
  z = (x - found.mean) @ found.forward
  np.testing.assert_allclose(
    np.cov(z.T, bias=True), np.diag(found.variances), atol=1e-9
  )
  assert found.variances.mean() == pytest.approx(1)
  np.testing.assert_allclose(z @ found.inverse + found.mean, x)
  # An error's length in z is its cost in the metric, up to one factor.
  errors = rng.normal(size=(20, 4))
  cost = np.einsum('ni,ij,nj->n', errors, metric, errors)
  ratio = np.sum((errors @ found.forward) ** 2, axis=1) / cost
  np.testing.assert_allclose(ratio, ratio[0])


def test_kmeans_is_as_good_as_scikit_learns():
  rng = np.random.default_rng(2)
  centres = rng.normal(size=(12, 6)) * 4
  x = centres[rng.integers(12, size=3000)] + rng.normal(size=(3000, 6))
  x = x.astype(np.float32)
  found = minibatch_kmeans.kmeans(
    lambda rows: x[rows], len(x), 12, KEY, steps=10, batch=700, passes=8
  )
  want = cluster.KMeans(12, n_init=5, random_state=0).fit(x)
  assert found.error <= 1.02 * want.inertia_ / len(x)
  gaps = ((x[:, None] - found.codes) ** 2).sum(axis=2)
  assert found.error == pytest.approx(gaps.min(axis=1).mean(), rel=1e-3)
  np.testing.assert_array_equal(
    found.counts, np.bincount(gaps.argmin(axis=1), minlength=12)
  )
  again = minibatch_kmeans.kmeans(
    lambda rows: x[rows], len(x), 12, KEY, steps=10, batch=700, passes=8
  )
  np.testing.assert_array_equal(found.codes, again.codes)


def test_stages_move_to_where_they_serve_together():
  rng = np.random.default_rng(3)
  grid = np.array([[a + 10 * b, a - b] for a in range(4) for b in range(4)])
  x = grid[rng.integers(16, size=800)] + rng.normal(0, 0.1, (800, 2))
  x = x.astype(np.float32)
  codes = rng.normal(0, 3, (2, 4, 2))
  counts = np.full((2, 4), 200)

  def refine(passes, weight=0.0, beam=4):
    return joint_rvq.refine(
      lambda rows: x[rows],
      len(x),
      codes,
      counts,
      weight=weight,
      beam=beam,
      passes=passes,
      batch=300,
    )

  one, many = refine(1), refine(12)
  assert many.error < 0.5 * one.error
  assert many.counts.sum(axis=1).tolist() == [800, 800]
  # One pass is the least squares of what the codes before were chosen for.
  start = codes.astype(np.float16).astype(np.float32)
  chosen = np.asarray(ecvq.search(x, start, np.zeros((2, 4), 'float32'), 4))
  hot = np.concatenate([np.eye(4)[chosen[:, s]] for s in range(2)], axis=1)
  held = np.concatenate([hot, np.eye(8)]), np.concatenate([x, *start])
  want = np.linalg.lstsq(*held, rcond=None)[0].reshape(2, 4, 2)
  np.testing.assert_allclose(one.codes, want, rtol=2e-3, atol=2e-3)
  cheap = refine(12, weight=4.0)
  assert cheap.bits < many.bits
  assert cheap.error > many.error


def test_dead_codes_come_alive():
  # Two places drawn first: only the far vectors can give the others.
  x = np.zeros((64, 2), np.float32)
  x[:4] = [[9, 0], [0, 9], [-9, 0], [0, -9]]
  found = minibatch_kmeans.kmeans(
    lambda rows: x[rows], 64, 5, KEY, steps=0, batch=16, passes=6
  )
  assert sorted(found.counts) == [1, 1, 1, 1, 60]
  assert found.error == 0


def test_more_codes_than_vectors_are_refused():
  with pytest.raises(ValueError, match='got 3 vectors for 5 codes'):
    minibatch_kmeans.kmeans(lambda rows: np.zeros((3, 2)), 3, 5, KEY)


@pytest.fixture(scope='module')
def model():
  return collab_jax.load('tiny')


@pytest.mark.parametrize(
  'kind', ['linear', 'residual', 'product', 'shared', 'places']
)
def test_trains_a_book_that_its_quantizer_reads(tmp_path, model, kind):
  config = _config()
  config.kind = kind
  config.joint = 2 if kind == 'residual' else 0
  if kind != 'linear':
    config.metric = 'plain'
  if kind == 'places':
    with pytest.raises(ValueError, match='needs all vectors'):
      validate.check(config, model)
    config.sent = validate.ALL
  reader = data.scenes(config.data_split, config.limit)
  book = codebooks.train(config, model, reader, tmp_path)
  name = str(tmp_path / 'book.safetensors')
  inner = {
    'linear': f'pca(dims=8,vectors=ecsq(book={name}),book={name})',
    'residual': f'ecvq(stages=2,size=4,book={name})',
    'product': f'product_vq(groups=2,size=4,book={name})',
    'shared': f'shared_vq(size=4,book={name})',
    'places': f'centred(vectors=pool(k=4),book={name})',
  }[kind]
  quantizer = quantizers.make(inner)
  edge = collab_jax.FeatureCodec(model, quantizer)
  images = np.stack([reader[i].image for i in range(2)])
  tokens, _ = edge.rebuild(edge.encode(images, KEY))
  error = np.mean((tokens.x - edge.features(images)) ** 2)
  # Better than the mean of all vectors.
  assert error < np.var(np.asarray(edge.features(images)), axis=(0, 1)).mean()
  assert pretrained.load(name).fingerprint == book.fingerprint
  assert book.notes['data'] == 'scenes/train, 4 pictures'
  assert (book.notes['model'], book.notes['kind']) == ('tiny', kind)
  told = {'ridge', 'prompt', 'text_length', 'size', 'stages', 'groups', 'joint'}
  assert {n: v for n, v in book.notes.items() if n in told} == {
    'linear': {'ridge': '0.3', 'prompt': 'caption en', 'text_length': '40'},
    'residual': {'size': '4', 'stages': '2', 'joint': '2'},
    'product': {'size': '4', 'groups': '2'},
    'shared': {'size': '4'},
    'places': {},
  }[kind]
  with pytest.raises(pretrained.QuantizerParamsError, match='split encoder'):
    collab_jax.FeatureCodec(model, quantizer, split='head')


def test_places_are_means_over_pictures():
  x = np.random.default_rng(4).normal(size=(3, 4, 2)).astype(np.float32)
  found = codebooks.fit_position_mean(x.reshape(12, 2), 3)
  np.testing.assert_allclose(found, x.mean(axis=0), atol=1e-3)  # In 16 bits.


def test_a_codebook_of_transformed_vectors(tmp_path, model):
  config = _config()
  config.kind, config.metric = 'shared', 'plain'
  config.transform = 'pca(dims=5,book=random)'
  reader = data.scenes(config.data_split, config.limit)
  book = codebooks.train(config, model, reader, tmp_path)
  assert (book.width, book.arrays['codes'].shape) == (5, (1, 4, 5))
  assert book.transform == 'random/5'
  codes = f'shared_vq(size=4,book={tmp_path / "book.safetensors"})'
  right = f'pca(dims=5,book=random,vectors={codes})'
  assert collab_jax.FeatureCodec(model, right).sent == 256
  wrong = f'pca(dims=5,vectors={codes})'
  with pytest.raises(
    pretrained.QuantizerParamsError, match=r'for coordinates of .* random/5'
  ):
    collab_jax.FeatureCodec(model, wrong)


def test_the_heads_metric_is_its_kernel(model):
  config = _config()
  config.metric = 'head'
  found = codebooks.make_metric(model, config, None)
  kernel = np.asarray(model.params['img']['head']['kernel'], np.float64)
  np.testing.assert_allclose(found, kernel @ kernel.T, rtol=0.02, atol=0.02)


def test_every_field_is_read():
  root = _CONFIG.parents[1] / 'collab_jax'
  source = ''.join(
    path.read_text()
    for folder in ('studies', 'training')
    for path in (root / folder).rglob('*.py')
  )
  read = set(re.findall(r'(?:config|fields)\.(\w+)', source))
  assert set(_config()) - read == set()


@pytest.mark.parametrize(
  ('field', 'value', 'match'),
  [
    ('kind', 'tree', 'kind: got'),
    ('metric', 'l1', 'metric: got'),
    ('split', 'middle', 'split: got'),
    ('sent', (), 'sent: got none'),
    ('batch_size', 0, 'batch_size: got .*expected'),
    ('ridge', -1.0, 'ridge: got .*expected'),
    ('stages', 0, 'stages: got .*expected'),
    ('size', 1, 'size: got .*expected'),
    ('rows', 0, 'rows: got .*expected'),
    ('steps', -1, 'steps: got .*expected'),
    ('passes', -1, 'passes: got .*expected'),
    ('joint', -1, 'joint: got .*expected'),
    ('beam', 0, 'beam.*expected an integer from 1 to 64'),
    ('weight', -5.0, 'weight: got .*a number from 0'),
    ('size', 2**13, 'joint: got 2 stages of 8192 codes'),
    ('kind', 'product', "joint: got 2 with kind 'product', expected 0"),
    ('kind', 'linear', "joint: got 2 with kind 'linear', expected 0"),
    ('transform', 'shared_vq', 'transform: got'),
    ('transform', 'pca(dims=4,vectors=ecsq)', 'with nothing within'),
    ('transform', 'pca(dims=999,book=random)', 'choose dims <= 128'),
    ('sent', ('merge(k=4)',), 'float32'),
    ('sent', ('shared_vq(book=random)',), 'float32'),
  ],
)
def test_refuses(tmp_path, model, field, value, match):
  config = _config()
  config.kind, config.joint, config.metric = 'residual', 2, 'plain'
  config[field] = value
  with pytest.raises(ValueError, match=match):
    codebooks.train(config, model, data.scenes('train', 2), tmp_path)
  # Before anything was collected.
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'split': 'head', 'kind': 'residual'}, 'encoder, these are of split head'),
    ({'kind': 'linear'}, "kind 'linear', which is a transform itself"),
    (
      {'kind': 'product', 'groups': 3},
      'groups: got 3, expected a divisor of the width',
    ),
  ],
)
def test_refuses_a_transform_for_something_else(
  tmp_path, model, changes, match
):
  config = _config()
  config.transform = 'pca(dims=4)'
  config.update(changes)
  with pytest.raises(ValueError, match=match):
    codebooks.train(config, model, data.scenes('train', 2), tmp_path)
  assert not list(tmp_path.iterdir())
