"""Exports the edge as a folder that needs nothing else: docs/export.md."""

from collections.abc import Callable
import hashlib
from importlib import metadata
import json
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

import numpy as np
from PIL import Image

from collab_jax import _validate, codecs, message, random_keys
from collab_jax.exporters import (
  formats,
  program,
  run,
)

# Default of the most bytes of weights in a program's own file. A file may hold
# up to 2 GB; but it is read whole, and copied while it is compiled, and weights
# beside it are mapped into memory.
INSIDE = 1 << 28

RUNNER = 'run.py'
MANIFEST = 'manifest.json'
SESSION = 'session.json'
STATISTICS = 'statistics.npz'

# Packages that run a format, and packages that write it.
_RUNTIMES = {
  'stablehlo': 'jax flatbuffers',
  'onnx': 'onnxruntime',
  'litert': 'ai-edge-litert',
}
_WRITERS = {
  'stablehlo': ('jax', 'jaxlib'),
  'onnx': ('jax', 'jax2onnx', 'onnx'),
  'litert': ('jax', 'tensorflow'),
}

_README = """# {name}

Encoder and quantizer of the model {model}, split {split}, as {format}; written
by collab_jax {version}. An edge needs this folder, Python and

    pip install numpy pillow {runtime}
    python run.py picture.png --out=messages
    python run.py picture.png    # and grpcio: sends it to localhost:50051
    python run.py picture.png --prompt='detect cat'

A picture becomes a message of {length} bytes. In Python:

    import run
    edge = run.Edge('.')
    messages = edge(images, ids)  # u8[B {size} {size} 3] -> a list of bytes

{draws}

{artefact} takes {inputs}
and returns {outputs}.
Pictures are made RGB of {size} x {size} by Pillow's bicubic filter.
manifest.json says this to programs, with the files' SHA-256; session.json is
sent to a server in the handshake.
"""
_RANDOM_NOTE = (
  'A picture has the key fold_in(key({seed}), its id), as it has in collab_jax:'
  '\nequal ids give equal messages. --id is that of the first picture.'
)
_DETERMINISTIC_NOTE = (
  'Nothing is drawn: the ids of pictures make no difference.'
)


def export(
  codec: Any,
  out: str | os.PathLike[str],
  format: str = 'stablehlo',
  *,
  seed: int = 0,
  inside: int = INSIDE,
) -> dict[str, Any]:
  """Writes encoder and quantizer as a program, with all that an edge needs.

      cj.export(codec, 'edge', 'onnx')

  Args:
    codec: A `FeatureCodec` with the coding 'fixed'.
    out: An empty or a new folder.
    format: 'stablehlo' takes any number of pictures at a time and runs
      wherever JAX does; 'onnx' and 'litert' take one at a time, run without
      JAX, and are made by the extras of these names.
    seed: Each picture has the key `fold_in(key(seed), its id)`.
    inside: The most bytes of weights that go into the program's own file;
      larger ones go into a file beside it.

  Returns:
    The manifest, as manifest.json has it.

  Raises:
    ValueError: An unknown format, a folder that is not empty, or a codec that
      cannot be exported; nothing is written then.
    ImportError: The format's extra is missing.
  """
  out = Path(out)
  write = _check(codec, out, format, seed, inside)
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(
    dir=out.parent, prefix='.export_'
  ) as temporary:
    draft = Path(temporary) / 'draft'
    draft.mkdir(mode=0o755)
    exported = write(codec, draft, seed, inside)
    manifest = _manifest(codec, format, seed, exported)
    manifest['statistics'] = _write_statistics(codec, draft)
    session = codec.session.to_json()
    (draft / SESSION).write_text(session, 'utf-8')
    runner = Path(__file__).with_name(RUNNER)
    shutil.copyfile(runner, draft / RUNNER)
    (draft / 'README.md').write_text(_readme(codec, manifest), 'utf-8')
    manifest['files'] = {p.name: _file(p) for p in sorted(draft.iterdir())}
    text = json.dumps(manifest, indent=2) + '\n'
    (draft / MANIFEST).write_text(text, 'utf-8')
    if format != 'stablehlo':
      _verify(codec, draft, seed)
    if out.exists():
      out.rmdir()
    draft.rename(out)
  return manifest


