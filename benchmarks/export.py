r"""Compares exported edges with the JAX edge: sizes, times, messages.

python -m benchmarks.export --formats=stablehlo
python -m benchmarks.export --formats=onnx --quantizers='kmeans(k=8);merge(k=8)'

Each format is exported, and run by its own run.py in this process; a format
that is not installed, or has no form for a quantizer, is said to be so.
"""

import functools
import importlib.util
import pathlib
import platform
import statistics
import tempfile
import time

from absl import app, flags
import jax
import numpy as np

from benchmarks import flag_names
from collab_jax import (
  checkpoints,
  codecs,
  data,
  exporters,
)
from collab_jax.evaluation.report import text

_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_FORMATS = flags.DEFINE_list('formats', [*exporters.FORMATS], 'Which.')
_QUANTIZERS = flags.DEFINE_string(
  'quantizers',
  'kmeans(k=8);kmeans(k=8,init=++);merge(k=8);random(k=64);'
  'merge(k=5,centroids=pca(dims=128,vectors=ecsq(step=1.0)));'
  'kmeans(k=8,centroids=scalar(bits=4));farthest_point(k=8);residual_vq',
  "Names with settings, ';' between them.",
)
_SPLIT = flags.DEFINE_string('split', 'encoder', 'Where features are cut.')
_SCENES = flags.DEFINE_integer('scenes', 200, 'Test scenes to compare.')
_TIMED = flags.DEFINE_integer('timed', 40, 'Single pictures that are timed.')

_HEAD = [
  *('quantizer', 'format', 'MB', 'messages', 'symbols', 'apart'),
  *('ms', 'first ms', 'JAX ms', 'export s'),
]


def show(rows):
  """Prints a table."""
  print(text.align([_HEAD, *rows]), flush=True)


def _encode(codec, key, images, ids):
  return codec.encode(images, key, ids)


def per_image(encode, images):
  """Median milliseconds of one picture at a time, and of the first."""
  times = []
  for i in range(_TIMED.value):
    start = time.perf_counter()
    encode(images[i : i + 1], [i])
    times.append(1e3 * (time.perf_counter() - start))
  return statistics.median(times[1:]), times[0]


def compare(got, want, codec):
  """Scenes whose symbols agree, and how far values are apart at most."""
  alike, apart = np.ones(_SCENES.value, bool), 0.0
  for name, field in codec.fields.items():
    a, b = (
      np.asarray(m[name], np.float64).reshape(len(alike), -1)
      for m in (got, want)
    )
    if hasattr(field, 'alphabet'):
      alike &= (a == b).all(axis=1)
    else:
      scale = np.maximum(np.abs(b), 1.0)
      apart = max(apart, float(np.max(np.abs(a - b) / scale, initial=0)))
  return int(alike.sum()), apart


def measure(codec, format_, images, want, sent, jax_ms):
  """Measures an exported edge beside the codec, as a row."""
  row = [codec.name, format_]
  with tempfile.TemporaryDirectory() as held:
    out = pathlib.Path(held) / 'out'
    start = time.perf_counter()
    try:
      made = exporters.export(codec, out, format_)
      exported = time.perf_counter() - start
      spec = importlib.util.spec_from_file_location('run', out / 'run.py')
      assert spec is not None
      assert spec.loader is not None
      runner = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(runner)
      edge = runner.Edge(out)
    except (ImportError, exporters.ExportError) as error:
      print(f'{codec.name} as {format_}: {error}', flush=True)
      return [*row, *['-'] * (len(_HEAD) - 2)]
    ms, first = per_image(edge, images)
    arrays = edge.quantize(images, range(len(images)))
    symbols, apart = compare(arrays, want, codec)
    same = sum(
      edge.pack({name: array[i] for name, array in arrays.items()}) == message
      for i, message in enumerate(sent)
    )
    size = sum(
      file['bytes']
      for name, file in made['files'].items()
      if name in (made['artefact'], made['weights'])
    )
  return [
    *row,
    f'{size / 1e6:.2f}',
    str(same),
    str(symbols),
    f'{apart:.1e}',
    f'{ms:.1f}',
    f'{first:.0f}',
    f'{jax_ms:.1f}',
    f'{exported:.1f}',
  ]


def main(argv):
  """Prints a row for each quantizer and format."""
  del argv
  dimensions = flag_names.model(_MODEL.value)
  for name in _QUANTIZERS.value.split(';'):
    flag_names.quantizer(name, dimensions, _SPLIT.value)
  flag_names.choices('formats', _FORMATS.value, exporters.FORMATS)
  model = checkpoints.load(_MODEL.value, part='edge')
  scenes = data.scenes('test', limit=_SCENES.value)
  images = np.stack([scenes[i].image for i in range(len(scenes))])
  print(f'{len(images)} scenes, {platform.machine()}, {jax.devices()[0]}')
  rows = []
  for name in _QUANTIZERS.value.split(';'):
    codec = codecs.FeatureCodec(model, name, _SPLIT.value)
    key = jax.random.key(0)
    want = codec.quantize(codec.features(images), key)
    sent = codec.pack(want)
    encode = functools.partial(_encode, codec, key)
    ms, _ = per_image(encode, images)
    for format_ in _FORMATS.value:
      rows.append(measure(codec, format_, images, want, sent, ms))
      print(text.align([_HEAD, rows[-1]]), flush=True)
  print()
  show(rows)


if __name__ == '__main__':
  app.run(main)
