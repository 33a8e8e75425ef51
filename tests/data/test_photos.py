"""Datasets in folders, and what is said of bad ones."""

import copy
import json
import pickle
import unicodedata

import numpy as np
from PIL import Image
import pytest

from collab_jax import data
from collab_jax.data import pictures
from tests.data import photos

CLEAN = ('A wet dog runs.', 'A dog.')


def test_coco_s_own_list(tmp_path):
  photos.coco(tmp_path)
  reader = data.coco(tmp_path, 'val2014', size=14)
  assert reader.name == 'coco/val2014'
  assert len(reader) == 5
  example = reader[1]
  assert example.image_id == 2
  assert example.captions == CLEAN
  assert example.image.shape == (14, 14, 3)
  path = tmp_path / 'val2014' / 'COCO_val2014_000000000002.jpg'
  np.testing.assert_array_equal(example.image, pictures.read(path, 14))
  assert reader[np.int64(-1)].image_id == 5
  assert [e.image_id for e in reader] == [1, 2, 3, 4, 5]
  with pytest.raises(IndexError, match='5 pictures, got 5'):
    reader[5]
  assert copy.deepcopy(reader) == pickle.loads(pickle.dumps(reader)) == reader
  assert '5 pictures' in repr(reader)


def test_val_is_that_of_2014_without_karpathy_s(tmp_path):
  photos.coco(tmp_path)
  photos.coco(tmp_path, ids=[7], split='val2017')
  assert data.coco(tmp_path).name == 'coco/val2014'
  assert data.coco(tmp_path, 'val2017')[0].image_id == 7
  with pytest.raises(ValueError, match=r"got 'test'.* dataset_coco.json"):
    data.coco(tmp_path, 'test')


def test_lists_and_pictures_may_lie_elsewhere(tmp_path):
  listing = photos.coco(tmp_path)
  listing.rename(tmp_path / listing.name)
  (tmp_path / 'images').mkdir()
  (tmp_path / 'val2014').rename(tmp_path / 'images' / 'val2014')
  assert len(data.coco(str(tmp_path), 'val2014', limit=3)) == 3


def test_karpathy_s_splits(tmp_path):
  photos.karpathy(tmp_path)
  photos.coco(tmp_path)
  sizes = {'val': 2, 'test': 2, 'train': 4, 'restval': 2, 'val2014': 5}
  for split, size in sizes.items():
    reader = data.coco(tmp_path, split)
    assert len(reader) == size
    assert reader.name == f'coco/{split}'
  assert [e.image_id for e in data.coco(tmp_path, 'test')] == [100, 104]
  assert data.coco(tmp_path, 'test')[0].captions == CLEAN[::-1]
  with pytest.raises(ValueError, match=r"got 'tset'.* did you mean 'test'"):
    data.coco(tmp_path, 'tset')


@pytest.mark.parametrize('place', ['flickr30k_images', 'images', '.'])
def test_flickr30k(tmp_path, place):
  photos.karpathy(tmp_path, 'flickr30k')
  target = tmp_path / place
  target.mkdir(exist_ok=True)
  for path in (tmp_path / 'flickr30k-images').iterdir():
    path.rename(target / path.name)
  (tmp_path / 'flickr30k-images').rmdir()
  reader = data.flickr30k(tmp_path)
  assert reader.name == 'flickr30k/test'
  assert [e.image_id for e in reader] == [0, 4]


def test_jsonl(tmp_path):
  photos.lines(tmp_path)
  reader = data.jsonl(tmp_path)
  assert reader.name == f'{tmp_path.name}/test'
  assert [e.image_id for e in reader] == [0, 1, 2]
  assert reader[2].captions == CLEAN[::-1]
  photos.lines(tmp_path, number=1, captions='One.', id=9)
  assert data.jsonl(tmp_path)[0].captions == ('One.',)
  assert data.jsonl(tmp_path)[0].image_id == 9
  with pytest.raises(ValueError, match="did you mean 'test'"):
    data.jsonl(tmp_path, 'tests')


