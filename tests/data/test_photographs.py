"""Photographs that ship with the package."""

import pathlib

import pytest

from collab_jax import data


def test_photographs_are_small_and_captioned():
  reader = data.photos()
  assert reader.name == 'photos/test'
  assert len(reader) == 7
  examples = list(reader)
  assert [e.image_id for e in examples] == [*range(7)]
  captions = [caption for e in examples for caption in e.captions]
  assert len(captions) == len(set(captions)) == 35
  assert {e.image.shape for e in examples} == {(224, 224, 3)}
  folder = reader.listing.parent
  assert sum(path.stat().st_size for path in folder.iterdir()) < 500_000
  licences = (folder / 'README.md').read_text()
  for path in folder.glob('*.jpg'):
    assert f'`{path.name}`' in licences


def test_photographs_are_made_by_name():
  reader = data.make('photos', limit=3, size=64, method='bv_bilinear')
  assert reader == data.photos(3, 64, 'bv_bilinear')
  assert reader[2].image.shape == (64, 64, 3)
  with pytest.raises(
    ValueError, match="split: got 'val', expected one of test"
  ):
    data.make('photos', pathlib.Path(), 'val')
