"""Programs of a sweep and of a server, traced from shapes alone.

They are the jitted functions that codecs, captioner and engine run, with the
arguments that those give them, as shapes in the place of arrays. Programs are
traced one by one, for the platform that `collab_jax._platform` says.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import os
from typing import Any, NamedTuple, cast

import jax
from jax import numpy as jnp
import numpy as np

from collab_jax import (
  _validate,
  captioner,
  checkpoints,
  codecs,
  quantizers,
  random_keys,
  wire,
)
from collab_jax import message as messages
from collab_jax.aot import devices
from collab_jax.checkpoints import hub
from collab_jax.codecs import encoder, feature
from collab_jax.models import decoding as decoding_lib
from collab_jax.models import paligemma, zoo
from collab_jax.quantizers import padding
from collab_jax.serving.engine import decode_state
from collab_jax.serving.engine import engine as engines


class Program(NamedTuple):
  """Program to compile.

  Attributes:
    name: Its task, and the shapes where there are several.
    traced: A `jax.stages.Traced`, of which only shapes are known.
  """

  name: str
  traced: Any


class Sweep(NamedTuple):
  """Settings on which the programs of a sweep depend.

  Attributes:
    specs: Codecs of image features.
    batch: Pictures at a time.
    max_tokens: Longest caption in tokens.
    prompt: Tokens of the prompt.
    method: Decoding method.
  """

  specs: Sequence[codecs.FeatureCodecSpec]
  batch: int
  max_tokens: int
  prompt: int
  method: decoding_lib.Method = decoding_lib.Greedy()


def model_config(name: str, res: int = 0) -> paligemma.Config:
  """Returns the dimensions of a model, whose weights need not be here.

  Args:
    name: 'tiny', a model's folder, one of `zoo.NAMES`, an id of the Hugging
      Face Hub, of which config.json alone is fetched, or one of
      `zoo.DECODERS`, whose pictures have `res` pixels.
    res: Side of the pictures; 0 for the model's.

  Raises:
    ValueError: There is no such model, or it has other pictures.
    FileNotFoundError: A file of a folder is missing.
  """
  if name in zoo.DECODERS:
    return zoo.config(name, res or 224)
  if name in zoo.NAMES:
    config = zoo.card(name).config
  elif name in checkpoints.NAMES or os.path.exists(name):
    config = checkpoints.config_of(name)
  elif path := hub.locate_config(name):
    config = checkpoints.read_config(path)
  else:
    known = [*checkpoints.NAMES, *zoo.DECODERS, *zoo.NAMES]
    raise _validate.unknown('model', name, known, "a model's folder")
  if res not in (0, config.vision.image_size):
    size = config.vision.image_size
    raise _validate.error('res', res, f'{size}, as {name} has, or 0')
  return config


def make_specs(
  texts: str, ks: list[str], split: str, config: paligemma.Config
) -> list[codecs.FeatureCodecSpec]:
  """Makes the specs of quantizers and ks, and that of all vectors.

  Args:
    texts: Quantizers without their k, with ';' between them.
    ks: Numbers of vectors.
    split: Split of the model.
    config: Dimensions of the model.

  Raises:
    ValueError: There is no such quantizer, or it does not fit the model.
  """
  for k in ks:
    if not k.isdecimal():
      raise _validate.error('k', k, 'integers with commas between them')
  selectors = [
    codecs.make_method(text, int(k), 'quantizers')
    for text in filter(None, map(str.strip, texts.split(';')))
    for k in ks
  ]
  specs = [
    codecs.FeatureCodecSpec(quantizer, split)
    for quantizer in (*selectors, quantizers.Identity())
  ]
  for spec in specs:
    spec.validate(config)
  return specs


def abstract_model(
  config: paligemma.Config, dtype: Any, placement: devices.Placement
) -> paligemma.Model:
  """Returns a model whose parameters are shapes on their devices.

  Args:
    config: Dimensions, and the layout of the weights.
    dtype: Dtype of the weights.
    placement: The devices.
  """
  shapes = paligemma.shapes(config.with_layout('stacked'))
  model = paligemma.Model(shapes, config.with_layout('stacked'))
  if config.text.layout == 'transposed':
    model = jax.eval_shape(paligemma.Model.transposed, model)
  params = placement.params(model.params, dtype)
  return dataclasses.replace(model, params=params)


def sweep(
  model: paligemma.Model, placement: devices.Placement, settings: Sweep
) -> Iterator[Program]:
  """Traces the programs of an evaluation.

  Args:
    model: From `abstract_model`.
    placement: Its devices.
    settings: Codecs and sizes.
  """
  specs, batch = settings.specs, settings.batch
  side = model.config.vision.image_size
  images = placement.rows(_shape((batch, side, side, 3), np.uint8))
  for split in dict.fromkeys(spec.split for spec in specs):
    traced = encoder.features.trace(model, split, images)
    name = 'encode' if split == 'encoder' else f'encode, {split}'
    yield Program(name, traced)
  for spec in {(s.split, s.quantizer.aux_inputs): s for s in specs}.values():
    if aux_inputs := spec.quantizer.aux_inputs:
      traced = encoder.observed.trace(model, spec.split, images, aux_inputs)
      yield Program(f'encode with {", ".join(aux_inputs)}', traced)
  prefixes: dict[int, messages.Prefix] = {}
  shared = set()
  for spec in specs:
    ends = _ends(model, spec)
    for trace, end in zip((_quantize, _rebuild), ends, strict=True):
      # Those that differ in `num_used` alone are one program.
      program = trace, end.quantizer, spec.split, spec.quantizer.aux_inputs
      if program in shared:
        continue
      shared.add(program)
      traced = trace(model, placement, spec, end, batch)
      yield traced
      if trace is _rebuild:
        prefix = placement.rows(traced.traced.out_info[1])
        prefixes[prefix.x.shape[1]] = prefix
  padded: dict[int, messages.Prefix] = {}
  for length, prefix in sorted(prefixes.items()):
    pad = captioner.padding(length)
    if pad:
      traced = captioner.pad.trace(prefix, pad)
      prefix = placement.rows(traced.out_info)
      yield Program(f'pad a prefix of {length}', traced)
    padded[length + pad] = prefix
  for length, prefix in sorted(padded.items()):
    traced = _generate(model, placement, prefix, settings)
    yield Program(f'generate, prefix of {length}', traced)


def _ends(
  model: paligemma.Model, spec: codecs.FeatureCodecSpec
) -> tuple[padding.Padding, padding.Padding]:
  """Returns the quantizers whose programs the edge and the server run."""
  vision, quantizer = model.config.vision, spec.quantizer
  shape = vision.num_tokens, feature.feature_width(vision, spec.split)
  return (
    padding.find(quantizer.sender, *shape),
    padding.find(quantizer.receiver, *shape),
  )


def _name(model: paligemma.Model, spec: codecs.FeatureCodecSpec) -> str:
  """Returns the name of the codec, with the k of its bucket."""
  padded = spec.quantizer.padded(model.config.vision.num_tokens)
  return dataclasses.replace(spec, quantizer=padded or spec.quantizer).name


def _params(model, placement, spec) -> Any:
  """Returns shapes of a quantizer's parameters."""
  vision, quantizer = model.config.vision, spec.quantizer
  n, d = vision.num_tokens, feature.feature_width(vision, spec.split)
  init = functools.partial(quantizer.init_params, n=n, d=d)
  return placement.whole(jax.eval_shape(init, _key()))


