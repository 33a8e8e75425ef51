r"""Compiles a run's programs for a TPU without one, and says if they fit.

collab-jax fit --model=paligemma-3b-mix-224 --topology=v5e:2x4 --mesh.data=8
collab-jax fit --model=paligemma2-10b --res=448 --topology=v5e:2x4 \
    --mesh.data=2 --mesh.model=4 --batch=16 --out=fit.json
collab-jax fit --model=tiny --server

Needs shapes alone, no weights. For each program of a sweep, or of a server, the
table has the seconds that compiling took and the memory of each device in GB:
arguments, outputs, temporaries with the code, and all that is in use while it
runs, the weights that it does not read included. The exit status is 0 if all
programs fit. Without --topology they are compiled for the devices here.
"""

from collections.abc import Iterator
import pathlib
import time
from typing import Any

from absl import app, flags
import jax

from collab_jax import (
  _platform,
  _validate,
  checkpoints,
  codecs,
  jsonl,
  launcher,
)
from collab_jax.aot import devices, programs, report
from collab_jax.commands import dtype_flags
from collab_jax.models import decoding, paligemma
from collab_jax.serving.engine import engine

_MODEL = flags.DEFINE_string(
  'model', 'tiny', "A released model's name, 'tiny', or a model's folder."
)
_RES = flags.DEFINE_integer(
  'res', 0, 'Side of the pictures in pixels, for a name without it.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', '', "TPU chips, 'v5e:2x4'; '' for the devices here."
)
_DATA = flags.DEFINE_integer(
  'mesh.data',
  -1,
  'Devices over which the pictures of a batch are spread; -1 for all that the'
  ' other axis leaves.',
)
_SPLIT_OVER = flags.DEFINE_integer(
  'mesh.model', 1, 'Devices over which the parameters are split.'
)
_BATCH = flags.DEFINE_integer(
  'batch', None, 'Pictures at a time. Default: 64; of a server 8 are begun.'
)
_MAX_TOKENS = flags.DEFINE_integer(
  'max_tokens', None, 'Longest caption. Default: 34; of a server 32.'
)
_PROMPT = flags.DEFINE_integer(
  'prompt_tokens', 4, "Tokens of a sweep's prompt; 'caption en' has 4."
)
_DTYPES = dtype_flags.define(weights=False)
_LAYOUT = flags.DEFINE_enum(
  'layout',
  None,
  ('stacked', 'transposed'),
  'Of the weights. Default: as loading chooses it.',
)
_QUANTIZERS = flags.DEFINE_string(
  'quantizers',
  'kmeans(init=++);random(rebuild=nearest)',
  "Quantizers without their k, separated by ';'. All vectors are sent, too.",
)
_KS = flags.DEFINE_list('k', ['8'], 'Numbers of vectors sent.')
_SPLIT = flags.DEFINE_enum(
  'split', 'encoder', codecs.SPLITS, 'Split of the model.'
)
_DECODING = flags.DEFINE_string('decoding', 'greedy', "Or 'beam2', ...")
_SERVER = flags.DEFINE_bool(
  'server', False, "A server's programs in the place of a sweep's."
)
_ROWS = flags.DEFINE_integer(
  'rows', 32, 'Of a server: captions decoded at a time.'
)
_JOBS = flags.DEFINE_integer(
  'jobs', 1, 'Programs compiled at a time; a run compiles two.', lower_bound=1
)
_OUT = flags.DEFINE_string('out', '', 'File for the numbers, as JSON.')

_GB = 1e9


def max_tokens() -> int:
  """Returns the tokens of the longest caption."""
  if _MAX_TOKENS.value is not None:
    return _MAX_TOKENS.value
  return engine.EngineConfig().max_tokens if _SERVER.value else 34


def check_flags() -> None:
  """Raises ValueError for flags that are wrong, before anything is compiled."""
  _validate.integer('max_tokens', max_tokens())
  for flag in (_PROMPT, _ROWS):
    _validate.integer(flag.name, flag.value)
  decoding.make(_DECODING.value)
  folder = pathlib.Path(_OUT.value).absolute().parent
  if not folder.is_dir():
    raise _validate.error('out', _OUT.value, 'a file in a folder that exists')


def make_placement() -> devices.Placement:
  """Returns the devices that the flags name; one for a server.

  Raises:
    ValueError: There is no such topology or mesh.
    ImportError: libtpu is missing.
  """
  data, model = _DATA.value, _SPLIT_OVER.value
  if _SERVER.value:
    if data > 1 or model > 1:
      sizes = f'{data} x {model}'
      raise _validate.error(
        'mesh', sizes, '1 x 1: each device of a server has programs of its own'
      )
    data = 1
  if _TOPOLOGY.value:
    return devices.Placement.of_topology(_TOPOLOGY.value, data, model)
  return devices.Placement.of_present(data, model)


