"""Exported folders give the codec's messages, and say what is wrong."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

import collab_jax as cj
from collab_jax import (
  data,
  exporters,
)
from collab_jax.exporters import (
  bundle,
  formats,
  run,
)
from tests import launching, standin
from tests.wire import independent

_NAME = 'kmeans(k=4,init=++)'
_IDS = [5, 2**32 + 1, 0]


@pytest.fixture(scope='module')
def model():
  return standin.small()


@pytest.fixture(scope='module')
def images():
  scenes = data.scenes('test', limit=3)
  return np.stack([scenes[i].image for i in range(3)])


def _runner(folder):
  """Imports the folder's own run.py as a module."""
  spec = importlib.util.spec_from_file_location('run', folder / 'run.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory):
  pytest.importorskip('flatbuffers')
  out = tmp_path_factory.mktemp('export') / 'out'
  cj.export(cj.FeatureCodec(model, _NAME), out, seed=7)
  return out


@pytest.fixture
def optimized():
  """Compiles as for a user, and as the edge's program: bits depend on it."""
  jax.clear_caches()
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)
  jax.clear_caches()


def test_messages_are_those_of_the_codec(folder, model, images, optimized):
  codec = cj.FeatureCodec(model, _NAME)
  edge = _runner(folder).Edge(folder)
  want = codec.encode(images, jax.random.key(7), _IDS)
  assert edge(images, _IDS) == want
  # Any batch, one program.
  assert [edge(images[i : i + 1], [_IDS[i]])[0] for i in range(3)] == want
  assert edge(images) == codec.encode(images, jax.random.key(7))
  assert edge(images) != want
  text = (folder / 'session.json').read_text()
  decoded = independent.decode(text, want[0])
  assert (
    decoded['assignments']
    == codec.session.unpack(want[0])['assignments'].tolist()
  )


def test_the_folder_says_what_it_is(folder, model):
  codec = cj.FeatureCodec(model, _NAME)
  manifest = json.loads((folder / 'manifest.json').read_text())
  names = {path.name for path in folder.iterdir()}
  assert names == {*manifest['files'], 'manifest.json'}
  for name, file in manifest['files'].items():
    content = (folder / name).read_bytes()
    assert file['bytes'] == len(content)
    assert file['sha256'] == hashlib.sha256(content).hexdigest()
  assert manifest['digest'] == codec.session.digest
  assert codec.session.differences((folder / 'session.json').read_text()) == []
  assert manifest['message_bytes'] == codec.session.length
  assert [port['name'] for port in manifest['outputs']] == [*codec.fields]
  assert manifest['platforms'] == ['cpu', 'cuda', 'tpu']
  text = (folder / 'README.md').read_text()
  assert 'fold_in(key(7)' in text
  assert '{' not in text


def test_weights_beside_the_program(folder, model, images, tmp_path):
  codec = cj.FeatureCodec(model, _NAME)
  limit = sum(a.nbytes for a in jax.tree.leaves(model.params['img']))
  # The projection stays with the server, so that all of it is too much.
  made = cj.export(codec, tmp_path / 'in', inside=limit)
  assert made['weights'] is None
  made = cj.export(codec, tmp_path / 'out', seed=7, inside=1000)
  assert made['weights'] == 'weights.safetensors'
  sizes = {name: file['bytes'] for name, file in made['files'].items()}
  whole = (folder / 'edge.stablehlo').stat().st_size
  assert sizes['edge.stablehlo'] < whole
  assert 20_000 < sizes['weights.safetensors'] < 2 * limit
  edge = _runner(tmp_path / 'out').Edge(tmp_path / 'out')
  assert edge(images) == codec.encode(images, jax.random.key(7))