def _num_used(placement, end: padding.Padding) -> Any:
  return None if end.num_used is None else placement.whole(_shape((), np.int32))


def _quantize(
  model: paligemma.Model,
  placement: devices.Placement,
  spec: codecs.FeatureCodecSpec,
  end: padding.Padding,
  batch: int,
) -> Program:
  """Traces a codec's program on the edge."""
  vision = model.config.vision
  n, d = vision.num_tokens, feature.feature_width(vision, spec.split)
  features = placement.rows(_shape((batch, n, d), np.float32))
  keys = placement.rows(
    jax.eval_shape(feature.image_keys, _key(), _shape((batch,), np.uint32))
  )
  traced = feature._quantize.trace(
    end.quantizer,
    _params(model, placement, spec),
    _num_used(placement, end),
    features,
    keys,
    _aux(model, placement, spec, batch),
    placement.mesh,
  )
  return Program(f'quantize, {_name(model, spec)}', traced)


def _rebuild(
  model: paligemma.Model,
  placement: devices.Placement,
  spec: codecs.FeatureCodecSpec,
  end: padding.Padding,
  batch: int,
) -> Program:
  """Traces a codec's program on the server."""
  vision = model.config.vision
  n, d = vision.num_tokens, feature.feature_width(vision, spec.split)
  traced = feature._rebuild.trace(
    end.quantizer,
    spec.split,
    _params(model, placement, spec),
    _num_used(placement, end),
    model,
    placement.rows(_message(end.quantizer.fields(n, d), batch)),
    None,
    (),
    (),
    placement.mesh,
  )
  return Program(f'rebuild, {_name(model, spec)}', traced)


