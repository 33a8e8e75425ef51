"""Directories of TensorFlow Datasets; the last tests need the extra `tfds`."""

import importlib.util
import io
import json
import sys
import types

import numpy as np
import pytest

from collab_jax import data
from collab_jax.data import (
  pictures,
  tfds_reader,
)
from tests.data import photos

real = pytest.mark.skipif(
  importlib.util.find_spec('tensorflow_datasets') is None,
  reason="needs the extra 'tfds'",
)


class Builder:
  """Stand-in for a dataset builder, with the used methods only."""

  def __init__(self, rows, features):
    self.rows = rows
    self.info = types.SimpleNamespace(
      name='pets',
      features=dict.fromkeys(features),
      splits={'val': None, 'test': None},
      file_format=types.SimpleNamespace(value='tfrecord'),
    )

  def as_data_source(self, split, decoders):
    if self.rows is None:
      raise NotImplementedError
    assert decoders == {'image': 'skip'}
    return self.rows


@pytest.fixture
def library(monkeypatch, tmp_path):
  """Stands in for tensorflow_datasets; returns what sets the dataset."""
  (tmp_path / 'dataset_info.json').touch()
  module = types.ModuleType('tensorflow_datasets')
  module.decode = types.SimpleNamespace(SkipDecoding=lambda: 'skip')
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)

  def use(rows, *features):
    builder = Builder(rows, features)
    module.builder_from_directory = lambda directory: builder

  return use


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('captions', {'text': np.array([b'A dog.', b'A  cat.']), 'id': [1, 2]}),
    ('captions', [{'text': b'A dog.'}, {'text': b'A cat.'}]),
    ('captions', [b'A dog.', ' ', 'A cat.\n']),
    ('sentences', {'raw': ['A dog.', 'A cat.']}),
  ],
)
def test_captions_as_they_may_be_stored(library, tmp_path, name, value):
  rows = [{'image': photos.jpeg(i), name: value} for i in range(3)]
  library(rows, 'image', name)
  reader = data.tfds(tmp_path, 'val', limit=2, size=14)
  assert (reader.name, len(reader)) == ('pets/val', 2)
  assert reader[1].captions == ('A dog.', 'A cat.')
  assert reader[-1].image_id == 1
  expected = pictures.resize(pictures.decode(photos.jpeg(1)), 14)
  np.testing.assert_array_equal(reader[1].image, expected)
  with pytest.raises(IndexError, match='2 pictures, got 2'):
    reader[2]


def test_ids_and_file_names(library, tmp_path):
  row = {
    'image': photos.jpeg()[:-200],
    'image/id': np.int64(77),
    'image/filename': b'77.jpg',
    'caption': b'',
  }
  library([row], *row)
  reader = data.tfds(tmp_path, 'test[:1]')
  with pytest.raises(data.PictureError, match=r'0 of pets/test.*\(77\.jpg\)'):
    reader.check(0)
  with pytest.raises(ValueError, match=r'77\.jpg.* has no caption'):
    reader[0]
  row |= {'image': photos.jpeg(), 'caption': b'A dog.'}
  reader.check(0)
  assert reader[0].image_id == 77


def test_unfit_datasets(library, tmp_path):
  library([], 'image', 'label')
  with pytest.raises(ValueError, match=r'features image, label, expected'):
    data.tfds(tmp_path, 'val')
  library([], 'image', 'captions')
  with pytest.raises(ValueError, match=r"got 'vol'.*did you mean 'val'"):
    data.tfds(tmp_path, 'vol')
  library(None, 'image', 'captions')
  with pytest.raises(ValueError, match=r'stored as tfrecord, expected array_r'):
    data.tfds(tmp_path, 'val')


def test_the_directory_is_found_from_above(tmp_path):
  with pytest.raises(FileNotFoundError, match='no dataset prepared by TFDS'):
    data.tfds(tmp_path)
  folder = tmp_path / 'pets' / '1.0.0'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').touch()
  assert tfds_reader._directory(tmp_path) == folder
  assert tfds_reader._directory(folder) == folder
  other = tmp_path / 'pets' / '2.0.0'
  other.mkdir()
  (other / 'dataset_info.json').touch()
  with pytest.raises(ValueError, match=r'2 prepared datasets.*pets/2\.0\.0'):
    data.tfds(tmp_path)


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
  (tmp_path / 'dataset_info.json').touch()
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(ModuleNotFoundError, match=r'collab_jax\[tfds\]'):
    data.tfds(tmp_path)


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  """A dataset with the features of coco_captions, really prepared."""
  import tensorflow_datasets as library

  class Pets(library.core.GeneratorBasedBuilder):
    VERSION = library.core.Version('1.0.0')

    def _info(self):
      return library.core.DatasetInfo(
        builder=self,
        features=library.features.FeaturesDict(
          {
            'image': library.features.Image(encoding_format='jpeg'),
            'image/id': np.int64,
            'image/filename': library.features.Text(),
            'captions': library.features.Sequence(
              {'id': np.int64, 'text': library.features.Text()}
            ),
          }
        ),
      )

    def _split_generators(self, dl_manager):
      return {'val': self._generate_examples()}

    def _generate_examples(self):
      for i in range(5):
        yield (
          i,
          {
            'image': io.BytesIO(photos.jpeg(i)[: 300 if i == 3 else None]),
            'image/id': 100 + i,
            'image/filename': f'{i}.jpg',
            'captions': [{'id': 0, 'text': 'A dog.'}, {'id': 1, 'text': 'é'}],
          },
        )

  folder = tmp_path_factory.mktemp('tfds')
  builder = Pets(data_dir=str(folder), file_format='array_record')
  builder.download_and_prepare()
  return folder


@real
def test_a_prepared_dataset(directory):
  reader = data.tfds(directory, 'val', size=14)
  assert (reader.name, len(reader)) == ('pets/val', 5)
  assert 'tensorflow' not in sys.modules
  sound, broken = data.readable(reader)
  assert len(broken) == 1
  assert '(3.jpg)' in broken[0]
  examples = {e.image_id: e for e in data.prefetch(sound)}
  assert sorted(examples) == [100, 101, 102, 104]
  assert examples[102].captions == ('A dog.', 'é')
  expected = pictures.resize(pictures.decode(photos.jpeg(2)), 14)
  np.testing.assert_array_equal(examples[102].image, expected)
  assert len(data.tfds(directory, 'val[:40%]')) == 2


@real
def test_the_scenes_prepared(tmp_path):
  import tensorflow_datasets as library

  from collab_jax.data import builder

  maker = builder.CollabScenes(
    data_dir=str(tmp_path), file_format='array_record', limit=4
  )
  maker.download_and_prepare()
  source = library.data_source(
    'collab_scenes', split='test', data_dir=str(tmp_path)
  )
  scenes = {e.image_id: e for e in data.scenes('test', limit=4)}
  assert {int(row['image/id']) for row in source} == {*scenes}
  reader = data.tfds(tmp_path, 'dense', size=64)
  assert (reader.name, len(reader)) == ('collab_scenes/dense', 4)
  for row in source:
    scene = scenes[int(row['image/id'])]
    np.testing.assert_array_equal(row['image'], scene.image)
    assert json.loads(row['info']) == scene.info
  dense = {e.image_id: e for e in data.scenes('dense', limit=4)}
  for example in data.prefetch(reader):
    scene = dense[example.image_id]
    np.testing.assert_array_equal(example.image, scene.image)
    assert example.captions == scene.captions