def spoil(listing, change):
  table = json.loads(listing.read_text())
  change(table)
  listing.write_text(json.dumps(table))


@pytest.mark.parametrize('read', [data.coco, data.flickr30k])
def test_no_list(tmp_path, read):
  (tmp_path / 'readme.txt').touch()
  with pytest.raises(FileNotFoundError, match=r'dataset_.*readme\.txt'):
    read(tmp_path)
  with pytest.raises(FileNotFoundError, match='nowhere is no folder'):
    read(tmp_path / 'nowhere')


def test_bad_json(tmp_path):
  listing = photos.coco(tmp_path)
  whole = listing.read_text()
  for text in (whole[:100], '', 'captions', '[' * 100_000):
    listing.write_text(text)
    with pytest.raises(ValueError, match=r'val2014\.json is no valid JSON'):
      data.coco(tmp_path)
  listing.write_text('[]')
  with pytest.raises(ValueError, match='holds a list, expected an object'):
    data.coco(tmp_path)
  listing.write_text('{"info": 1}')
  with pytest.raises(ValueError, match="object with 'info', expected 'annotat"):
    data.coco(tmp_path)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda t: t['images'][3].pop('file_name'), r"images\[3\].*'file_name'"),
    (lambda t: t['images'][3].update(id='4'), r"images\[3\]: got '4'.* int"),
    (lambda t: t['images'][3].update(id=True), r'images\[3\]: got True'),
    (lambda t: t['images'].append(7), r'images\[5\]: got a int'),
    (lambda t: t['annotations'][2].pop('caption'), r"ions\[2\].*'caption'"),
    (lambda t: t['images'][1].update(id=-1), 'outside 0 to'),
    (lambda t: t['images'][1].update(id=1), r'id of another.*\(2 of 5'),
    (lambda t: t['images'][1].update(file_name='/etc/passwd'), 'inside'),
    (lambda t: t['images'][1].update(file_name='../../x.jpg'), 'inside'),
  ],
)
def test_bad_fields(tmp_path, change, said):
  spoil(photos.coco(tmp_path), change)
  with pytest.raises(ValueError, match=said):
    data.coco(tmp_path)


def test_empty_captions(tmp_path):
  listing = photos.coco(tmp_path)

  def blank(table):
    for item in table['annotations']:
      if item['image_id'] in (2, 3):
        item['caption'] = ' \n'

  spoil(listing, blank)
  with pytest.raises(ValueError, match=r'picture 2, has no caption') as error:
    data.coco(tmp_path)
  assert f'listed in {listing} (2 of 5' in str(error.value)
  assert len(data.coco(tmp_path, limit=1)) == 1


@pytest.mark.parametrize('make', [photos.coco, photos.karpathy])
def test_missing_picture(tmp_path, make):
  listing = make(tmp_path)
  gone = sorted((tmp_path / 'val2014').glob('*.jpg'))[0]
  reader = data.coco(tmp_path, 'test' if make is photos.karpathy else 'val')
  gone.unlink()
  for act in (lambda: data.coco(tmp_path, reader.name[5:]), lambda: reader[0]):
    with pytest.raises(FileNotFoundError) as error:
      act()
    assert str(gone) in str(error.value)
    assert f'is listed in {listing}' in str(error.value)


def test_missing_folder_of_pictures(tmp_path):
  photos.coco(tmp_path)
  (tmp_path / 'val2014').rename(tmp_path / 'other')
  with pytest.raises(FileNotFoundError, match=r'5 of 5 pictures are so'):
    data.coco(tmp_path)


