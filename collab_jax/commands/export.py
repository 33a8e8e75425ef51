r"""Writes encoder and quantizer as a program for an edge.

collab-jax export --format=onnx --quantizer='kmeans(k=8)' out/

The folder holds the program, run.py, which needs no collab_jax, and what both
have to know: docs/export.md.
"""

from absl import app, flags

from collab_jax import (
  checkpoints,
  codecs,
  exporters,
  launcher,
)
from collab_jax.commands import codec_flags, dtype_flags, model_flags

_FORMAT = flags.DEFINE_string(
  'format', 'stablehlo', f'One of {", ".join(exporters.FORMATS)}.'
)
_MODEL = model_flags.define()
_QUANTIZER = codec_flags.define_quantizer()
_SPLIT = flags.DEFINE_enum(
  'split', 'encoder', codecs.SPLITS, 'Before or behind the projection.'
)
_DTYPES = dtype_flags.define()
_SEED = flags.DEFINE_integer('seed', 0, 'Of the keys of pictures.')
_INSIDE = flags.DEFINE_integer(
  'inside',
  None,
  'Most bytes of weights in the file of the program; more go beside it.',
)


def main(argv):
  """Exports a program."""
  if len(argv) != 2:
    raise app.UsageError(f'expected one folder to write, got {argv[1:]}')
  with launcher.runtime(_DTYPES.precision.value, resumes=False):
    model = checkpoints.load(*_MODEL.source, part='edge', **_DTYPES.arguments)
    codec = codecs.FeatureCodec(model, _QUANTIZER.make(), _SPLIT.value)
    limit = {} if _INSIDE.value is None else {'inside': _INSIDE.value}
    manifest = exporters.export(
      codec, argv[1], _FORMAT.value, seed=_SEED.value, **limit
    )
    total = sum(file['bytes'] for file in manifest['files'].values())
    print(
      f'{argv[1]}: {codec.name} of {manifest["model"]} as {manifest["format"]},'
      f' {total:,} bytes in {len(manifest["files"])} files and manifest.json'
    )
