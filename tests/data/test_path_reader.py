"""Pictures of a folder, a list, a zip or a file, with or without captions."""

from concurrent import futures
import json
import zipfile

import pytest

from collab_jax import data
from tests.data import photos


def folder(path, names=('b.jpg', 'sub/a.png', 'c.webp')):
  for name in names:
    file = path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(photos.jpeg())
  return path


def opened(path, **settings):
  return data.make(str(path), size=28, **settings)


def test_a_folder_without_captions(tmp_path):
  folder(tmp_path)
  (tmp_path / 'notes.pdf').touch()
  (tmp_path / '._b.jpg').touch()
  reader = opened(tmp_path)
  assert reader.found == ('3 pictures, without captions, 1 skipped: notes.pdf')
  assert reader.uncaptioned
  assert reader.name == tmp_path.name
  examples = [reader[i] for i in range(3)]
  assert [e.file for e in examples] == ['b.jpg', 'c.webp', 'sub/a.png']
  assert {e.captions for e in examples} == {()}
  assert {e.image.shape for e in examples} == {(28, 28, 3)}


def test_ids_stay_when_pictures_are_added(tmp_path):
  before = {e.path: e.image_id for e in opened(folder(tmp_path)).entries}
  folder(tmp_path, ('a.jpg',))
  after = {e.path: e.image_id for e in opened(tmp_path).entries}
  assert len(after) == 4
  assert before.items() <= after.items()


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('captions.txt', 'image,caption\nb.jpg,A dog, wet.\nb.jpg,"Two, dogs."\n'),
    ('captions.tsv', 'b.jpg#0\tA dog, wet.\nb.jpg#1\tTwo, dogs.\n'),
    ('captions.csv', 'b.jpg| A dog, wet.\nb.jpg| Two, dogs.\nnone.jpg|x\n'),
  ],
)
def test_captions_of_a_list(tmp_path, name, text):
  folder(tmp_path)
  (tmp_path / name).write_text(text)
  reader = opened(tmp_path)
  assert reader.found.startswith(f'3 pictures, 1 with captions ({name})')
  assert ('captions of no picture here: none.jpg' in reader.found) == (
    'none' in text
  )
  assert reader[0].captions == ('A dog, wet.', 'Two, dogs.')
  assert reader[1].captions == ()


def test_captions_beside_pictures(tmp_path):
  folder(tmp_path)
  (tmp_path / 'sub' / 'a.txt').write_text('A cat.\n\nIt sleeps.\n')
  reader = opened(tmp_path)
  assert reader.found == '3 pictures, 1 with captions (1 .txt files)'
  assert reader[2].captions == ('A cat.', 'It sleeps.')


def test_a_limit_is_said(tmp_path):
  reader = opened(folder(tmp_path), limit=2)
  assert len(reader) == 2
  assert reader.found.startswith('the first 2 of 3 pictures')


def test_a_zip_is_a_folder(tmp_path):
  path = folder(tmp_path / 'in')
  (path / 'captions.txt').write_text('b.jpg,A dog.\n')
  with zipfile.ZipFile(tmp_path / 'all.zip', 'w') as archive:
    for file in path.rglob('*.*'):
      archive.write(file, file.relative_to(path))
    archive.writestr('../up.jpg', b'')
    archive.writestr('__MACOSX/b.jpg', b'')
    archive.writestr('bad.png', b'none')
  reader = opened(tmp_path / 'all.zip')
  assert reader.name == 'all.zip'
  assert reader.found == '4 pictures, 1 with captions (captions.txt)'
  readable, broken = data.readable(reader)
  assert len(readable) == 3
  assert 'all.zip/bad.png' in broken[0]
  assert [readable[i].file for i in range(3)] == [
    'b.jpg',
    'c.webp',
    'sub/a.png',
  ]
  assert readable[0].captions == ('A dog.',)


def test_a_zip_is_read_anew_once_it_has_changed(tmp_path):
  for width in (30, 40):
    with zipfile.ZipFile(tmp_path / 'all.zip', 'w') as archive:
      for number in range(width):
        archive.writestr(f'{number}.jpg', photos.jpeg(number, width=width))
    reader = opened(tmp_path / 'all.zip')
    with futures.ThreadPoolExecutor(4) as pool:
      examples = list(pool.map(reader.__getitem__, range(width)))
    for example in examples:
      number = int(example.file.removesuffix('.jpg'))
      assert example.image.tobytes() == _resized(tmp_path, number, width)


def _resized(folder, number, width):
  path = folder / 'one.jpg'
  path.write_bytes(photos.jpeg(number, width=width))
  return data.read_image(path, 28).tobytes()


def test_a_list_and_a_picture(tmp_path):
  folder(tmp_path)
  lines = [{'image': 'b.jpg', 'captions': 'A dog.'}, {'image': 'sub/a.png'}]
  text = '\n'.join(map(json.dumps, lines))
  (tmp_path / 'mine.jsonl').write_text(text)
  for path in (tmp_path / 'mine.jsonl', tmp_path):
    reader = opened(path)
    assert reader.found == '2 pictures, 1 with captions (mine.jsonl)'
    assert [reader[i].file for i in range(2)] == ['b.jpg', 'sub/a.png']
  with pytest.raises(ValueError, match=r"expected 'captions' to be a list"):
    data.jsonl(tmp_path, 'mine')
  (tmp_path / 'other.jsonl').touch()
  with pytest.raises(ValueError, match=r"data_split of .*got 'test', expected"):
    opened(tmp_path)
  reader = opened(tmp_path / 'b.jpg')
  assert (len(reader), reader[0].file) == (1, 'b.jpg')
  assert reader.found == 'one picture, without captions'


def test_a_folder_of_a_known_dataset(tmp_path):
  photos.coco(tmp_path)
  reader = opened(tmp_path, split='val')
  assert reader.name.startswith('coco/val')
  assert reader[0].file.endswith('.jpg')


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('empty', None, r'empty has no pictures: expected files that end in .avif'),
    ('all.zip', b'PK', 'expected a zip of pictures: File is not a zip file'),
    ('b.txt', b'none', 'is no picture that can be read'),
  ],
)
def test_paths_without_pictures_are_refused(tmp_path, name, content, said):
  path = tmp_path / name
  if content is None:
    path.mkdir()
  else:
    path.write_bytes(content)
  with pytest.raises((ValueError, FileNotFoundError), match=said):
    _ = opened(path)[0]


def test_a_path_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match='or the path of a folder, a list'):
    opened(tmp_path / 'none')
