"""Builds the model, data and codecs that the fields of a config name."""

from collections.abc import Mapping
import functools
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import ml_collections

from collab_jax import (
  _precision,
  _validate,
  checkpoints,
  codecs,
  evaluation,
  quantizers,
  sharding,
  tasks,
  wire,
)
from collab_jax import captioner as captioning
from collab_jax import data as datasets
from collab_jax import metrics as metrics_lib
from collab_jax.models import decoding, paligemma, zoo

# Fields on which `load_model` depends.
MODEL_FIELDS = (
  *('model', 'model_path', 'tokenizer', 'dtype', 'compute_dtype', 'res'),
  'mesh',
)


# Values by which settings of captions are left to a task.
_LEFT_TO_TASK: dict[str, Any] = {
  **{'prompt': '', 'data': '', 'preprocess': '', 'max_tokens': 0},
  **{'decoding': '', 'metrics': ()},
}
CAPTIONS = 'captions'  # Task of `data` as it is, whose pictures have captions.


class TextSettings(NamedTuple):
  """Settings by which texts are written and scored.

  Attributes:
    task: The task; None for captions.
    prompt: The prompt of captions; '' where questions have their own.
    max_tokens: Longest text.
    decoding: Method of decoding.
    metrics: Names of the metrics, the first that of curves.
    preprocess: Method of resizing.
  """

  task: tasks.Task | None
  prompt: str
  max_tokens: int
  decoding: str
  metrics: tuple[str, ...]
  preprocess: str


def make_task(config: ml_collections.ConfigDict) -> tasks.Task | None:
  """Makes the task of a config; None for captions, or in older configs."""
  name = config.get('task', CAPTIONS)
  return None if name == CAPTIONS else tasks.make(name)


def text_settings(config: ml_collections.ConfigDict) -> TextSettings:
  """Returns by what texts are written: a config's settings, or its task's.

  Args:
    config: From a file in configs/ that evaluates. With a task, '', 0 and ()
      stand for the task's own settings.

  Raises:
    ValueError: There is no such task, or the config has a prompt or a dataset
      beside it.
  """
  fields = cast(Any, config)
  task = make_task(config)
  if task is None:
    metrics = metrics_lib.DEFAULT
    if not config.get('data', True):
      raise _validate.error(
        'task',
        CAPTIONS,
        'captions with their dataset, where data is left to the task',
        "write 'captions(data=scenes)'",
      )
    if 'metrics' in config:
      metrics = tuple(fields.metrics)
    return TextSettings(
      None,
      fields.prompt,
      fields.max_tokens,
      fields.decoding,
      metrics,
      fields.preprocess,
    )
  for name, has in (('prompt', 'prompts'), ('data', 'a dataset')):
    if config[name]:
      left = ' '.join(
        f"--config.{name}='{value}'"
        for name, value in _LEFT_TO_TASK.items()
        if config[name]
      )
      raise _validate.error(
        name,
        config[name],
        f"'' with task={fields.task}, whose questions have {has} of their own",
        f"leave settings to the task: '--config=FILE:task={fields.task}' if the"
        f' config file has an argument task, else {left}',
      )
  return TextSettings(
    task,
    '',
    fields.max_tokens or task.max_tokens,
    fields.decoding or task.decoding,
    tuple(fields.metrics) or task.metrics,
    fields.preprocess or task.preprocess,
  )


def make_quantizers(
  config: ml_collections.ConfigDict,
) -> list[quantizers.Quantizer]:
  """Makes the quantizers of `methods` and `ks`, and of `full`."""
  fields = cast(Any, config)  # The types of its fields are not declared.
  selectors = [
    codecs.make_method(text, k) for text in fields.methods for k in fields.ks
  ]
  return [*selectors, quantizers.Identity()] if fields.full else selectors


def make_specs(config: ml_collections.ConfigDict) -> list[codecs.CodecSpec]:
  """Makes the specs of all codecs of a config."""
  fields = cast(Any, config)
  return [
    *(
      codecs.FeatureCodecSpec(quantizer, fields.split, fields.coding)
      for quantizer in make_quantizers(config)
    ),
    *(
      codecs.parse(text, fields.split, fields.coding) for text in fields.codecs
    ),
  ]


def check_fields(config: ml_collections.ConfigDict, mesh: bool = True) -> None:
  """Checks captions, decoding, report, dtypes and mesh; nothing is loaded.

  Args:
    config: From a file in configs/ that evaluates.
    mesh: Whether this process has the devices of the mesh.

  Raises:
    ValueError: One of them is out of range.
    ImportError: The module of a metric cannot be imported.
    TypeError: A class that is named as a metric is none.
  """
  fields = cast(Any, config)
  if 'coding' in config:
    wire.check_coding(fields.coding)
  evaluation.check_draws(fields.resamples, fields.level, fields.seed)
  texts = text_settings(config)
  metrics_lib.make_all(texts.metrics)
  evaluation.check_passes(
    fields.seeds, fields.batch_size, fields.workers, fields.blind
  )
  decoding.make(texts.decoding)
  checkpoints.as_dtype(fields.dtype or None)
  checkpoints.as_dtype(fields.compute_dtype or None, 'compute_dtype')
  _validate.choice('precision', fields.precision, _precision.NAMES)
  if mesh:
    make_mesh(config)


