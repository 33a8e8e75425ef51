"""The paper's experiment, from a config to files: what the launchers call."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import ctypes
import json
import logging
import os
from pathlib import Path
import re
import runpy
import sys
import textwrap
from typing import Any, cast
import warnings

import jax
import ml_collections
from PIL import Image

from collab_jax import captioner as captioning
from collab_jax import (
  checkpoints,
  codecs,
  evaluation,
  plots,
  provenance,
  quantizers,
  sharding,
)
from collab_jax import data as datasets
from collab_jax.models import paligemma

_METHOD = re.compile(r'(?P<name>[^()]+)(?:\((?P<settings>[^()]*)\))?')


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
  """Reads a quantizer without its k.

  Args:
    text: For instance 'kmeans(init=++)', 'pool' or 'pkg.mod:Class(bits=4)'.

  Returns:
    Its name and settings; whole numbers become int.

  Raises:
    ValueError: It is not of that form.
  """
  match = _METHOD.fullmatch(text.strip())
  settings = {}
  for part in filter(None, ((match and match['settings']) or '').split(',')):
    name, equals, value = part.strip().partition('=')
    if not equals or name in ('k', 'name', *settings):
      match = None
      break
    settings[name] = int(value) if re.fullmatch(r'-?\d+', value) else value
  if not match:
    raise ValueError(
      f"method: got {text!r}, expected 'name' or 'name(setting=value,...)',"
      " for instance 'kmeans(init=++)'"
    )
  return match['name'], settings


def make_method(text: str, k: int) -> quantizers.Quantizer:
  """Makes the quantizer that sends k vectors.

  Args:
    text: As `parse_method` reads it.
    k: Number of vectors sent.

  Returns:
    The quantizer.

  Raises:
    ValueError: There is none of that name, or it has no such settings.
    ImportError: Its module cannot be imported.
  """
  name, settings = parse_method(text)
  if name == 'identity':
    raise ValueError(
      "method: got 'identity', which sends all vectors and has no k; all"
      ' vectors are sent for comparison anyway, so give another method, such'
      " as 'kmeans'"
    )
  return quantizers.make(name, k=k, **settings)


def make_quantizers(
  config: ml_collections.ConfigDict,
) -> list[quantizers.Quantizer]:
  """All quantizers that a config asks for."""
  fields = cast(Any, config)  # The types of its fields are not declared.
  chosen = [make_method(text, k) for text in fields.methods for k in fields.ks]
  return [*chosen, quantizers.Identity()] if fields.full else chosen


def make_codecs(
  config: ml_collections.ConfigDict, model: paligemma.Model
) -> list[codecs.FeatureCodec]:
  """All codecs that a config asks for."""
  split = cast(Any, config).split
  chosen = make_quantizers(config)
  return [codecs.FeatureCodec(model, q, split) for q in chosen]


def check(config: ml_collections.ConfigDict) -> None:
  """Checks what would otherwise be refused late; nothing is loaded.

  Args:
    config: From configs/tradeoff.py.

  Raises:
    ValueError: A setting of the report is out of range, or there is no such
      data set or quantizer.
    ImportError: A quantizer's module cannot be imported.
  """
  fields = cast(Any, config)
  evaluation.check_draws(fields.resamples, fields.level, fields.seed)
  make_quantizers(config)
  make_mesh(config)
  make_data(config)


def make_mesh(config: ml_collections.ConfigDict) -> jax.sharding.Mesh | None:
  """The mesh that a config asks for; None for one device."""
  fields = cast(Any, config)
  mesh = sharding.make_mesh(fields.mesh.data, fields.mesh.model)
  return mesh if mesh.size > 1 else None


def make_data(config: ml_collections.ConfigDict, size: int = 224):
  """The reader that a config asks for; `size` is the model's, in pixels."""
  fields = cast(Any, config)
  return datasets.make(
    fields.data,
    fields.data_dir,
    fields.data_split,
    limit=fields.limit,
    size=size,
    method=fields.preprocess,
  )


def evaluate(
  config: ml_collections.ConfigDict,
  path: str | os.PathLike[str],
  progress: bool = True,
) -> list[dict[str, Any]]:
  """Makes the records of a config, or what is missing of them.

  Args:
    config: From configs/tradeoff.py.
    path: JSONL file of the records.
    progress: Show a bar.

  Returns:
    The records.
  """
  check(config)
  fields = cast(Any, config)
  model = checkpoints.load(fields.model, mesh=make_mesh(config))
  return evaluation.evaluate(
    make_codecs(config, model),
    captioner=captioning.Captioner(model, fields.max_tokens, fields.prompt),
    data=make_data(config, model.config.vision.image_size),
    seeds=tuple(fields.seeds),
    path=path,
    batch_size=fields.batch_size,
    workers=fields.workers,
    progress=progress,
    blind=tuple(fields.blind),
  )


