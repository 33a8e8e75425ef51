"""Books are read in the coordinates that they were trained in."""

import json
import pathlib

import numpy as np
import pytest
from safetensors import numpy as files

from collab_jax import checkpoints, codecs, quantizers
from collab_jax.quantizers import pretrained


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """Books of width 8: a transform, another one, codes of the first's axes."""
  folder = tmp_path_factory.mktemp('own')
  names = {n: str(folder / f'{n}.safetensors') for n in ('one', 'two', 'codes')}
  for seed, name in enumerate(('one', 'two')):
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))[0]
    arrays = {
      'mean': np.zeros(8, np.float32),
      'forward': axes.astype(np.float32),
      'inverse': axes.T.astype(np.float32),
      'quantiles': np.sort(axes, axis=1).astype(np.float32),
    }
    pretrained.save(names[name], arrays, kind='linear', width=8)
  arrays = {
    'codes': np.zeros((1, 4, 4), np.float16),
    'counts': np.ones((1, 4), np.int32),
  }
  pretrained.save(
    names['codes'],
    arrays,
    kind='codebook',
    width=4,
    transform=quantizers.PCA(4, book=names['one']).coordinates(),
    notes={'transform': 'pca(dims=4,book=one)'},
  )
  return names


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('pca(dims=4,book={one},vectors=shared_vq(size=4,book={codes}))', ''),
    ('pca(dims=4,book={one},vectors=kmeans(k=2,centroids={vq}))', ''),
    ('pca(dims=3,book={one},vectors=ecsq(book={one}))', ''),
    ('pca(dims=3,book={one},vectors=pool(k=4,centroids=fsq(book={one})))', ''),
    ('pca(dims=4,book={two},vectors={vq})', 'are coordinates of the transform'),
    ('pca(dims=4,book=random,vectors={vq})', 'of the transform random/4'),
    ('kmeans(k=2,centroids={vq})', r'as they are; put it within pca\(dims=4'),
    ('pca(dims=3,book={two},vectors=ecsq(book={one}))', 'put it within pca'),
    ('scalar(scales=book,book={one})', 'these are vectors as they are'),
    ('fsq(book={one})', 'these are vectors as they are'),
    ('pca(dims=4,book={one},vectors=pca(dims=2,book={two}))', 'take it out'),
    ('merge(k=5,centroids=ecvq)', r'put it within pca\(dims=128\)'),
    ('merge(k=5,centroids=pca(dims=128,vectors=residual_vq))', 'take it out'),
    ('merge(k=5,centroids=pca(dims=128,vectors=ecvq(weight=0.3)))', ''),
  ],
)
def test_books_are_for_the_coordinates_they_are_read_in(own, text, said):
  text = text.replace('{vq}', 'shared_vq(size=4,book={codes})').format(**own)
  quantizer = quantizers.make(text)
  if not said:
    found = pretrained.check_coordinates(quantizer)
    assert found == {
      n: pretrained.load(n).fingerprint for n in pretrained.names_of(quantizer)
    }
    return
  for refuses in (
    pretrained.check_coordinates,
    lambda q: pretrained.check_features(q, pretrained.FeatureSource('', '')),
  ):
    with pytest.raises(pretrained.QuantizerParamsError, match=said):
      refuses(quantizer)


def test_a_server_without_an_encoder_checks_coordinates():
  server = checkpoints.load('tiny', part='server')
  assert len(server.params.get('img', {})) <= 1
  with pytest.raises(
    pretrained.QuantizerParamsError, match='these are vectors as they are'
  ):
    codecs.FeatureCodec(server, 'merge(k=5,centroids=ecvq)')


def test_of_a_book_of_before_only_the_notes_tell_of_a_transform(own):
  path = pathlib.Path(own['codes'])
  whole = path.read_bytes()
  told = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], 'little')])
  arrays = pretrained.load(own['codes']).arrays
  del told['__metadata__']['transform']
  path = path.with_name('before.safetensors')
  path.write_bytes(files.save(dict(arrays), told['__metadata__']))
  codes = quantizers.SharedVQ(4, str(path))
  # Of which transform nobody knows; of none is wrong.
  pretrained.check_coordinates(quantizers.PCA(4, codes, own['two']))
  with pytest.raises(
    pretrained.QuantizerParamsError, match=r'within pca\(dims=4,book=one\)'
  ):
    pretrained.check_coordinates(codes)