def test_it_runs_without_this_package(folder, model, images, tmp_path):
  paths = []
  for i, image in enumerate(images):
    paths.append(tmp_path / f'{i}.png')
    Image.fromarray(image).save(paths[-1])
  hide = "import sys, runpy; sys.modules['collab_jax'] = None; "
  start = f"sys.argv[0] = '{folder}/run.py'; runpy.run_path(sys.argv[0], "
  done = subprocess.run(
    [
      *(sys.executable, '-c', f"{hide}{start}run_name='__main__')"),
      *(*paths, f'--out={tmp_path}/sent', '--id=9'),
    ],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  codec = cj.FeatureCodec(model, _NAME)
  want = codec.encode(images, jax.random.key(7), [9, 10, 11])
  got = [Path(tmp_path, 'sent', f'{p.name}.msg').read_bytes() for p in paths]
  assert got == want
  assert f'{len(want[0])} bytes' in done.stdout


def test_damage_is_told(folder, tmp_path):
  copy = tmp_path / 'copy'
  copy.mkdir()
  for path in folder.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  (copy / 'session.json').write_text('{}')
  with pytest.raises(ValueError, match=r'session\.json is damaged'):
    _runner(copy).Edge(copy)


def test_what_is_refused(model, tmp_path):
  codec = cj.FeatureCodec(model, _NAME)
  out = tmp_path / 'out'
  with pytest.raises(ValueError, match=r"format: got 'onx'.*'onnx'"):
    cj.export(codec, out, 'onx')
  with pytest.raises(exporters.ExportError, match="coding: got 'best'"):
    cj.export(cj.FeatureCodec(model, _NAME, coding='best'), out)
  with pytest.raises(exporters.ExportError, match='got ImageCodec, expected'):
    cj.export(cj.ImageCodec(model, 'jpeg', quality=20), out)
  with pytest.raises(ValueError, match='seed: got -1'):
    cj.export(codec, out, seed=-1)
  blind = model.replace(
    params={
      'llm': model.params['llm'],
      'img': {'head': model.params['img']['head']},
    }
  )
  with pytest.raises(exporters.ExportError, match='no image encoder'):
    cj.export(cj.FeatureCodec(blind, _NAME), out)
  assert not list(tmp_path.iterdir())
  out.mkdir()
  (out / 'mine').touch()
  with pytest.raises(ValueError, match=r'out is not empty: give a folder'):
    cj.export(codec, out)
  assert [path.name for path in out.iterdir()] == ['mine']


@pytest.mark.parametrize(
  ('format_', 'module'), [('onnx', 'jax2onnx'), ('litert', 'tensorflow')]
)
def test_a_missing_extra_is_named(
  model, tmp_path, monkeypatch, format_, module
):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(
    ImportError, match=rf'{module}: pip.*collab_jax\[{format_}'
  ):
    cj.export(cj.FeatureCodec(model, _NAME), tmp_path / 'out', format_)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('format_', ['stablehlo', 'onnx', 'litert'])
def test_unlike_pictures_are_told(tmp_path, capsys, optimized, format_):
  """A warning once, of photographs alone, and the same messages."""
  for module in _CONVERTERS.get(format_, ['flatbuffers']):
    pytest.importorskip(module)
  tiny = cj.load('tiny', part='edge')
  codec = cj.FeatureCodec(tiny, 'kmeans(k=4)')
  manifest = cj.export(codec, tmp_path / 'out', format_)
  assert manifest['statistics']['file'] in manifest['files']
  edge = _runner(tmp_path / 'out').Edge(tmp_path / 'out')
  scenes = np.stack([s.image for s in data.scenes('test', limit=4)])
  messages = edge(scenes)
  assert not edge.unlike.any()
  assert capsys.readouterr().err == ''
  if format_ == 'stablehlo':
    assert messages == codec.encode(scenes, jax.random.key(0))
  photos = np.stack([p.image for p in data.photos(size=64)])
  want = tiny.statistics.unlike(
    np.asarray(codec.features(photos)).mean(1), 'encoder'
  )
  for _ in range(2):
    edge(photos)
    np.testing.assert_array_equal(edge.unlike, want)
  assert want.all()
  said = f'warning: {cj.codecs.describe_unlike_picture(tiny)}\n'
  assert capsys.readouterr().err == said


_CONVERTERS = {
  'onnx': ('jax2onnx', 'onnxruntime'),
  'litert': ('tensorflow', 'ai_edge_litert'),
}


@pytest.mark.parametrize('format_', [*_CONVERTERS])
@pytest.mark.parametrize('name', [_NAME, 'merge(k=4)'])
def test_other_formats_agree(model, images, tmp_path, format_, name):
  for module in _CONVERTERS[format_]:
    pytest.importorskip(module)
  codec = cj.FeatureCodec(model, name, split='head')
  cj.export(codec, tmp_path / 'out', format_, seed=7)
  edge = _runner(tmp_path / 'out').Edge(tmp_path / 'out')
  got = edge.quantize(images, _IDS)
  want = codec.quantize(codec.features(images), jax.random.key(7), _IDS)
  assert list(got) == list(codec.fields)
  np.testing.assert_array_equal(got['assignments'], want['assignments'])
  # A float16 has 11 bits.
  near = want['centroids/x'].astype(np.float32)
  np.testing.assert_allclose(got['centroids/x'], near, 1e-3, 1e-5)
  for message in edge(images, _IDS):
    codec.unpack(message)


def test_what_a_converter_got_wrong_is_refused(model, tmp_path, monkeypatch):
  pytest.importorskip('flatbuffers')

  def wrong(codec, folder, seed, inside):
    """Exports a program of another seed, which sends other symbols."""
    return formats.stablehlo(codec, folder, seed + 1, inside)

  monkeypatch.setitem(formats.FORMATS, 'onnx', wrong)
  monkeypatch.setitem(run._RUNTIMES, 'onnx', run._stablehlo)
  codec = cj.FeatureCodec(model, 'random(k=8)')
  with pytest.raises(exporters.ExportError, match="another 'mask' than the"):
    cj.export(codec, tmp_path / 'out', 'onnx')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('format_', [*_CONVERTERS])
def test_what_they_cannot_do_is_told(model, tmp_path, format_):
  pytest.importorskip(_CONVERTERS[format_][0])
  codec = cj.FeatureCodec(model, 'scalar(bits=4)')
  with pytest.raises(exporters.ExportError, match="'low' is in bfloat16"):
    cj.export(codec, tmp_path / 'out', format_)
  assert not list(tmp_path.iterdir())


def test_the_command(tmp_path):
  pytest.importorskip('flatbuffers')
  done = launching.run(
    *('-m', 'collab_jax', 'export', f'--model={standin.folder()}'),
    *('--quantizer=random(k=3)', '--split=head', f'{tmp_path}/out'),
  )
  assert done.returncode == 0, done.stderr
  assert 'random(k=3)@head of stand-in as stablehlo' in done.stdout
  assert (tmp_path / 'out' / bundle.MANIFEST).is_file()
  done = launching.run(
    *('-m', 'collab_jax', 'export', '--format=x', '--k=4'), tmp_path / 'y'
  )
  assert done.returncode == 1
  assert "error: format: got 'x'" in done.stderr
  assert 'Traceback' not in done.stderr