def report(
  records: Sequence[Mapping[str, Any]],
  workdir: str | os.PathLike[str],
  config: ml_collections.ConfigDict | None = None,
  **draws: Any,
) -> str:
  """Writes Fig. 3, its table and summary.json, and returns what to print.

  Args:
    records: From `evaluate` or `evaluation.read_records`.
    workdir: Folder to write to.
    config: What the records were made with, if known.
    **draws: Arguments of `evaluation.summarize`.

  Returns:
    The table by method and k, and the paper's claims beside what was found.
  """
  if config is not None:
    draws = {n: config[n] for n in ('resamples', 'level', 'seed')} | draws
  rows = evaluation.summarize(records, **draws)
  workdir = Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  findings = evaluation.findings(rows)
  (workdir / 'table.txt').write_text(evaluation.table(rows) + '\n')
  if evaluation.curves(rows):
    plots.save(plots.tradeoff(rows, x='ratio'), workdir / 'fig3')
    plots.save(plots.tradeoff(rows, x='bytes'), workdir / 'fig3_bytes')
  summary = {
    'settings': config.to_dict() if config is not None else None,
    'made_with': provenance.provenance(),
    'findings': findings,
    'rows': rows,
  }
  write_json(workdir / 'summary.json', summary)
  text = [evaluation.pivot(rows), '']
  for line in findings:
    text += textwrap.wrap(line, 78, subsequent_indent='  ')
  return '\n'.join(text)


def write_json(path: str | os.PathLike[str], value: Any):
  """Writes a value at once, never half of it."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(path.name + '.draft')
  draft.write_text(json.dumps(value, indent=1) + '\n')
  draft.replace(path)


def work_units(
  config: ml_collections.ConfigDict, sweep: Callable[[Callable, Any], None]
) -> list[ml_collections.ConfigDict]:
  """The configs of a sweep.

  Args:
    config: What the units have in common.
    sweep: Called as sweep(add, config); calls add(field=value), once a unit.

  Returns:
    One config per unit.

  Raises:
    AttributeError: A field that the config does not have.
  """
  units = []

  def add(**fields):
    unit = config.copy_and_resolve_references().lock()
    for name, value in fields.items():
      setattr(unit, name, value)
    units.append(unit)

  sweep(add, config)
  return units


def load_sweep(path: str | os.PathLike[str]) -> Callable[[Any, Any], None]:
  """Reads the function `sweep` of a config file.

  Args:
    path: The file; arguments after a colon are left aside.

  Returns:
    The function.

  Raises:
    ValueError: The file has none.
  """
  file = os.fspath(path).partition(':')[0]
  sweep = runpy.run_path(file).get('sweep')
  if sweep is None:
    raise ValueError(f'{path} has no function sweep(add)')
  return sweep


def parse_shard(text: str) -> tuple[int, int]:
  """Reads 'i/n', 0 <= i < n."""
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise ValueError(f'shard: got {text!r}, expected i/n with 0 <= i < n')
  return int(match[1]), int(match[2])


def headline(config: ml_collections.ConfigDict) -> str:
  """The settings of a run in a line or two."""
  fields = cast(Any, config)
  made = provenance.provenance()
  jax_version = made['versions']['jax']
  return (
    f'{fields.model} model, {fields.limit} of {fields.data}/'
    f'{fields.data_split},'
    f' {len(fields.methods)} methods x {len(fields.ks)} k x'
    f' {len(fields.seeds)} seeds, split after the {fields.split}\n'
    f'jax {jax_version} on {made["device"]}, {made["cores"]} cores,'
    f' commit {made["commit"] or "unknown"}'
  )


def draw_fig2(config: ml_collections.ConfigDict, stem: Path):
  """Saves Fig. 2 of a picture with many things in it."""
  fields = cast(Any, config)
  model = checkpoints.load(fields.model, mesh=make_mesh(config))
  captioner = captioning.Captioner(model, fields.max_tokens, fields.prompt)
  data = make_data(config, model.config.vision.image_size)
  examples = [data[i] for i in range(min(24, len(data)))]
  best = max(examples, key=lambda e: len(e.captions[0]))
  size = min(fields.batch_size, len(data))
  figure = plots.fig2(model, best.image, captioner=captioner, batch_size=size)
  plots.save(figure, stem)


def listing(folder: str | os.PathLike[str]) -> str:
  """The files of a folder, on one line."""
  return ' '.join(sorted(p.name for p in Path(folder).iterdir()))


def _keep_memory() -> None:
  """Makes glibc reuse large buffers: clearing their pages costs a third."""
  if sys.platform == 'linux' and hasattr(libc := ctypes.CDLL(None), 'mallopt'):
    # Of malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD.
    for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):
      libc.mallopt(option, value)


@contextlib.contextmanager
def launched() -> Iterator[None]:
  """What all launchers share: compiled programs are kept, errors are short.

  Programs are kept in JAX_COMPILATION_CACHE_DIR, by default in the user's
  cache folder: equal ones are compiled once, and not at all in the next run.
  What the environment says of JAX's cache is left as it is.
  """
  _keep_memory()
  sys.path.insert(0, os.getcwd())  # For quantizers of one's own.
  logging.getLogger('jax').setLevel(logging.ERROR)
  # Such a picture is refused: the error says it.
  warnings.simplefilter('ignore', Image.DecompressionBombWarning)
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  for name, value in {
    'jax_compilation_cache_dir': str(Path(home).expanduser() / 'collab_jax'),
    'jax_persistent_cache_min_compile_time_secs': 0.05,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)
  try:
    yield
  except (ValueError, AttributeError, OSError, ImportError) as error:
    message = error.args[0] if len(error.args) == 1 else error
    raise SystemExit(f'error: {message}') from error
