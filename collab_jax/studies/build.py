"""From the fields of a config to the objects that they name."""

from collections.abc import Callable
import functools
from pathlib import Path
from typing import Any, cast

import jax
import ml_collections

from collab_jax import captioner as captioning
from collab_jax import (
  checkpoints,
  codecs,
  evaluation,
  quantizers,
  sharding,
  wire,
)
from collab_jax import data as datasets
from collab_jax.models import decoding, paligemma, zoo


def make_quantizers(
  config: ml_collections.ConfigDict,
) -> list[quantizers.Quantizer]:
  """All quantizers that a config asks for."""
  fields = cast(Any, config)  # The types of its fields are not declared.
  chosen = [
    codecs.make_method(text, k) for text in fields.methods for k in fields.ks
  ]
  return [*chosen, quantizers.Identity()] if fields.full else chosen


def make_specs(config: ml_collections.ConfigDict) -> list[codecs.CodecSpec]:
  """Specs of all codecs that a config asks for."""
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


def check(config: ml_collections.ConfigDict) -> list[codecs.CodecSpec]:
  """Checks what would otherwise be refused late.

  Nothing is loaded but the image encoder, where books say whose features they
  are for.

  Args:
    config: From a file in configs/ that evaluates.

  Returns:
    The specs of its codecs.

  Raises:
    ValueError: A setting of the report is out of range, there is no such data
      set, model, codec, book or decoding, or a codec is not for the model or
      there twice.
    ImportError: A quantizer's module cannot be imported.
  """
  fields = cast(Any, config)
  specs = make_specs(config)
  wire.check_coding(fields.coding)
  model, encoder = check_model(config), find_encoder(config)
  specs = [spec.validate(model, encoder) for spec in specs]
  names = [spec.name for spec in specs]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'methods, ks and codecs: {name} is there twice')
  return specs


def check_model(config: ml_collections.ConfigDict) -> paligemma.Config:
  """Checks model, data, decoding and report; returns the model's dimensions.

  Args:
    config: From a file in configs/ that evaluates.

  Raises:
    ValueError: As `check`.
  """
  fields = cast(Any, config)
  evaluation.check_draws(fields.resamples, fields.level, fields.seed)
  evaluation.check_passes(
    fields.seeds, fields.batch_size, fields.workers, fields.blind
  )
  decoding.make(fields.decoding)
  checkpoints.as_dtype(fields.dtype or None)
  make_mesh(config)
  make_data(config)
  return dimensions(config)


def find_encoder(
  config: ml_collections.ConfigDict,
) -> Callable[[], paligemma.Model]:
  """Returns what loads a config's image encoder, once."""
  return functools.cache(lambda: _load(config, part='edge'))


def dimensions(config: ml_collections.ConfigDict) -> paligemma.Config:
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


def load_model(
  config: ml_collections.ConfigDict, layout: str | None = None
) -> paligemma.Model:
  """The model that a config asks for, with what writes and reads its text.

  Args:
    config: Its fields `model`, `model_path`, `tokenizer` and `dtype` are the
      arguments of `checkpoints.load`, '' for None; `res` is the side of its
      pictures in pixels, 0 for whatever it is.
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
  model = _load(config, layout=layout)
  if model.tokenizer is None:
    raise ValueError(
      'tokenizer: is empty, and there is none beside'
      f' {fields.model_path or fields.model}; expected as in'
      ' --config.tokenizer=/path/to/paligemma_tokenizer.model'
    )
  return model


def _load(config, **how: Any) -> paligemma.Model:
  """The weights of a config's model."""
  return checkpoints.load(
    config.model,
    config.model_path or None,
    tokenizer=config.tokenizer or None,
    dtype=config.dtype or None,
    **how,
    mesh=make_mesh(config),
  )


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