def _check(
  codec, out, format_, seed, inside
) -> Callable[..., formats.ExportedProgram]:
  """Checks the arguments, and returns the format's writer."""
  if format_ not in formats.FORMATS:
    raise _validate.unknown('format', format_, formats.FORMATS)
  if codec.channel or not codec.layout.fields:
    raise formats.ExportError(
      f'codec: got {type(codec).__name__}, expected a FeatureCodec; the edge'
      ' of an image codec is Pillow'
    )
  if codec.session.coding != 'fixed':
    raise formats.ExportError(
      f'coding: got {codec.session.coding!r}, expected a codec with'
      " coding='fixed', which is what the runner packs"
    )
  if 'Transformer' not in codec.model.params.get('img', {}):
    raise formats.ExportError(
      'the model has no image encoder: load it whole, or its part edge'
    )
  for name, value, top in (('seed', seed, 2**31), ('inside', inside, 2**63)):
    _validate.integer(name, value, 0, top - 1)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f'{out} is not empty: give a folder that is, or a new one')
  return formats.FORMATS[format_]


def _verify(codec, folder, seed) -> None:
  """Runs a converted program, and compares it with the codec.

  Some converters write programs that compute something else. Ties may be
  broken differently by another runtime, so one picture of the four may differ,
  and in the others one symbol in a hundred.
  """
  size = codec.model.config.vision.image_size
  noise = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
  images = np.stack(
    [
      np.asarray(Image.fromarray(small).resize((size, size)), np.uint8)
      for small in noise
    ]
  )
  got = run.Edge(folder).quantize(images, range(4))
  want = codec.quantize(codec.features(images), random_keys.make(seed))
  for name, field in codec.fields.items():
    a, b = (np.asarray(m[name], np.float32).reshape(4, -1) for m in (got, want))
    symbols = isinstance(field, message.Symbols)
    near = a == b if symbols else np.abs(a - b) <= 0.01 + 0.01 * np.abs(b)
    agreement = np.sort(near.mean(axis=1))
    if near.size and agreement[1] < 0.99:
      raise formats.ExportError(
        f'{codec.name} cannot be exported: what the converter made computes'
        f' another {name!r} than the codec, of which {near.mean():.1%} agree;'
        " 'stablehlo' takes every quantizer"
      )


def _write_statistics(codec, folder: Path) -> dict[str, Any] | None:
  """Writes the statistics by which the runner tells unlike pictures."""
  known = program.statistics(codec)
  if known is None:
    return None
  path = folder / STATISTICS
  np.savez(path, mean=known.mean, whitening=known.whitening)
  return {
    'file': STATISTICS,
    'output': program.MEANS,
    'threshold': known.threshold,
    'warning': codecs.describe_unlike_picture(codec.model),
  }


def _manifest(codec, format_, seed, exported) -> dict[str, Any]:
  return {
    'format': format_,
    'version': 1,
    'artefact': exported.artefact,
    'weights': exported.weights,
    'session': SESSION,
    'digest': codec.session.digest,
    'model': codec.model.config.name,
    'encoder': codec.encoder_fingerprint,
    'codec': codec.name,
    'split': codec.split,
    'seed': seed,
    'uses_key': codec.uses_key,
    'inputs': [_port(port) for port in exported.inputs],
    'outputs': [_port(port) for port in exported.outputs],
    'message_bytes': codec.session.length,
    'preprocessing': {
      'size': codec.model.config.vision.image_size,
      'method': 'hf_bicubic',
      'range': [0, 255],
    },
    'platforms': [*formats.PLATFORMS] if format_ == 'stablehlo' else ['cpu'],
    'runtime': _RUNTIMES[format_].split(),
    'versions': {
      name: metadata.version(name)
      for name in ('collab_jax', *_WRITERS[format_])
      if _installed(name)
    },
  }


def _port(port):
  return {'name': port.name, 'dtype': port.dtype, 'shape': [*port.shape]}


def _installed(name):
  try:
    return bool(metadata.version(name))
  except metadata.PackageNotFoundError:
    return False


def _readme(codec, manifest):
  def listed(ports):
    return ',\n'.join(
      f'{p["name"]} {p["dtype"]}[{" ".join(map(str, p["shape"]))}]'
      for p in ports
    )

  random_note = _RANDOM_NOTE.format(seed=manifest['seed'])
  return _README.format(
    name=codec.name,
    model=manifest['model'],
    split=codec.split,
    format=manifest['format'],
    version=manifest['versions'].get('collab_jax', ''),
    runtime=_RUNTIMES[manifest['format']],
    length=manifest['message_bytes'],
    size=manifest['preprocessing']['size'],
    draws=random_note if codec.uses_key else _DETERMINISTIC_NOTE,
    artefact=manifest['artefact'],
    inputs=listed(manifest['inputs']),
    outputs=listed(manifest['outputs']),
  )


def _file(path: Path) -> dict[str, Any]:
  with path.open('rb') as data:
    digest = hashlib.file_digest(data, 'sha256').hexdigest()
  return {'bytes': path.stat().st_size, 'sha256': digest}
