"""From the fields of a config to the objects that they name."""

from collections.abc import Callable, Collection
import dataclasses
import functools
from pathlib import Path
from typing import Any, cast

import jax
import ml_collections

from collab_jax import (
  _validate,
  checkpoints,
  codecs,
  evaluation,
  quantizers,
  sharding,
  wire,
)
from collab_jax import captioner as captioning
from collab_jax import config as config_lib
from collab_jax import data as datasets
from collab_jax.models import decoding, paligemma, siglip, zoo

Codec = codecs.FeatureCodec | codecs.ImageCodec


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
    text: As `parse_method` reads it; or a whole quantizer with {k} in the
      place of its k: 'centred(vectors=merge(k={k}))'.
    k: Number of vectors sent.

  Returns:
    The quantizer.

  Raises:
    ValueError: There is none of that name, or it has no such settings.
    ImportError: Its module cannot be imported.
  """
  if '{k}' in text:
    return quantizers.make(text.replace('{k}', str(k)))
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


def make_codec(
  made: codecs.ImageSettings | quantizers.Quantizer | str,
  model: paligemma.Model,
  split: str = 'encoder',
  coding: str = 'fixed',
) -> Codec:
  """Binds what `parse_codec` or `make_method` made to a model.

  Args:
    made: What to send, or the text that `parse_codec` reads.
    model: The model.
    split: Where a quantizer cuts it.
    coding: How messages are made bytes; see `wire.Session`.

  Returns:
    The codec.

  Raises:
    ValueError: As `parse_codec`, or it does not fit the model.
    ImportError: As `parse_codec`.
  """
  if isinstance(made, str):
    made = parse_codec(made)
  if isinstance(made, codecs.ImageSettings):
    return codecs.ImageCodec(model, **dataclasses.asdict(made))
  return codecs.FeatureCodec(model, made, split, coding=coding)


def parse_codec(text: str) -> codecs.ImageSettings | quantizers.Quantizer:
  """Reads a codec of which nothing is left open.

  Args:
    text: 'jpeg(quality=20)', 'webp(quality=5,size=32,strip=true)', or a
      quantizer with all of its settings, 'kmeans(k=8,init=++)'.

  Returns:
    Settings of an image codec, or a quantizer.

  Raises:
    ValueError: There is none of that name, or it has no such settings.
    ImportError: Its module cannot be imported.
  """
  name, settings = config_lib.call(text, 'codec', 'webp(quality=20)', ('name',))
  if name in codecs.KINDS:
    return codecs.ImageSettings.make(name, settings)
  known = [*codecs.KINDS, *quantizers.NAMES]
  if name not in known and ':' not in name:
    raise _validate.unknown('codec', name, known)
  return quantizers.make(name, **settings)


def choose_codec(
  codec: str, method: str, k: int, given: Collection[str] = ()
) -> codecs.ImageSettings | quantizers.Quantizer:
  """What is to be sent, where `codec` stands beside `method` and `k`.

  Args:
    codec: A whole codec, as `parse_codec` reads it; '' for none.
    method: A quantizer without its k, as `make_method` reads it.
    k: Number of vectors sent.
    given: Which of the two were named by the user, not left at a default.

  Returns:
    Settings of an image codec, or a quantizer.

  Raises:
    ValueError: Both ways are used, or as `parse_codec` and `make_method`.
    ImportError: Its module cannot be imported.
  """
  if not codec:
    return make_method(method, k)
  for name in given:
    raise ValueError(
      f'{name}: is given beside codec, which says all; write it into codec, as'
      " in --codec='kmeans(k=8)', or leave one of them out"
    )
  return parse_codec(codec)


def make_codecs(
  config: ml_collections.ConfigDict, model: paligemma.Model
) -> list[Codec]:
  """All codecs that a config asks for."""
  fields = cast(Any, config)
  chosen = make_quantizers(config)
  return [
    make_codec(made, model, fields.split, fields.coding)
    for made in (*chosen, *map(parse_codec, fields.codecs))
  ]


def check(config: ml_collections.ConfigDict) -> None:
  """Checks what would otherwise be refused late.

  Nothing is loaded but the image encoder, where books say whose features they
  are for.

  Args:
    config: From a file in configs/ that evaluates.

  Raises:
    ValueError: A setting of the report is out of range, there is no such data
      set, model, codec, book or decoding, or a codec is not for the model or
      there twice.
    ImportError: A quantizer's module cannot be imported.
  """
  fields = cast(Any, config)
  chosen = [*make_quantizers(config), *map(parse_codec, fields.codecs)]
  wire.check_coding(fields.coding)
  vision, encoder = check_model(config).vision, find_encoder(config)
  names = []
  for made in chosen:
    names.append(check_codec(made, vision, fields.split, encoder))
    if names.count(names[-1]) > 1:
      raise ValueError(f'methods, ks and codecs: {names[-1]} is there twice')


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


def check_codec(
  made: codecs.ImageSettings | quantizers.Quantizer,
  vision: siglip.VisionConfig,
  split: str = 'encoder',
  encoder: Callable[[], paligemma.Model] | None = None,
) -> str:
  """Checks that a codec fits a model's pictures, and its books the features.

  Args:
    made: From `parse_codec` or `make_method`.
    vision: The dimensions of the model's encoder.
    split: Where a quantizer cuts the model.
    encoder: Returns the model, of which only the image encoder is looked at;
      called for books that say whose features they are for. None leaves that
      to the codec.

  Returns:
    The codec's name, without the split.

  Raises:
    ValueError: It sends more vectors, numbers or pixels than there are, or a
      book is missing, damaged, or for something else.
  """
  if isinstance(made, codecs.ImageSettings):
    return made.at(vision.image_size).name
  width = vision.width if split == 'encoder' else vision.out_dim
  made.sent(vision.num_tokens)
  made.init_params(jax.random.key(0), vision.num_tokens, width)
  made.fields(vision.num_tokens, width)
  books = quantizers.pretrained.check_coordinates(made)
  if encoder and any(quantizers.pretrained.load(b).model for b in books):
    quantizers.pretrained.check(made, codecs.features_of(encoder(), split))
  return quantizers.name(made)


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