def dimensions(config: ml_collections.ConfigDict) -> paligemma.Config:
  """Returns the dimensions of a config's model.

  Raises:
    ValueError: There is no such model or dtype, it needs a path, or its
      pictures have another size.
  """
  fields = cast(Any, config)
  name = fields.model
  if fields.model_path:
    dims = zoo.card(name).config
  elif name in zoo.NAMES and not Path(name).exists():
    raise ValueError(
      f'model_path: is empty, expected the npz or folder of {name}, as in'
      f' --config.model_path=/path/to/{name}\n{zoo.describe(name)}'
    )
  else:
    dims = checkpoints.config_of(name)
  if fields.res not in (0, dims.vision.image_size):
    raise ValueError(
      f'res: got {fields.res}, the pictures of {name} have'
      f' {dims.vision.image_size} px'
    )
  dtype = checkpoints.as_dtype(fields.compute_dtype or None, 'compute_dtype')
  return dims.with_compute_dtype(dtype.name) if dtype else dims


def metrics_of(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Returns a config's names of metrics, of older configs the default ones."""
  return text_settings(config).metrics


def draws_of(
  config: ml_collections.ConfigDict | Mapping[str, Any],
) -> dict[str, Any]:
  """Returns a config's arguments of `evaluation.summarize`, if it has them."""
  return {n: config[n] for n in ('resamples', 'level', 'seed') if n in config}


def load_model(
  config: ml_collections.ConfigDict, layout: str | None = None
) -> paligemma.Model:
  """Loads the model of a config, with its tokenizer.

  Args:
    config: Its fields `model`, `model_path`, `tokenizer`, `dtype` and
      `compute_dtype` are the arguments of `checkpoints.load`, '' for None;
      `res` is the side of its pictures in pixels, 0 for whatever it is.
    layout: As of `checkpoints.load`.

  Returns:
    The model.

  Raises:
    ValueError: It needs a path, has no tokenizer, or has pictures of another
      size; else as `checkpoints.load`.
    FileNotFoundError: A file is missing.
  """
  fields = cast(Any, config)
  dimensions(config)
  model = checkpoints.load(
    fields.model,
    fields.model_path or None,
    tokenizer=fields.tokenizer or None,
    dtype=fields.dtype or None,
    compute_dtype=fields.compute_dtype or None,
    layout=layout,
    mesh=make_mesh(config),
  )
  if model.tokenizer is None:
    raise ValueError(
      'tokenizer: is empty, and there is none beside'
      f' {fields.model_path or fields.model}; expected as in'
      ' --config.tokenizer=/path/to/paligemma_tokenizer.model'
    )
  return model


def load_edge(config: ml_collections.ConfigDict) -> paligemma.Model:
  """Loads the edge half of a config's model on one device."""
  fields = cast(Any, config)
  return checkpoints.load(
    fields.model,
    fields.model_path or None,
    dtype=fields.dtype or None,
    compute_dtype=fields.compute_dtype or None,
    part='edge',
  )


def make_captioner(
  config: ml_collections.ConfigDict, model: paligemma.Model
) -> captioning.Captioner:
  """Makes the captioner of a config."""
  texts = text_settings(config)
  return captioning.Captioner(
    model, texts.max_tokens, texts.prompt, texts.decoding
  )


def make_mesh(config: ml_collections.ConfigDict) -> jax.sharding.Mesh | None:
  """Makes the mesh of a config; None for one device."""
  fields = cast(Any, config)
  return _make_mesh(fields.mesh.data, fields.mesh.model)


@functools.cache
def _make_mesh(data: int, model: int) -> jax.sharding.Mesh | None:
  mesh = sharding.make_mesh(data, model)
  return mesh if mesh.size > 1 else None


def make_data(config: ml_collections.ConfigDict, size: int = 224):
  """Makes the reader of a config.

  Args:
    config: Its fields `data`, `data_dir`, `data_split`, `limit` and
      `preprocess` are the arguments of `data.make`, and all but the first of
      the task's `load`.
    size: Side of the model's pictures in pixels.

  Raises:
    ValueError: There is no such data set; else as `data.make`.
  """
  fields = cast(Any, config)
  if (task := make_task(config)) is not None:
    texts = text_settings(config)
    return task.load(
      fields.data_dir,
      fields.data_split,
      limit=fields.limit,
      size=size,
      method=texts.preprocess,
    )
  return datasets.make(
    fields.data,
    fields.data_dir,
    fields.data_split,
    limit=fields.limit,
    size=size,
    method=fields.preprocess,
  )
