"""Books: files of trained parameters, and the quantizers that read them."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab_jax import checkpoints, codecs, data, quantizers
from collab_jax.quantizers import pretrained

KEY = jax.random.key(0)


def _save(path, width=4, **arrays):
  arrays = arrays or {'mean': np.arange(width, dtype=np.float32)}
  return pretrained.save(
    path,
    arrays,
    kind='linear',
    width=width,
    features=pretrained.FeatureSource('abc', 'encoder'),
    notes={'data': 'none'},
  )


def test_a_book_is_read_as_it_was_written(tmp_path):
  path = tmp_path / 'a' / 'b.safetensors'
  saved = _save(path)
  read = pretrained.load(str(path), 'linear', 4)
  assert read == saved
  assert (read.model, read.split) == ('abc', 'encoder')
  assert read.notes == {'data': 'none'}
  np.testing.assert_array_equal(read.arrays['mean'], np.arange(4))
  with pytest.raises(ValueError, match='read-only'):
    read.arrays['mean'][0] = 1
  # Written anew, it is read anew.
  other = _save(path, mean=np.zeros(4, np.float32))
  assert pretrained.load(str(path)).fingerprint == other.fingerprint
  assert other.fingerprint != saved.fingerprint


def test_what_is_wrong_with_a_book_is_said(tmp_path):
  path = tmp_path / 'b.safetensors'
  _save(path)
  whole = path.read_bytes()
  name = str(path)
  with pytest.raises(
    pretrained.QuantizerParamsError,
    match=r'book: got .* for linear, expected one for codebook',
  ):
    pretrained.load(name, 'codebook')
  with pytest.raises(
    pretrained.QuantizerParamsError, match='of width 4, expected width 5; train'
  ):
    pretrained.load(name, 'linear', 5)
  with pytest.raises(
    pretrained.QuantizerParamsError, match=r"'mean' of shape \(4,\), expected"
  ):
    pretrained.array(pretrained.load(name), 'mean', (None, 3))
  with pytest.raises(
    pretrained.QuantizerParamsError, match="did you mean 'tiny/centroids'"
  ):
    pretrained.load('tiny/centroid')
  with pytest.raises(
    pretrained.QuantizerParamsError,
    match=r"book: got '.*none.safetensors', expected one of",
  ):
    pretrained.load(str(tmp_path / 'none.safetensors'))
  for damaged in (whole[:-3], whole[:20], b'', whole[:-1] + b'\x7f'):
    path.write_bytes(damaged)
    with pytest.raises(pretrained.QuantizerParamsError, match='damaged'):
      pretrained.load(name)
  text = whole.replace(b'collab_jax book 1', b'collab_jax book 9')
  path.write_bytes(text)
  with pytest.raises(
    pretrained.QuantizerParamsError, match="book 9', expected"
  ):
    pretrained.load(name)
  with pytest.raises(
    pretrained.QuantizerParamsError, match=r'ends in \.safetensors'
  ):
    _save(tmp_path / 'b.npz')


def test_every_prefix_of_a_book_is_refused(tmp_path):
  path = tmp_path / 'b.safetensors'
  _save(path)
  whole = path.read_bytes()
  for size in range(0, len(whole), 7):
    path.write_bytes(whole[:size])
    with pytest.raises(pretrained.QuantizerParamsError, match='damaged'):
      pretrained.load(str(path))


def test_a_book_is_for_one_models_features(tmp_path):
  path = tmp_path / 'b.safetensors'
  book = _save(path)
  quantizer = quantizers.KMeans(4, centroids=quantizers.PCA(2, book=str(path)))
  assert pretrained.names_of(quantizer) == [str(path)]
  right = pretrained.FeatureSource('abc', 'encoder')
  assert pretrained.check_features(quantizer, right) == {
    str(path): book.fingerprint
  }
  with pytest.raises(
    pretrained.QuantizerParamsError, match='of model abc, these are of model'
  ):
    pretrained.check_features(
      quantizer, pretrained.FeatureSource('abd', 'encoder')
    )
  with pytest.raises(
    pretrained.QuantizerParamsError, match='split encoder, these are of split'
  ):
    pretrained.check_features(
      quantizer, pretrained.FeatureSource('abc', 'head')
    )


def test_equal_books_are_equal_files(tmp_path):
  notes = {name: name for name in 'abcdefgh'}
  arrays = {name: np.arange(3.0) for name in 'zyx'}
  made = set()
  for i in range(6):
    path = tmp_path / f'{i}.safetensors'
    pretrained.save(path, arrays, kind='linear', width=3, notes=notes)
    made.add(path.read_bytes())
  assert len(made) == 1


@pytest.mark.parametrize('field', ['codes', 'counts'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 1e300, True])
def test_numbers_of_a_book_have_sense(tmp_path, field, value):
  arrays = {'codes': np.zeros((1, 4, 4)), 'counts': np.ones((1, 4))}
  arrays[field] = np.full_like(arrays[field], value, type(value))
  path = str(tmp_path / 'b.safetensors')
  pretrained.save(path, arrays, kind='codebook', width=4)
  with pytest.raises(
    pretrained.QuantizerParamsError, match=f'{field!r} .*finite numbers'
  ):
    quantizers.SharedVQ(4, path).init_params(KEY, 8, 4)


def test_counts_are_not_negative(tmp_path):
  path = str(tmp_path / 'b.safetensors')
  arrays = {'codes': np.zeros((1, 2, 4)), 'counts': np.array([[3, -1]])}
  pretrained.save(path, arrays, kind='codebook', width=4)
  with pytest.raises(pretrained.QuantizerParamsError, match='counts below 0'):
    quantizers.SharedVQ(2, path).init_params(KEY, 8, 4)


@pytest.mark.parametrize('book', [3, '', None, b'tiny/ecvq'])
def test_a_book_is_named_by_a_text(unchecked, book):
  fields = {
    cls: {field.name for field in dataclasses.fields(cls)}
    for cls in quantizers.NAMES.values()
  }
  reads = [cls for cls, names in fields.items() if 'book' in names]
  assert len(reads) == 10
  for cls in reads:
    needed = {'k': 1} if 'k' in fields[cls] else {}
    with pytest.raises(
      pretrained.QuantizerParamsError,
      match=r'book: got .*, expected the name or path',
    ):
      cls(book=book, **needed)


def test_a_book_that_is_not_read_does_not_count():
  for name in ('scalar', 'kmeans(k=4,centroids=scalar(bits=4))'):
    assert pretrained.names_of(quantizers.make(name)) == []
    assert (
      pretrained.check_features(
        quantizers.make(name), pretrained.FeatureSource('x', 'head')
      )
      == {}
    )
  read = quantizers.make('kmeans(k=4,centroids=scalar(scales=book))')
  assert pretrained.names_of(read) == ['tiny/centroids']


def test_without_the_names_of_books():
  made = quantizers.make(
    'merge(k=3,centroids=pca(dims=2,vectors=ecsq(step=2.0,book=b),book=a))'
  )
  assert quantizers.name(pretrained.with_default_books(made)) == (
    'merge(k=3,centroids=pca(dims=2,vectors=ecsq(step=2.0)))'
  )
  assert quantizers.name(made).count('book=') == 2
  plain = quantizers.KMeans(4, centroids=quantizers.Scalar(3))
  assert pretrained.with_default_books(plain) == plain


def test_widths_that_do_not_fit_are_refused():
  for name in ('pca', 'residual_vq', 'shared_vq', 'product_vq'):
    with pytest.raises(
      pretrained.QuantizerParamsError, match='of width 128, expected width 64'
    ):
      quantizers.make(name).init_params(KEY, 8, 64)
  with pytest.raises(pretrained.QuantizerParamsError, match=r'put pca\(dims'):
    quantizers.ECSQ().init_params(KEY, 8, 200)
  with pytest.raises(
    pretrained.QuantizerParamsError, match=r'expected .* x 512 x 128'
  ):
    quantizers.ResidualVQ(size=512).init_params(KEY, 8, 128)
  with pytest.raises(
    pretrained.QuantizerParamsError,
    match=r'book: got .* 4 codebooks, expected 5',
  ):
    quantizers.ResidualVQ(stages=5).init_params(KEY, 8, 128)
  with pytest.raises(
    pretrained.QuantizerParamsError,
    match=r'groups: got .*, expected a divisor of the width',
  ):
    quantizers.ProductVQ(groups=3).fields(8, 128)


def test_shipped_books_are_small():
  names = pretrained.shipped()
  assert {'tiny/centroids', 'tiny/residual', 'tiny/shared'} <= set(names)
  sizes = [pretrained.path_of(name).stat().st_size for name in names]
  assert sum(sizes) < 1_500_000


@pytest.fixture(scope='module')
def features():
  """Features of a few test scenes, which no book was trained on."""
  scenes = data.scenes('test', 12)
  images = np.stack([scenes[i].image for i in range(12)])
  codec = codecs.FeatureCodec(checkpoints.load('tiny'), 'identity')
  return codec.features(images).astype(jnp.float32)


@pytest.fixture(scope='module')
def means(features):
  """The centroids of six clusters of each scene."""
  quantizer = quantizers.Agglomerative(6)
  cluster = jax.jit(jax.vmap(quantizer.cluster, in_axes=(0, None)))
  return cluster(features, KEY)[1].reshape(72, 128)


def _message(quantizer, x):
  params = quantizer.init_params(KEY, *x.shape)
  return params, jax.jit(quantizer.quantize)(params, x, KEY)


def test_each_stage_comes_closer(means):
  quantizer = quantizers.ResidualVQ()
  params, message = _message(quantizer, means)
  fields = quantizer.fields(72, 128)
  errors = []
  for layer in range(4):
    part = {k: v for k, v in message.items() if fields[k].layer <= layer}
    assert len(part) == layer + 1
    rebuilt = quantizer.dequantize(params, part).x
    errors.append(float(np.mean((rebuilt - means) ** 2)))
  for coarse, fine in itertools.pairwise(errors):
    assert fine < 0.97 * coarse
  assert errors[-1] < 0.5 * errors[0]
  del part['stage1']
  with pytest.raises(ValueError, match='without a gap'):
    quantizer.dequantize(params, part)


@pytest.mark.parametrize(
  ('name', 'share'),
  [
    ('pca(dims=48,vectors=ecsq(step=1.0))', 0.3),
    ('pca(dims=32,vectors=scalar(bits=4,scales=book))', 0.9),
    # Made to use all of their symbols alike.
    ('pca(dims=16,vectors=fsq(levels=5))', 1.0),
    ('residual_vq(stages=2)', 1.0),
    ('pca(dims=128,vectors=ecvq)', 0.95),
    ('product_vq', 1.0),
    ('shared_vq', 1.0),
  ],
)
def test_priors_save_bytes_on_scenes_not_seen(features, means, name, share):
  quantizer = quantizers.make(name)
  # The shared codebook is one of all vectors, the others are of centroids.
  x = features.reshape(-1, 128) if name == 'shared_vq' else means
  params, message = _message(quantizer, x)
  fields = quantizer.fields(*x.shape)
  priors = quantizer.priors(params)
  assert priors.keys() == fields.keys()
  length = fixed = 0.0
  for field, rows in priors.items():
    rows, symbols = np.asarray(rows), np.asarray(message[field])
    assert rows.dtype.kind == 'i'
    assert rows.min() >= 1
    assert rows.sum(axis=1).max() <= 2**16
    assert rows.shape[1] == fields[field].alphabet
    assert len(rows) in (1, fields[field].shape[-1])
    chances = rows / rows.sum(axis=1, keepdims=True)
    which = np.arange(len(rows)) if len(rows) > 1 else 0
    length -= np.log2(chances[which, symbols]).sum()
    fixed += symbols.size * np.log2(rows.shape[1])
  assert length < share * fixed


def test_shared_codes_are_the_nearest(features):
  quantizer = quantizers.SharedVQ()
  params = quantizer.init_params(KEY, 256, 128)
  message = quantizer.quantize(params, features[0], KEY)
  codes = np.asarray(params['codes'][0], np.float64)
  gaps = ((np.asarray(features[0])[:, None] - codes) ** 2).sum(axis=2)
  chosen = gaps[np.arange(256), message['x']]
  np.testing.assert_allclose(chosen, gaps.min(axis=1), rtol=1e-4)


def test_product_codes_are_those_of_the_pieces():
  x = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
  quantizer = quantizers.ProductVQ(2, 5, 'random')
  params = quantizer.init_params(KEY, 9, 6)
  message = quantizer.quantize(params, jnp.asarray(x), KEY)
  codes = np.asarray(params['codes'])
  for group in range(2):
    piece = x[:, 3 * group : 3 * group + 3]
    gaps = ((piece[:, None] - codes[group]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(message['x'][:, group], gaps.argmin(axis=1))
