"""Preparing datasets; the last test needs the extra `tensorflow`."""

import http.server
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request

import numpy as np
import pytest

from collab_jax import data
from collab_jax.data import tfds_prepare
from tests.data import photos

real = pytest.mark.skipif(
  importlib.util.find_spec('tensorflow_datasets') is None
  or importlib.util.find_spec('tensorflow') is None,
  reason="needs the extra 'tensorflow'",
)


@pytest.fixture
def library(monkeypatch):
  """Stands in for both libraries; returns what was asked of them."""
  asked = []
  module = types.ModuleType('tensorflow_datasets')

  def builder(name, data_dir, file_format):
    asked.append((name, file_format))
    return types.SimpleNamespace(
      data_dir=f'{data_dir}/{name}/2014/1.1.0',
      download_and_prepare=lambda: asked.append('prepared'),
    )

  module.builder = builder
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)
  tensorflow = types.ModuleType('tensorflow')
  tensorflow.__spec__ = importlib.util.spec_from_loader('tensorflow', None)
  monkeypatch.setitem(sys.modules, 'tensorflow', tensorflow)
  return asked


def test_without_tensorflow(library, monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(ModuleNotFoundError) as error:
    data.prepare('coco_captions', tmp_path)
  text = str(error.value)
  assert "TensorFlow, which is not installed: pip install 'collab_jax[" in text
  assert '\n' not in text
  assert not library


def test_without_the_library(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  for name in tfds_prepare.NAMES:
    with pytest.raises(ModuleNotFoundError, match=r'collab_jax\[tfds\]'):
      data.prepare(name, tmp_path)


def test_unknown_names(tmp_path):
  with pytest.raises(ValueError, match="did you mean 'coco_captions'"):
    data.prepare('coco_caption', tmp_path)


def test_offline_it_fails_before_anything_is_tried(
  library, monkeypatch, tmp_path
):
  def refuse(request, timeout):
    raise urllib.error.URLError('no name server')

  monkeypatch.setattr(urllib.request, 'urlopen', refuse)
  with pytest.raises(ConnectionError, match=r'coco.*\(no name server\)'):
    data.prepare('coco_captions', tmp_path)
  assert not library
  done = tmp_path / 'coco_captions' / '2014' / '1.1.0'
  done.mkdir(parents=True)
  (done / 'dataset_info.json').touch()
  assert data.prepare('coco_captions', tmp_path) == done
  assert library == [('coco_captions', 'array_record'), 'prepared']


def test_online_it_prepares(library, monkeypatch, tmp_path):
  reached = []
  monkeypatch.setattr(tfds_prepare, 'reach', reached.append)
  data.prepare('coco_captions', tmp_path)
  assert reached == [*tfds_prepare.SOURCES]
  assert library[-1] == 'prepared'


class Handler(http.server.BaseHTTPRequestHandler):
  """Has one file."""

  def do_HEAD(self):
    self.send_response(200 if self.path == '/there.zip' else 404)
    self.end_headers()

  def log_message(self, *args):
    pass


def test_reach(monkeypatch):
  monkeypatch.setenv('no_proxy', '*')
  with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}'
    tfds_prepare.reach(f'{url}/there.zip')
    with pytest.raises(ConnectionError, match=r'gone\.zip cannot .*Not Found'):
      tfds_prepare.reach(f'{url}/gone.zip')
    server.shutdown()
  with pytest.raises(ConnectionError, match=r'cannot be reached .*refused'):
    tfds_prepare.reach(f'{url}/there.zip')


def test_a_silent_server_is_not_waited_for(monkeypatch):
  monkeypatch.setenv('no_proxy', '*')
  with socket.create_server(('127.0.0.1', 0)) as server:
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match='timed out'):
      tfds_prepare.reach(f'http://127.0.0.1:{server.getsockname()[1]}/', 0.2)
    assert time.perf_counter() - start < 5


def downloads(folder):
  """Makes the archives of COCO and Karpathy, with three pictures each."""
  names = [{'id': i, 'name': f'thing {i}'} for i in range(80)]
  empty = {'images': [], 'annotations': [], 'categories': names}
  karpathy = []
  for split in ('train2014', 'val2014'):
    table = json.loads(photos.coco(folder, [3, 4, 5], split).read_text())
    images = [item | {'height': 30, 'width': 40} for item in table['images']]
    text = json.dumps(empty | {'images': images})
    (folder / 'annotations' / f'instances_{split}.json').write_text(text)
    karpathy += [
      {
        'split': split.removesuffix('2014'),
        'filename': item['file_name'],
        'sentences': [{'sentid': 1, 'raw': c} for c in photos.CAPTIONS],
      }
      for item in images
    ]
  karpathy[-2]['split'], karpathy[-1]['split'] = 'test', 'restval'
  for split in ('test2014', 'test2015'):
    path = folder / 'annotations' / f'image_info_{split}.json'
    path.write_text(json.dumps(empty))
  (folder / 'dataset_coco.json').write_text(json.dumps({'images': karpathy}))


def python(script, *arguments):
  """In a process of its own, since TensorFlow stays where it was imported."""
  done = subprocess.run(
    [sys.executable, '-c', script, *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


PREPARE = """
import sys
import tensorflow_datasets
from collab_jax import data
from collab_jax.data import packaged
_, files, folder = sys.argv
manager = tensorflow_datasets.download.DownloadManager
manager.download_and_extract = lambda self, urls: dict.fromkeys(urls, files)
packaged.reach = print
print(data.prepare('coco_captions', folder))
"""

READ = """
import sys
from collab_jax import data
for split, ids in {
  'train': [3, 4, 5], 'val': [3], 'test': [4], 'restval': [5]
}.items():
  reader = data.tfds(sys.argv[1], split, size=14)
  assert reader.name == 'coco_captions/' + split
  assert sorted(e.image_id for e in data.prefetch(reader)) == ids
assert 'tensorflow' not in sys.modules
"""


@real
def test_coco_captions_itself(tmp_path):
  """TFDS's own builder on six pictures, read without TensorFlow."""
  downloads(tmp_path / 'files')
  said = python(PREPARE, tmp_path / 'files', tmp_path / 'tfds').splitlines()
  assert set(tfds_prepare.SOURCES) < set(said)
  python(READ, tmp_path / 'tfds')
  got = data.tfds(said[-1], 'val', size=14)[0]
  expected = data.coco(tmp_path / 'files', 'val2014', limit=1, size=14)[0]
  np.testing.assert_array_equal(got.image, expected.image)
  assert sorted(got.captions) == sorted(expected.captions)
