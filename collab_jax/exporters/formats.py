"""Writes programs as files: StableHLO, ONNX and LiteRT."""

from collections.abc import Mapping
import contextlib
import functools
import importlib
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export as jax_export
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors

from collab_jax import codecs
from collab_jax.exporters import program

PLATFORMS = ('cpu', 'cuda', 'tpu')
# Name of a file of weights beside the program.
WEIGHTS = 'weights.safetensors'
# A flatbuffer and a protocol buffer hold less.
LARGEST = 2**31 - 2**20


class ExportError(ValueError):
  """Error for a codec that cannot be exported, with the reason."""


class Port(NamedTuple):
  """Input or output of a program."""

  name: str
  dtype: str
  shape: tuple[int | str, ...]


class ExportedProgram(NamedTuple):
  """Files and ports of a program that was written.

  Attributes:
    artefact: The program's file.
    weights: File of weights beside the program, if there is one.
    inputs: Inputs in order; the axis 'b' is the number of pictures.
    outputs: Fields of the message, in order, and `program.MEANS` if the model
      has statistics of its features.
  """

  artefact: str
  weights: str | None
  inputs: list[Port]
  outputs: list[Port]


def stablehlo(
  codec: codecs.FeatureCodec, folder: Path, seed: int, inside: int
) -> ExportedProgram:
  """Writes a program for any number of pictures, by `jax.export`.

  Args:
    codec: The edge's codec.
    folder: Folder of the files.
    seed: Seed of the key of all pictures.
    inside: Most bytes of weights that go into the program's own file.

  Returns:
    The program's files and ports.

  Raises:
    ExportError: The weights are too large for the program's file.
    ImportError: The extra is missing.
  """
  _import_extra('flatbuffers', 'stablehlo')
  tower = program.weights(codec)
  separate = _size(tower) > inside
  run = program.batched(codec, seed)
  (b,) = jax_export.symbolic_shape('b')
  size = codec.model.config.vision.image_size
  images = jax.ShapeDtypeStruct((b, size, size, 3), jnp.uint8)
  ids = jax.ShapeDtypeStruct((b,), jnp.uint32)
  if separate:
    flat, tree = _flatten(tower)
    _write_weights(folder / WEIGHTS, flat)
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in flat.values()]

    def with_weights(arrays, images, ids):
      return run(jax.tree.unflatten(tree, arrays), images, ids)

    call, arguments = with_weights, (shapes, images, ids)
  else:
    _check_size(tower, 'stablehlo')
    call, arguments = functools.partial(run, tower), (images, ids)
  exported = jax_export.export(jax.jit(call), platforms=PLATFORMS)(*arguments)
  (folder / 'edge.stablehlo').write_bytes(exported.serialize())
  return ExportedProgram(
    'edge.stablehlo',
    WEIGHTS if separate else None,
    [
      Port('images', 'uint8', ('b', size, size, 3)),
      Port('ids', 'uint32', ('b',)),
    ],
    _outputs(codec, 'b'),
  )


def onnx(
  codec: codecs.FeatureCodec, folder: Path, seed: int, inside: int
) -> ExportedProgram:
  """Writes a program for one picture, by jax2onnx; see `stablehlo`.

  Raises:
    ExportError: Something in the codec has no form in ONNX.
    ImportError: The extra is missing.
  """
  del seed  # The runner draws the random words.
  jax2onnx = _import_extra('jax2onnx', 'onnx')
  files, runtime = (
    _import_extra('onnx', 'onnx'),
    _import_extra('onnxruntime', 'onnx'),
  )
  run, specs, inputs = _single(codec, 'onnx')
  path = folder / 'edge.onnx'
  separate = _size(program.weights(codec)) > inside
  with _as_export_error(codec, 'onnx'), _no_warnings():
    converted = jax2onnx.to_onnx(
      run,
      inputs=specs,
      model_name='edge',
      input_names=[port.name for port in inputs],
      output_names=[port.name for port in _outputs(codec, 1)],
    )
    # ONNX has a way of its own to keep weights beside a program.
    weights = 'weights.bin' if separate else None
    files.save_model(
      converted, path, save_as_external_data=separate, location=weights
    )
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    # The runtime reports missing kernels when it loads the file.
    runtime.InferenceSession(path, settings)
  return ExportedProgram('edge.onnx', weights, inputs, _outputs(codec, 1))