def make_batch(placement: devices.Placement) -> int:
  """Returns the pictures at a time; more than the flag if 'data' needs it."""
  batch = _BATCH.value
  if batch is None:
    batch = 8 if _SERVER.value else 64
  _validate.integer('batch', batch)
  data = placement.sizes['data']
  return -(-batch // data) * data


def make_model(
  config: paligemma.Config, placement: devices.Placement
) -> paligemma.Model:
  """Returns the model that the flags name, of shapes."""
  # Released weights are stored so; those that ship are loaded as float32.
  dtype = _DTYPES.dtype.value
  if dtype is None:
    dtype = 'float32' if _MODEL.value in checkpoints.NAMES else 'bfloat16'
  layout = _LAYOUT.value or checkpoints.default_layout(config, placement.mesh)
  config = config.with_layout(layout)
  config = config.with_compute_dtype(_DTYPES.compute_dtype.value or '')
  return programs.abstract_model(config, dtype, placement)


def trace(
  model: paligemma.Model,
  placement: devices.Placement,
  specs: list[codecs.FeatureCodecSpec],
  batch: int,
) -> Iterator[programs.Program]:
  """Traces the programs that the flags ask for; see `aot.programs`."""
  if _SERVER.value:
    config = engine.EngineConfig(
      max_slots=_ROWS.value,
      max_prefill_batch=batch,
      max_tokens=max_tokens(),
    )
    return programs.server(model, placement, specs, config)
  method = decoding.make(_DECODING.value)
  return programs.sweep(
    model,
    placement,
    programs.Sweep(specs, batch, max_tokens(), _PROMPT.value, method),
  )


def _settings(model, placement, batch: int) -> dict[str, Any]:
  config = model.config
  return {
    'model': config.name,
    'image_size': config.vision.image_size,
    'dtype': jax.tree.leaves(model.params)[0].dtype.name,
    'compute_dtype': model.compute_dtype,
    'precision': _DTYPES.precision.value,
    'layout': config.text.layout,
    'device': placement.name,
    'kind': placement.devices[0].device_kind,
    'memory': placement.memory,
    'mesh': placement.sizes,
    'batch': batch,
    'max_tokens': max_tokens(),
    'jobs': _JOBS.value,
    'programs_of': 'server' if _SERVER.value else 'sweep',
  }


def _head(settings: dict[str, Any], weights: int) -> str:
  memory = settings['memory']
  each = f', {memory / _GB:.1f} GB each' if memory else ''
  mesh = settings['mesh']
  return (
    f'{settings["model"]}, {settings["image_size"]} px, {settings["dtype"]},'
    f' products of {settings["compute_dtype"]}, {settings["layout"]}, batch'
    f' {settings["batch"]}\n{settings["device"]}, mesh {mesh["data"]} x'
    f' {mesh["model"]}{each}; weights {weights / _GB:.2f} GB a device\n\n'
    + _line(
      'program', 'seconds', 'arguments', 'outputs', 'temp.', 'all', 'fits'
    )
  )


def _line(name: str, *cells: str) -> str:
  return f'{name:44}' + ''.join(f'{cell:>10}' for cell in cells)


def _row(program: report.CompiledProgram) -> str:
  sizes = program.arguments, program.outputs, program.temporaries
  cells = [f'{size / _GB:.2f}' for size in sizes]
  if program.error:
    cells = ['-'] * 3
  fits = {True: 'yes', False: 'NO', None: '?'}[program.fits]
  seconds = 'equal' if program.same_as else f'{program.seconds:.1f}'
  return _line(
    program.name, seconds, *cells, f'{program.total / _GB:.2f}', fits
  )


def main(argv):
  """Prints the table; returns 1 if a program does not fit."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime(_DTYPES.precision.value, resumes=False):
    # The seconds are those of a program that is compiled for the first time.
    jax.config.update('jax_enable_compilation_cache', False)
    if _TOPOLOGY.value:
      # JAX would look for a TPU otherwise.
      jax.config.update('jax_platforms', 'cpu')
    check_flags()
    config = programs.model_config(_MODEL.value, _RES.value)
    specs = programs.make_specs(
      _QUANTIZERS.value, _KS.value, _SPLIT.value, config
    )
    placement = make_placement()
    batch = make_batch(placement)
    compiled, start = [], time.perf_counter()
    with _platform.compiling_for(placement.platform):
      model = make_model(config, placement)
      settings = _settings(model, placement, batch)
      print(_head(settings, report.device_bytes(model.params)), flush=True)
      traced = trace(model, placement, specs, batch)
      rows = report.compile_all(traced, placement, model.params, _JOBS.value)
      for program in rows:
        compiled.append(program)
        print(_row(program), flush=True)
    elapsed = time.perf_counter() - start
    refused = [program for program in compiled if program.fits is False]
    print(_verdict(compiled, refused, elapsed))
    if _OUT.value:
      content = report.to_json(settings, model.params, compiled, elapsed)
      jsonl.write_json(_OUT.value, content)
    return int(bool(refused))


def _verdict(compiled, refused, elapsed: float) -> str:
  seconds = sum(program.seconds for program in compiled)
  count = sum(not program.same_as for program in compiled)
  lines = [
    '',
    f'{count} programs, {seconds:.0f} s to compile, {elapsed:.0f} s in all',
  ]
  lines += [
    f'does not fit: {program.name}' + f': {program.error}' * bool(program.error)
    for program in refused
  ]
  return '\n'.join(lines)
