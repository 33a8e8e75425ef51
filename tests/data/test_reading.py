"""Reading ahead, and without what is damaged."""

import threading
import time

import pytest

from collab_jax import data
from tests.data import photos


@pytest.fixture
def folder(tmp_path):
  photos.coco(tmp_path, ids=range(1, 9))
  return tmp_path


def damage(reader, *indices):
  for i in indices:
    path = reader.entries[i].path
    path.write_bytes(path.read_bytes()[:300])


def test_all_is_well(folder):
  reader = data.coco(folder, size=14)
  assert data.readable(reader) == (reader, [])
  scenes = data.scenes('test', limit=3)
  assert data.readable(scenes) == (scenes, [])


@pytest.mark.parametrize('threads', [1, 4])
def test_damaged_pictures_are_counted(folder, threads):
  reader = data.coco(folder, size=14)
  damage(reader, 0, 5)
  sound, broken = data.readable(reader, threads)
  assert len(sound) == 6
  assert sound.name == reader.name
  assert [e.image_id for e in data.prefetch(sound)] == [2, 3, 4, 5, 7, 8]
  assert len(broken) == 2
  assert str(reader.entries[5].path) in broken[1]


@pytest.mark.parametrize(('threads', 'ahead'), [(1, 1), (4, 3), (4, 100)])
def test_order_is_kept(folder, threads, ahead, caplog):
  reader = data.coco(folder, size=14)
  got = [e.image_id for e in data.prefetch(reader, threads, ahead)]
  assert got == [*range(1, 9)]
  assert not caplog.records


def test_errors_come_through(folder):
  reader = data.coco(folder, size=14)
  damage(reader, 2)
  examples = data.prefetch(reader)
  assert next(examples).image_id == 1
  assert next(examples).image_id == 2
  with pytest.raises(data.PictureError, match=r'000000000003\.jpg'):
    next(examples)


class Slow:
  """Remembers who read what."""

  def __init__(self):
    self.read = []

  def __len__(self):
    return 40

  def __getitem__(self, index):
    time.sleep(0.01)
    self.read.append((index, threading.get_ident()))
    return index


def test_it_reads_ahead_but_not_all():
  reader = Slow()
  examples = data.prefetch(reader, threads=4, ahead=10)
  assert next(examples) == 0
  time.sleep(0.3)
  assert 10 <= len(reader.read) <= 12
  assert threading.get_ident() not in {thread for _, thread in reader.read}
  assert len({thread for _, thread in reader.read}) > 1


def test_a_folder_is_a_damaged_picture(folder):
  reader = data.coco(folder, size=14)
  path = reader.entries[2].path
  path.unlink()
  path.mkdir()
  sound, broken = data.readable(reader)
  assert len(sound) == 7
  assert broken == [f'{path} is a folder, expected a picture']
