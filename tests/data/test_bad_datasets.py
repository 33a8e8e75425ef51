"""Bad datasets: one line each, and the one that the documentation shows."""

import json
import os
import pathlib
import re
import shutil
import sys

import pytest

from collab_jax import data
from collab_jax.evaluation import filter_readable
from collab_jax.models import tokenizer
from tests.data import photos

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / 'docs/data.md'
ROWS = dict(
  re.findall(r'^\| ([^|]+?) \| `([^`]+)` \|$', PAGE.read_text(), re.MULTILINE)
)
CASES = {}


def case(title):
  """Adds a function that makes a bad dataset and reads it."""

  def add(act):
    CASES[title] = act
    return act

  return add


def spoil(listing, change):
  """Changes a list of COCO's."""
  table = json.loads(listing.read_text())
  change(table)
  listing.write_text(json.dumps(table))


def picture(folder, number=3):
  return folder / f'val2014/COCO_val2014_{number:012d}.jpg'


@case('no such folder')
def _(folder):
  data.coco(folder / 'nowhere')


@case('folder without a list')
def _(folder):
  photos.coco(folder)
  shutil.rmtree(folder / 'annotations')
  data.coco(folder)


@case('split that needs another list')
def _(folder):
  photos.coco(folder)
  data.coco(folder, 'test')


@case('misspelt split')
def _(folder):
  photos.karpathy(folder)
  data.coco(folder, 'tset')


@case('list cut off')
def _(folder):
  listing = photos.coco(folder)
  listing.write_text(listing.read_text()[:500])
  data.coco(folder)


@case('list of something else')
def _(folder):
  photos.coco(folder).write_text('{"info": {}, "licenses": []}')
  data.coco(folder)


@case('field left out')
def _(folder):
  spoil(photos.coco(folder), lambda t: t['images'][2].pop('file_name'))
  data.coco(folder)


@case('path out of the folder')
def _(folder):
  change = {'file_name': '../../etc/passwd'}
  spoil(photos.coco(folder), lambda t: t['images'][2].update(change))
  data.coco(folder)


@case('two pictures with one id')
def _(folder):
  spoil(photos.coco(folder), lambda t: t['images'][2].update(id=1))
  data.coco(folder)


@case('picture listed twice')
def _(folder):
  def change(table):
    table['images'][1] = table['images'][0]

  spoil(photos.coco(folder), change)
  data.coco(folder)


@case('picture without captions')
def _(folder):
  def change(table):
    for item in table['annotations']:
      if item['image_id'] == 3:
        item['caption'] = ' '

  spoil(photos.coco(folder), change)
  data.coco(folder)


@case('missing picture')
def _(folder):
  photos.coco(folder)
  picture(folder).unlink()
  data.coco(folder)


@case('all pictures missing')
def _(folder):
  photos.coco(folder)
  shutil.rmtree(folder / 'val2014')
  data.coco(folder)


@case('truncated JPEG')
def _(folder):
  photos.coco(folder)
  picture(folder).write_bytes(picture(folder).read_bytes()[:300])
  data.coco(folder)[2]


@case('something else than a picture')
def _(folder):
  photos.coco(folder)
  picture(folder).write_bytes(b'<!DOCTYPE html>')
  data.coco(folder)[2]


@case('empty file')
def _(folder):
  photos.coco(folder)
  picture(folder).write_bytes(b'')
  data.coco(folder)[2]


@case('decompression bomb')
def _(folder):
  photos.coco(folder)
  picture(folder).write_bytes(photos.bomb(60_000))
  data.coco(folder)[2]


@case('side that is too long')
def _(folder):
  photos.coco(folder)
  picture(folder).write_bytes(photos.grey_png(1, 70_000))
  data.coco(folder)[2]


@case('pipe in place of a picture')
def _(folder):
  photos.coco(folder)
  picture(folder).unlink()
  os.mkfifo(picture(folder))
  data.coco(folder)[2]


@case('no readable picture at all')
def _(folder):
  photos.coco(folder)
  for path in (folder / 'val2014').iterdir():
    path.write_bytes(b'')
  filter_readable.filter_readable(data.coco(folder), None)


@case('line of a JSONL list cut off')
def _(folder):
  listing = photos.lines(folder)
  listing.write_text(listing.read_text()[:-20])
  data.jsonl(folder)


@case('captions that are no texts')
def _(folder):
  photos.lines(folder, captions=[1, 2])
  data.jsonl(folder)


@case('directory that TFDS has not prepared')
def _(folder):
  photos.coco(folder)
  data.tfds(folder)


@case('TFDS not installed')
def _(folder):
  (folder / 'dataset_info.json').touch()
  data.tfds(folder)


@case('unknown preprocessing')
def _(folder):
  photos.coco(folder)
  data.coco(folder, method='bilinear')


@case('tokenizer of another kind')
def _(folder):
  table = json.loads((ROOT / 'tests/golden/tokenizer.json').read_text())
  table['model']['type'] = 'Unigram'
  (folder / 'tokenizer.json').write_text(json.dumps(table))
  tokenizer.Tokenizer(folder)


@case('folder without a tokenizer')
def _(folder):
  (folder / 'config.json').touch()
  tokenizer.Tokenizer(folder)


@pytest.mark.parametrize('title', CASES)
def test_what_is_said(title, tmp_path, monkeypatch):
  folder = tmp_path / 'data'
  folder.mkdir()
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises((ValueError, OSError, ImportError)) as error:
    CASES[title](folder)
  said = str(error.value).replace(str(folder), 'data')
  assert '\n' not in said
  # An ellipsis stands for the words of a library.
  pattern = re.escape(ROWS[title]).replace('…', '.+')
  assert re.fullmatch(pattern, said), said


def test_every_row_is_made():
  assert [*ROWS] == [*CASES]
