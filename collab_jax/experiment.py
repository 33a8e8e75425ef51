"""The paper's experiment, from a config to files: what the launchers call."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import ctypes
import json
import logging
import os
from pathlib import Path
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
  wire,
)
from collab_jax import config as config_lib
from collab_jax import data as datasets
from collab_jax.models import decoding, paligemma, zoo


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
  """Reads a quantizer without its k.

  Args:
    text: For instance 'kmeans(init=++)', 'pool' or 'pkg.mod:Class(bits=4)'.

  Returns:
    Its name and settings; numbers become int or float.

  Raises:
    ValueError: It is not of that form.
  """
  return config_lib.call(text, 'method', 'kmeans(init=++)', ('k', 'name'))


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
  fields = cast(Any, config)
  split, coding, chosen = fields.split, fields.coding, make_quantizers(config)
  return [codecs.FeatureCodec(model, q, split, coding=coding) for q in chosen]


def check(config: ml_collections.ConfigDict) -> None:
  """Checks what would otherwise be refused late; nothing is loaded.

  Args:
    config: From configs/tradeoff.py or configs/paligemma_coco.py.

  Raises:
    ValueError: A setting is out of range or names nothing that there is, or a
      quantizer is not for the model or there twice.
    ImportError: A quantizer's module cannot be imported.
  """
  fields = cast(Any, config)
  evaluation.check_draws(fields.resamples, fields.level, fields.seed)
  chosen = make_quantizers(config)
  decoding.make(fields.decoding)
  wire.check_coding(fields.coding)
  checkpoints.as_dtype(fields.dtype or None)
  make_mesh(config)
  make_data(config)
  vectors = _dimensions(config).vision.num_tokens
  names = []
  for quantizer in chosen:
    quantizer.sent(vectors)  # Refuses a k larger than that.
    names.append(quantizers.name(quantizer))
    if names.count(names[-1]) > 1:
      raise ValueError(f'methods and ks: {names[-1]} is there twice')


def _dimensions(config: ml_collections.ConfigDict) -> paligemma.Config:
  """The dimensions of a config's model, which must be there."""
  fields = cast(Any, config)
  name = fields.model
  if fields.model_path:
    own = zoo.card(name).config
  elif name in zoo.NAMES and not Path(name).exists():
    raise ValueError(
      f'model_path: is empty, expected the npz or folder of {name}, as in'
      f' --config.model_path=/path/to/{name}\n{zoo.describe(name)}'
    )
  else:
    own = checkpoints.config_of(name)
  if fields.res not in (0, own.vision.image_size):
    raise ValueError(
      f'res: got {fields.res}, the pictures of {name} have'
      f' {own.vision.image_size} px'
    )
  return own


def load_model(config: ml_collections.ConfigDict) -> paligemma.Model:
  """The model that a config asks for, with what writes and reads its text.

  Args:
    config: Its fields `model`, `model_path`, `tokenizer` and `dtype` are the
      arguments of `checkpoints.load`, '' for None; `res` is the side of its
      pictures in pixels, 0 for whatever it is.

  Returns:
    The model.

  Raises:
    ValueError: It needs a path, has no tokenizer, or has pictures of another
      size; else as `checkpoints.load`.
    FileNotFoundError: A file is missing.
  """
  fields = cast(Any, config)
  name, path = fields.model, fields.model_path or None
  _dimensions(config)
  model = checkpoints.load(
    name,
    path,
    tokenizer=fields.tokenizer or None,
    dtype=fields.dtype or None,
    mesh=make_mesh(config),
  )
  if model.tokenizer is None:
    raise ValueError(
      f'tokenizer: is empty, and there is none beside {path or name}; expected'
      ' as in --config.tokenizer=/path/to/paligemma_tokenizer.model'
    )
  return model


def make_captioner(
  config: ml_collections.ConfigDict, model: paligemma.Model
) -> captioning.Captioner:
  """The captioner that a config asks for."""
  fields = cast(Any, config)
  return captioning.Captioner(
    model, fields.max_tokens, fields.prompt, fields.decoding
  )


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
    config: From configs/tradeoff.py or configs/paligemma_coco.py.
    path: JSONL file of the records.
    progress: Show a bar.

  Returns:
    The records.
  """
  check(config)
  fields = cast(Any, config)
  model = load_model(config)
  return evaluation.evaluate(
    make_codecs(config, model),
    captioner=make_captioner(config, model),
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
  (workdir := Path(workdir)).mkdir(parents=True, exist_ok=True)
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
  shown = evaluation.pivot if evaluation.curves(rows) else evaluation.scores
  text = [shown(rows), '']
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


def headline(config: ml_collections.ConfigDict) -> str:
  """The settings of a run in a line or two."""
  fields = cast(Any, config)
  made = provenance.provenance()
  return (
    f'{fields.model} model, up to {fields.limit} of'
    f' {fields.data}/{fields.data_split},'
    f' {len(fields.methods)} methods x {len(fields.ks)} k x'
    f' {len(fields.seeds)} seeds, split after the {fields.split}\n'
    f'jax {made["versions"]["jax"]} on {made["device"]}, {made["cores"]} cores,'
    f' commit {made["commit"] or "unknown"}'
  )


def draw_fig2(config: ml_collections.ConfigDict, stem: Path):
  """Saves Fig. 2 of a picture with many things in it."""
  fields = cast(Any, config)
  model = load_model(config)
  captioner = make_captioner(config, model)
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