def test_truncated_jpeg(tmp_path):
  photos.coco(tmp_path)
  reader = data.coco(tmp_path)
  path = reader.entries[2].path
  path.write_bytes(path.read_bytes()[:-200])
  for act in (reader.__getitem__, reader.check):
    with pytest.raises(data.PictureError) as error:
      act(2)
    assert str(path) in str(error.value)
    assert 'truncated' in str(error.value)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'image': 'no.jpg'}, 'no.jpg, picture 2, is missing'),
    ({'image': 3}, r"test.jsonl:3: got 3, expected 'image'"),
    ({'image': '../a.jpg'}, 'inside'),
    ({'captions': [1]}, r"test.jsonl:3: got \[1\], expected 'captions'"),
    ({'captions': None}, "expected 'captions' to be a list"),
    ({'captions': []}, 'picture 2, has no caption'),
    ({'id': 1}, "expected an 'id' in all lines or in none"),
  ],
)
def test_bad_lines(tmp_path, change, said):
  photos.lines(tmp_path, **change)
  kind = FileNotFoundError if 'missing' in said else ValueError
  with pytest.raises(kind, match=said):
    data.jsonl(tmp_path)


def test_bad_jsonl(tmp_path):
  listing = photos.lines(tmp_path)
  listing.write_text(listing.read_text() + '\n{"image": \n')
  with pytest.raises(ValueError, match=r'test.jsonl:5 is no valid JSON'):
    data.jsonl(tmp_path)
  assert len(data.jsonl(tmp_path, limit=3)) == 3
  listing.unlink()
  with pytest.raises(FileNotFoundError, match=r'expected test.jsonl'):
    data.jsonl(tmp_path)


def test_settings_are_checked(tmp_path):
  photos.coco(tmp_path)
  with pytest.raises(ValueError, match="did you mean 'bv_bilinear'"):
    data.coco(tmp_path, method='bilinear')
  with pytest.raises(ValueError, match='size: got 0 px'):
    data.coco(tmp_path, size=0)
  with pytest.raises(ValueError, match='limit: got -1'):
    data.coco(tmp_path, limit=-1)


def test_make(tmp_path):
  photos.coco(tmp_path)
  reader = data.make('coco', tmp_path, 'val', 2, 14, 'bv_bilinear')
  assert (len(reader), reader.size, reader.method) == (2, 14, 'bv_bilinear')
  assert data.make('scenes', split='val').name == 'scenes/val'
  with pytest.raises(ValueError, match=r"got 'cocoo'.* did you mean 'coco'"):
    data.make('cocoo', tmp_path)
  with pytest.raises(ValueError, match=r'data_dir: is empty.* folder of coco'):
    data.make('coco')


def test_pictures_of_any_mode(tmp_path):
  listing = photos.lines(tmp_path, number=1)
  path = tmp_path / 'pictures' / '0.jpg'
  Image.fromarray(photos.photo()[..., 0]).save(path)
  assert data.jsonl(listing.parent)[0].image.shape == (224, 224, 3)


@pytest.mark.parametrize(('listed', 'stored'), [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_names_with_accents(tmp_path, listed, stored):
  """A Mac stores letters and accents apart; lists have them together."""
  name = 'été/café.jpg'
  path = tmp_path / unicodedata.normalize(stored, name)
  photos.write(path)
  line = {'image': unicodedata.normalize(listed, name), 'captions': ['x']}
  (tmp_path / 'test.jsonl').write_text(json.dumps(line))
  reader = data.jsonl(tmp_path, size=14)
  assert reader.entries[0].path == path
  assert reader[0].image.shape == (14, 14, 3)
  # A file of exactly that name comes first.
  photos.write(tmp_path / line['image'], seed=1)
  (entry,) = data.jsonl(tmp_path, size=14).entries
  assert entry.path == tmp_path / line['image']
  path.unlink()
  (tmp_path / line['image']).unlink()
  with pytest.raises(FileNotFoundError, match='is missing'):
    data.jsonl(tmp_path, size=14)


def test_a_picture_that_is_listed_twice(tmp_path):
  photos.write(tmp_path / 'a.jpg')
  line = json.dumps({'image': 'a.jpg', 'captions': ['x'], 'id': 7}) + '\n'
  (tmp_path / 'test.jsonl').write_text(2 * line)
  with pytest.raises(ValueError, match=r'a\.jpg, picture 7, is listed twice'):
    data.jsonl(tmp_path)