def _aux(model, placement, spec, batch) -> dict[str, Any]:
  """Returns shapes of the encoder's outputs that a quantizer takes."""
  names = spec.quantizer.aux_inputs
  if not names:
    return {}
  side = model.config.vision.image_size
  _, aux = cast(Any, jax.eval_shape)(
    lambda model, images: encoder.observed(model, spec.split, images, names),
    model,
    _shape((batch, side, side, 3), np.uint8),
  )
  return placement.rows(aux)


def _message(fields: dict[str, messages.Field], batch: int) -> dict[str, Any]:
  """Returns shapes of a batch of unpacked messages."""
  return {
    name: _shape(
      (batch, *field.shape),
      np.int32
      if isinstance(field, messages.Symbols)
      else wire.DTYPES[field.dtype],
    )
    for name, field in fields.items()
  }


def _generate(model, placement, prefix, settings: Sweep) -> Any:
  text = (settings.batch, settings.prompt)
  tokens, mask = placement.rows((_shape(text, np.int32), _shape(text, bool)))
  key = None
  if settings.method.uses_key:
    ids = _shape((settings.batch,), np.uint32)
    seed = _shape((), np.int32)
    key = placement.rows(jax.eval_shape(captioner._row_keys, seed, ids))
  return captioner._generate.trace(
    model,
    prefix,
    tokens,
    mask,
    key,
    settings.max_tokens,
    settings.method,
    captioner._halvings(model, settings.batch),
  )


class _TracedEngine(engines.Engine):
  """Engine whose programs are traced, with shapes in the place of arrays."""

  def __init__(self, model, config, placement):
    super().__init__(model, config)
    self._placement = placement
    self.traced: list[Program] = []

  def reset(self) -> None:
    self.drop_all()
    arguments = self.model.config.text, self.config.max_slots
    traced = decode_state.empty.trace(
      *arguments, self._cache_length, self._cache_dtype, None
    )
    self.traced.append(Program('empty cache', traced))
    self._state = self._placement.rows(traced.out_info)
    self.broken = False

  def _run(self, program, *args):
    # Static arguments are ints and come last.
    static = [a for a in args if isinstance(a, int)]
    arrays = self._placement.whole([a for a in args if not isinstance(a, int)])
    traced = program.trace(self.model, self._state, *arrays, *static, None)
    name = f'decode, {static[0]} slots' if static else ''
    if not static:
      batch, length = arrays[0].valid.shape
      name = f'prefill, {batch} x {length}'
    self.traced.append(Program(name, traced))
    return decode_state.NextTokens(*traced.out_info[1])


def server(
  model: paligemma.Model,
  placement: devices.Placement,
  specs: Sequence[codecs.FeatureCodecSpec],
  config: engines.EngineConfig,
) -> Iterator[Program]:
  """Traces the programs that a server compiles at its start.

  Args:
    model: From `abstract_model`.
    placement: Its device, or one of several that run the same programs.
    specs: Codecs that edges may use.
    config: Sizes of the engine.
  """
  engine = _TracedEngine(model, config, placement)
  lengths = set()
  receivers = {_ends(model, spec)[1].quantizer: spec for spec in specs}
  for spec in receivers.values():
    for batch in engine.batches:
      end = _ends(model, spec)[1]
      rebuild = _rebuild(model, placement, spec, end, batch)
      yield Program(f'{rebuild.name}, batch of {batch}', rebuild.traced)
      lengths.add(rebuild.traced.out_info[1].x.shape[1])
  for steps in (engine.warm_up(), *map(engine.warm_up_length, sorted(lengths))):
    for step in steps:
      step()
      while engine.traced:
        yield engine.traced.pop(0)


def _shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _key() -> Any:
  return jax.eval_shape(lambda: random_keys.make(0))