def litert(
  codec: codecs.FeatureCodec, folder: Path, seed: int, inside: int
) -> ExportedProgram:
  """Writes a program for one picture, by jax2tf; see `stablehlo`.

  Raises:
    ExportError: Something in the codec has no form in LiteRT.
    ImportError: The extra is missing.
  """
  del seed, inside  # A LiteRT file holds its weights.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  tf = _import_extra('tensorflow', 'litert')
  _import_extra('ai_edge_litert', 'litert')  # `export` runs the program once.
  jax2tf = importlib.import_module('jax.experimental.jax2tf')
  _check_size(program.weights(codec), 'litert')
  run, specs, inputs = _single(codec, 'litert')

  def call(*arguments):
    # Outputs of a signature have names, without slashes.
    return {f'output_{i}': v for i, v in enumerate(run(*arguments))}

  with _as_export_error(codec, 'litert'), _no_warnings():
    function = tf.function(
      jax2tf.convert(call, with_gradient=False),
      input_signature=[
        tf.TensorSpec(spec.shape, spec.dtype, name=port.name)
        for spec, port in zip(specs, inputs, strict=True)
      ],
      autograph=False,
    )
    holder = tf.Module()
    holder.function = function
    converted = tf.lite.TFLiteConverter.from_concrete_functions(
      [function.get_concrete_function()], holder
    ).convert()
  (folder / 'edge.tflite').write_bytes(converted)
  return ExportedProgram('edge.tflite', None, inputs, _outputs(codec, 1))


FORMATS = {'stablehlo': stablehlo, 'onnx': onnx, 'litert': litert}


def _single(codec, format_):
  """Returns the function of one picture, and its inputs."""
  if any(
    leaf.dtype != np.float32
    for leaf in jax.tree.leaves(codec.model.params['img'])
  ):
    raise ExportError(
      f'{format_}: got weights that are not all in float32, in which its'
      " runtime multiplies; load the model with dtype='float32'"
    )
  with _as_export_error(codec, format_):
    run, word_count = program.single(codec)
  for name, field in codec.fields.items():
    if getattr(field, 'dtype', '') == 'bfloat16':
      raise _refusal(codec, format_, f'field {name!r} is in bfloat16')
  size = codec.model.config.vision.image_size
  specs = [jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)]
  inputs = [Port('images', 'uint8', (1, size, size, 3))]
  if word_count:
    specs.append(jax.ShapeDtypeStruct((1, 2, word_count), jnp.int32))
    inputs.append(Port('words', 'int32', (1, 2, word_count)))
  return run, specs, inputs


def _outputs(codec, b):
  """Returns the ports of a message; only StableHLO keeps dtypes of values."""
  known = program.statistics(codec)
  means = [] if known is None else [(b, *known.mean.shape)]
  fields = [
    Port(
      name,
      getattr(field, 'dtype', 'int32')
      if b == 'b'
      else ('float32' if hasattr(field, 'dtype') else 'int32'),
      (b, *field.shape),
    )
    for name, field in codec.fields.items()
  ]
  return [*fields, *(Port(program.MEANS, 'float32', s) for s in means)]


def _import_extra(module: str, extra: str) -> Any:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f"the format {extra!r} needs {module}: pip install 'collab_jax[{extra}]'"
    ) from error


@contextlib.contextmanager
def _as_export_error(codec, format_):
  """Turns any error of a converter into an ExportError with its reason."""
  try:
    yield
  except ExportError:
    raise
  except Exception as error:  # Converters raise what they like.
    reason = str(error).strip().splitlines() or ['']
    raise _refusal(
      codec, format_, f'{type(error).__name__}: {reason[0][:200]}'
    ) from error


def _refusal(codec, format_, reason):
  return ExportError(
    f'{codec.name} cannot be exported to {format_}: {reason}; docs/export.md'
    " lists what can be, and 'stablehlo' takes every quantizer"
  )


@contextlib.contextmanager
def _no_warnings():
  """Silences converters, which warn of their own operations."""
  before = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    yield
  finally:
    logging.disable(before)


def _size(tree: Any) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _check_size(tree, format_):
  if _size(tree) > LARGEST:
    raise ExportError(
      f'{format_}: got {_size(tree)} bytes of weights, a file holds'
      f' {LARGEST}; take stablehlo with its weights beside it'
    )


def _flatten(tree: Any) -> tuple[dict[str, Any], Any]:
  """Returns arrays by name, in the order in which the program takes them."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
  named = {
    '/'.join(str(getattr(k, 'key', getattr(k, 'idx', k))) for k in path): leaf
    for path, leaf in leaves
  }
  return named, structure


def _write_weights(path: Path, arrays: Mapping[str, Any]) -> None:
  """Writes arrays with numbers in front of their names, to keep the order."""
  safetensors.save_file(
    {
      f'{i:05d}/{name}': np.ascontiguousarray(jax.device_get(array))
      for i, (name, array) in enumerate(arrays.items())
    },
    path,
  )
