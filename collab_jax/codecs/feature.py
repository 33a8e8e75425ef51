"""Codec of image features, quantized: the paper's."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any, ClassVar, cast

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8, UInt32
import ml_dtypes
import numpy as np

from collab_jax import _validate, quantizers, random_keys, sharding, wire
from collab_jax import message as messages
from collab_jax.codecs import (
  base,
  encoder,
  fingerprint,
  unlike_pictures,
)
from collab_jax.codecs.transports import base as transports
from collab_jax.models import paligemma, siglip
from collab_jax.quantizers import padding, pretrained

SPLITS = ('encoder', 'head')


@dataclasses.dataclass(frozen=True)
class FeatureCodecSpec(base.CodecSpec):
  """Settings of a `FeatureCodec`.

  ::

    spec = FeatureCodecSpec(quantizers.KMeans(k=8), coding='best')
    spec.validate(model_config)
    codec = spec.bind(model)

  Attributes:
    quantizer: The quantizer of the features.
    split: 'encoder' cuts before the projection, 'head' after it.
    coding: 'fixed' packs a batch at once, to messages of one length; 'best'
      makes the smallest ones.
  """

  family: ClassVar[str] = 'feature'

  quantizer: quantizers.Quantizer
  split: str = 'encoder'
  coding: str = 'fixed'

  def __post_init__(self):
    """Raises ValueError if there is no such split or coding."""
    if self.split not in SPLITS:
      raise ValueError(
        f"split: got {self.split!r}, expected 'encoder' or 'head'"
      )
    wire.check_coding(self.coding)
    quantizer = quantizers.as_quantizer(self.quantizer)
    if not _validate.is_frozen(quantizer):
      raise TypeError(
        f'{type(quantizer).__name__} must be a dataclass(frozen=True)'
      )
    object.__setattr__(self, 'quantizer', quantizer)

  @property
  def name(self) -> str:
    """The codec's canonical name."""
    split = '' if self.split == 'encoder' else f'@{self.split}'
    coding = '' if self.coding == 'fixed' else f'/{self.coding}'
    return quantizers.name(self.quantizer) + split + coding

  @property
  def session_name(self) -> str:
    """The quantizer's name, without the paths of its parameters."""
    return quantizers.name(pretrained.with_default_books(self.quantizer))

  @property
  def uses_key(self) -> bool:
    """Whether another key may give other messages."""
    return self.quantizer.uses_key

  @property
  def server_encodes(self) -> bool:
    """False: the edge runs the image encoder."""
    return False

  @property
  def settings(self) -> dict[str, Any]:
    """All settings as nested plain values."""
    return {
      'codec': 'feature',
      'split': self.split,
      'coding': self.coding,
      'quantizer': quantizers.settings(self.quantizer),
    }

  def bind(self, model: paligemma.Model) -> 'FeatureCodec':
    """Returns the codec of a model; see `FeatureCodec`."""
    return FeatureCodec(model, self.quantizer, self.split, coding=self.coding)

  def layout(self, config: paligemma.Config) -> transports.MessageLayout:
    """Returns fields and sizes of messages; see `CodecSpec.layout`."""
    vision = config.vision
    n, d = vision.num_tokens, feature_width(vision, self.split)
    fields = self.quantizer.fields(n, d)
    return transports.MessageLayout(
      self.name,
      self.quantizer.sent(n),
      fields,
      self.quantizer.row_fields(n, d),
      wire.Session(fields, coding=self.coding).length,
    )

  def validate(
    self,
    config: paligemma.Config,
    load_encoder: Callable[[], paligemma.Model] | None = None,
  ) -> 'FeatureCodecSpec':
    """Checks widths and pretrained parameters; see `CodecSpec.validate`."""
    vision = config.vision
    n, d = vision.num_tokens, feature_width(vision, self.split)
    self.quantizer.sent(n)
    self.quantizer.init_params(random_keys.make(0), n, d)
    self.quantizer.fields(n, d)
    names = pretrained.check_coordinates(self.quantizer)
    if load_encoder and any(pretrained.load(name).model for name in names):
      features = fingerprint.features_of(load_encoder(), self.split)
      pretrained.check_features(self.quantizer, features)
    return self


def feature_width(vision: siglip.VisionConfig, split: str) -> int:
  """Returns the width of the features at a split."""
  return vision.width if split == 'encoder' else vision.out_dim


# Compiled once per process: the caches are keyed by the static arguments, so
# equal quantizers of different codecs share their programs, and so do those
# that differ at the other end only, `sender` and `receiver`, or in their k:
# `num_used`, see `quantizers.padding`.
def image_keys(key: jax.Array, image_ids: UInt32[Array, ' B']) -> jax.Array:
  """Returns one key per image, which depends on nothing but its id."""
  return _fold_in(random_keys.convert('key', key), image_ids)


@jax.jit
def _fold_in(key, image_ids):
  return jax.vmap(functools.partial(jax.random.fold_in, key))(image_ids)


@functools.partial(jax.jit, static_argnames=('quantizer', 'mesh'))
def _quantize(quantizer, params, num_used, features, keys, aux, mesh):
  def quantize_image(shared, x, key, aux):
    params, num_used = shared
    return _using(quantizer, num_used).quantize(params, x, key, **aux)

  run = jax.vmap(quantize_image, in_axes=(None, 0, 0, 0))
  shared = params, num_used
  return sharding.map_rows(run, mesh, len(keys))(shared, features, keys, aux)


@functools.partial(jax.jit, static_argnames='with_means')
def _inspect(
  features: Float[Array, 'B N D'], with_means: bool
) -> tuple[Bool[Array, ' B'], Float[Array, 'B D'] | None]:
  """Returns whether all numbers of an image are finite, and its mean vector.

  One program for both: a batch needs no other one to tell unlike pictures.
  """
  finite = jnp.isfinite(features).all(axis=(1, 2))
  return finite, features.mean(1) if with_means else None


def _using(quantizer, num_used):
  return quantizer if num_used is None else quantizer.using(num_used)


@functools.partial(
  jax.jit, static_argnames=('quantizer', 'split', 'names', 'coarse', 'mesh')
)
def _rebuild(
  quantizer, split, params, num_used, model, message, rows, names, coarse, mesh
):
  def rebuild_image(shared, message, rows):
    params, num_used = shared
    receiver = _using(quantizer, num_used)
    if coarse:
      return receiver.decode_partial(params, message, rows, coarse)
    if rows is not None:
      message = receiver.conceal(message, rows, names)
    return receiver.dequantize(params, message)

  run = jax.vmap(rebuild_image, in_axes=(None, 0, 0))
  count = len(jax.tree.leaves(message)[0])
  shared = params, num_used
  tokens = sharding.map_rows(run, mesh, count)(shared, message, rows)
  x = tokens.x if split == 'head' else model.project(tokens.x)
  return tokens, messages.Prefix(x, *tokens[1:])


def forget_programs() -> None:
  """Frees the programs of all quantizers that were used in this process.

  Those that are used again are compiled again. For a process that meets ever
  new quantizers, each of which leaves megabytes.
  """
  for program in cast(Any, (_quantize, _rebuild)):
    program.clear_cache()


class FeatureCodec(base.Codec):
  """Codec of the paper: image features, quantized, as bytes.

  ::

    codec = cj.FeatureCodec(model, cj.quantizers.KMeans(k=8))
    messages = codec.encode(images, jax.random.key(0))  # On the edge.
    prefix = codec.decode(messages)  # On the server.

  The edge runs SigLIP, the quantizer and the wire format; the server the wire
  format, the quantizer, and the projection to the decoder's width if the split
  lies before it.

  Attributes:
    model: The model, of which the edge uses `img` and the server `llm`.
    spec: The settings.
    quantizer: The quantizer of the features.
    split: 'encoder' cuts before the projection, 'head' after it.
    params: The quantizer's parameters; an empty dict if it has none.
    fields: Fields of a message by name.
    session: Format of the messages, equal at both ends.
    name: Canonical short name, unique among different settings.
    sent: Number of vectors sent per image.
    vectors: Number of vectors per image.
    width: Numbers per vector.
    uses_key: Whether another key may give other messages.
  """

  def __init__(
    self,
    model: paligemma.Model,
    quantizer: Any,
    split: str = 'encoder',
    key: jax.Array | None = None,
    coding: str = 'fixed',
  ):
    """Binds a model and a quantizer.

    Args:
      model: From `collab_jax.load`.
      quantizer: A quantizer, or its name with default arguments.
      split: 'encoder' or 'head'.
      key: For quantizers that draw their parameters; default key(0).
      coding: 'fixed' packs a batch at once, to messages of one length; 'best'
        makes the smallest ones, in about a millisecond each.

    Raises:
      ValueError: The split is neither 'encoder' nor 'head', there is no
        quantizer of that name, no such coding, or pretrained parameters of the
        quantizer are of another model or of other coordinates.
    """
    paligemma.check_model(model)
    if isinstance(quantizer, str):
      quantizer = quantizers.make(quantizer)
    self.spec = FeatureCodecSpec(quantizer, split, coding)
    self.model = model
    self.quantizer = quantizer = self.spec.quantizer
    self.split = split
    vision = model.config.vision
    self.vectors = vision.num_tokens
    self.width = feature_width(vision, split)
    self._pretrained = pretrained.check_coordinates(quantizer)
    # A server has no encoder to compare with; the wire's session does it.
    if self._pretrained and fingerprint.has_encoder(model):
      source = fingerprint.features_of(model, split)
      pretrained.check_features(quantizer, source)
    key = random_keys.convert(
      'key', random_keys.make(0) if key is None else key
    )
    self.params = quantizer.init_params(key, self.vectors, self.width)
    self.fields = quantizer.fields(self.vectors, self.width)
    self.sent = quantizer.sent(self.vectors)
    self.uses_key = quantizer.uses_key
    shape = self.vectors, self.width
    self._sender = padding.find(quantizer.sender, *shape)
    self._receiver = padding.find(quantizer.receiver, *shape)
    self.settings = self.spec.settings
    self.session = wire.Session(
      self.fields,
      jax.device_get(quantizer.priors(self.params)),
      self._session_spec(),
      coding,
    )
    self.layers = self.session.layers
    self.digest = bytes.fromhex(self.session.digest)

  def describe(self) -> dict[str, Any]:
    """Returns the settings as flat plain values, for records and tables."""
    coding = self.session.coding
    return {
      'codec': 'feature',
      'split': self.split,
      **({} if coding == 'fixed' else {'coding': coding}),
      **quantizers.describe(self.quantizer),
      # The name of pretrained parameters stays when their file is replaced.
      **({'books': self._pretrained} if self._pretrained else {}),
    }

  def _session_spec(self) -> dict[str, Any]:
    """Returns what the edge and the server must have in common.

    Of the model that is the projection, which both of them hold; fine-tuning
    changes it. Its fingerprint is that of bfloat16, so that a number type
    chosen for the memory of one end makes no difference.
    """
    head = jax.tree.map(
      lambda x: np.asarray(x).astype(ml_dtypes.bfloat16),
      self.model.params.get('img', {}).get('head', {}),
    )
    return {
      'codec': 'feature',
      # Each end may keep its pretrained parameters in another file.
      'quantizer': self.spec.session_name,
      'split': self.split,
      'n': self.vectors,
      'd': self.width,
      # Fingerprints tell weights apart, and names of folders nothing.
      'model': fingerprint.architecture(self.model.config.vision),
      'head': sharding.fingerprint(head),
      'params': sharding.fingerprint(self.params, samples=None),
    }

  @property
  def programs(self) -> Any:
    """Quantizers whose programs are run, and the split."""
    return self._sender.quantizer, self._receiver.quantizer, self.split

  def features(self, images: UInt8[Array | np.ndarray, 'B H W 3']) -> Array:
    """Runs the image encoder.

    Args:
      images: Pictures of the model's size, 0..255.

    Returns:
      Features f32[B N D] on the device; codecs of the same model and split
      share them.

    Raises:
      ValueError: They are no such pictures.
    """
    encoder.check_images(images, self.model.config.vision.image_size)
    images = self._spread(images)
    return self._spread(encoder.features(self.model, self.split, images))

  def encode(
    self,
    images: UInt8[Array | np.ndarray, 'B H W 3'],
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
  ) -> list[bytes]:
    """Turns pictures into messages; see `Codec.encode`."""
    features, aux = self.observe(images)
    return self.pack(self._quantize_and_warn(features, key, image_ids, aux))

  def encode_features(
    self,
    features: Float[Array, 'B N D'],
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
  ) -> list[bytes]:
    """Turns features into messages; see `encode`."""
    return self.pack(self._quantize_and_warn(features, key, image_ids))

  def observe(
    self,
    images: UInt8[Array | np.ndarray, 'B H W 3'],
    features: Float[Array, 'B N D'] | None = None,
  ) -> tuple[Array, dict[str, Array]]:
    """Runs the image encoder for features and auxiliary outputs.

    Args:
      images: Pictures of the model's size, 0..255.
      features: From `features`, if known; enough for most quantizers.

    Returns:
      The features, and `quantize`'s `aux`: see
      `quantizers.Quantizer.aux_inputs`.
    """
    aux_inputs = self.quantizer.aux_inputs
    if not aux_inputs:
      return self.features(images) if features is None else features, {}
    encoder.check_images(images, self.model.config.vision.image_size)
    images = self._spread(images)
    return self._spread(
      encoder.observed(self.model, self.split, images, aux_inputs)
    )

  def encode_batch(
    self,
    images: base.Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    cache: base.FeatureCache | None = None,
    pack: Callable[[Any], list[Any]] | None = None,
  ) -> base.Encoded:
    """Encodes a batch and times the stages; see `Codec.encode_batch`."""
    return FeatureCodec.dispatch_encode(
      self, images, key, image_ids, cache, pack
    )()

  def dispatch_encode(
    self,
    images: base.Images,
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    cache: base.FeatureCache | None = None,
    pack: Callable[[Any], list[Any]] | None = None,
  ) -> Callable[[], base.Encoded]:
    """Dispatches encoder and quantizer; see `Codec.dispatch_encode`."""
    cache = base.FeatureCache() if cache is None else cache
    (features, aux), encode_seconds = self.dispatch_observe(images, cache)
    quantized, quantize_seconds = cache.clock.dispatch(
      lambda: self._dispatch_quantize(features, key, image_ids, aux)
    )
    for array in jax.tree.leaves(quantized):
      array.copy_to_host_async()

    def finish():
      seconds = {'encode': encode_seconds(), 'quantize': quantize_seconds()}
      with base.timed(seconds, 'fetch'):
        message, unlike = self._fetch(quantized, image_ids)
      seconds['quantize'] += seconds.pop('fetch')
      with base.timed(seconds, 'pack'):
        sent = (pack or self.pack)(message)
      return base.Encoded(sent, seconds, features, unlike)

    return finish

  def prefetch(self, images: base.Images, cache: base.FeatureCache) -> None:
    """Runs the image encoder for a cache, if the quantizer takes no more."""
    if not self.quantizer.aux_inputs:
      self.dispatch_observe(images, cache)

  def dispatch_observe(
    self, images: base.Images, cache: base.FeatureCache
  ) -> tuple[tuple[Array, dict[str, Array]], Callable[[], float]]:
    """Dispatches `observe` for a cache; see `FeatureCache.dispatch`."""
    key = self.split, self.quantizer.aux_inputs
    return cache.dispatch(key, lambda: self.observe(images))

  def quantize(
    self,
    features: Float[Array | np.ndarray, 'B N D'],
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    aux: Mapping[str, Array] | None = None,
  ) -> dict[str, np.ndarray]:
    """Quantizes a batch and fetches the message's arrays from the device.

    As `encode_features`; `aux` is that of `observe`, without it the features
    have to do.
    """
    quantized = self._dispatch_quantize(features, key, image_ids, aux)
    return self._fetch(quantized, image_ids)[0]

  def _quantize_and_warn(self, features, key, image_ids, aux=None):
    """Quantizes as `quantize`, and warns of unlike pictures."""
    quantized = self._dispatch_quantize(features, key, image_ids, aux)
    message, unlike = self._fetch(quantized, image_ids)
    if unlike is not None and unlike.any():
      unlike_pictures.warn(self.model)
    return message

  @functools.cached_property
  def _statistics(self):
    """Statistics of the model's features; None if they say nothing.

    Kept, since they are told by a fingerprint of the encoder, which reads from
    each of its arrays.
    """
    return unlike_pictures.statistics_of(self.model)

  def _dispatch_quantize(self, features, key, image_ids, aux):
    """Quantizes a batch as `quantize`; the arrays stay on the device."""
    shape = self.vectors, self.width
    if features.shape[1:] != shape:
      expected = f'[B, {shape[0]}, {shape[1]}], those of the split'
      raise _validate.error('features: shape', features.shape, expected)
    count = sharding.row_count(features)
    ids = range(count) if image_ids is None else image_ids
    if len(ids) != count:
      rows = f'{count}, one for each picture'
      raise _validate.error('image_ids: number', len(ids), rows)
    # Folding an id in uses its low 32 bits.
    ids = np.asarray([i & 0xFFFFFFFF for i in ids], np.uint32)
    mesh = sharding.mesh_of(self.model.params)
    features, ids, aux = self._spread((features, ids, dict(aux or {})))
    keys = image_keys(key, ids)
    quantized = _quantize(
      self._sender.quantizer,
      self.params,
      self._sender.argument,
      features,
      keys,
      aux,
      mesh,
    )
    inspected = _inspect(features, self._statistics is not None)
    return quantized, sharding.settle(inspected, self.model.params)

  def _fetch(self, quantized, image_ids):
    """Fetches what `_dispatch_quantize` returned.

    Numbers that are not finite are refused by value: as a symbol they would
    look like any other.

    Returns:
      The message's arrays; for each picture whether it is unlike those of the
      training, None if nothing is known of these.
    """
    message, (finite, means) = sharding.fetch(quantized)
    if not finite.all():
      row = int(np.argmin(finite))
      image = row if image_ids is None else image_ids[row]
      raise ValueError(
        f'features of image {image}: got numbers that are not finite, expected'
        ' finite ones; a wider compute dtype, or other weights, may mend it'
      )
    unlike = None
    if self._statistics is not None:
      unlike = self._statistics.unlike(means, self.spec.split)
    return self._sender.trim(message), unlike

  def pack(self, batch: Mapping[str, np.ndarray]) -> list[bytes]:
    """Serializes a quantized batch: one array per field, with an axis B."""
    return self.session.pack_batch(batch)

  def rebuild(
    self, data: Sequence[bytes]
  ) -> tuple[messages.Tokens, messages.Prefix]:
    """Decodes like `decode`, and returns the tokens before the projection too.

    The distortion is measured between them and the features.
    """
    return self.rebuild_message(self.session.unpack_batch(data))

  def rebuild_message(
    self,
    message: dict[str, np.ndarray],
    rows: Bool[np.ndarray, 'B k'] | None = None,
    layers: int = 0,
  ) -> tuple[messages.Tokens, messages.Prefix]:
    """Like `rebuild`, from unpacked messages of which rows may be missing.

    Args:
      message: One array per field, with an axis B in front.
      rows: False for a vector that did not arrive and must be concealed; at
        least one of each message arrived. None: nothing is missing.
      layers: If not 0, a vector that did not arrive still has these layers.

    Returns:
      Tokens and prefix; of k < n vectors they have more rows, which are not
      valid: one program serves many k.
    """
    mesh = sharding.mesh_of(self.model.params)
    message = self._receiver.pad(message)
    if rows is not None:
      size = next((size for _, size in self._receiver.rows.values()), None)
      rows = rows if size is None else padding.pad_rows(rows, size)
    batch = self._spread((message, rows))
    names = () if rows is None else self.layout.rows
    coarse = tuple(n for n, f in self.fields.items() if f.layer < layers)
    rebuilt = _rebuild(*self._settings(), *batch, names, coarse, mesh)
    return self._spread(rebuilt)

  def _settings(self):
    """Returns the arguments of `_rebuild` that all batches share."""
    receiver = self._receiver
    return (
      receiver.quantizer,
      self.split,
      self.params,
      receiver.argument,
      self.model,
    )

  def decode_batch(self, data: Sequence[bytes]) -> base.Decoded:
    """Decodes a batch, with the tokens before the projection."""
    return FeatureCodec.prepare_decode(self, data)()

  def prepare_decode(self, data: Sequence[bytes]) -> Callable[[], base.Decoded]:
    """Unpacks a batch; see `Codec.prepare_decode`."""
    message = self._receiver.pad(self.session.unpack_batch(data))

    def rebuild():
      tokens, prefix = self.rebuild_message(message)
      return base.Decoded(prefix, tokens)

    return rebuild

  def unpack(self, message: bytes) -> dict[str, np.ndarray]:
    """Unpacks a message, or its first layers, on the host.

    Raises:
      collab_jax.wire.FormatError: It is no message of this codec, or the
        quantizer rebuilds nothing from so few layers.
    """
    unpacked = self.session.unpack(message)
    layers = self.layers_of(unpacked)
    if not self.decodes_layers(layers):
      enough = [n for n in range(1, self.layers + 1) if self.decodes_layers(n)]
      raise wire.FormatError(
        f'message: got {layers} of {self.layers} layers, from which this'
        f' quantizer rebuilds nothing, expected {enough}'
      )
    return unpacked

  def decode_unpacked(
    self, unpacked: Sequence[Mapping[str, np.ndarray]]
  ) -> base.Decoded:
    """Decodes a batch of unpacked messages, all of equally many layers."""
    names = unpacked[0]
    tokens, prefix = self.rebuild_message(
      {n: np.stack([message[n] for message in unpacked]) for n in names}
    )
    return base.Decoded(prefix, tokens)

  def layers_of(self, unpacked: Mapping[str, Any]) -> int:
    """Returns how many layers an unpacked message has."""
    return len(self.session.present(unpacked))

  def split_layers(self, message: bytes) -> list[bytes]:
    """Splits a message into its layers; the first L are a message too."""
    return self.session.split(message)

  def decodes_layers(self, layers: int) -> bool:
    """Returns whether messages of only the first `layers` can be decoded."""
    return layers in self._decodable

  @functools.cached_property
  def _decodable(self) -> set[int]:
    """Numbers of first layers from which the quantizer rebuilds vectors."""

    def rebuild(message):
      return _rebuild(*self._settings(), message, None, (), (), None)

    enough = {self.layers}
    for layers in range(1, self.layers):
      batch = {n: a[None] for n, a in self.blank(layers).items()}
      batch = self._receiver.pad(batch)
      try:
        jax.eval_shape(rebuild, batch)
      except (ValueError, KeyError):
        continue
      enough.add(layers)
    return enough

  def blank(self, layers: int | None = None) -> dict[str, np.ndarray]:
    """Returns an unpacked message of zeros, to compile with."""
    layers = self.layers if layers is None else layers
    return {
      name: np.zeros(
        field.shape,
        np.int32
        if isinstance(field, messages.Symbols)
        else wire.DTYPES[field.dtype],
      )
      for name, field in self.fields.items()
      if field.layer < layers
    }

  def _spread(self, batch: Any) -> Any:
    """Puts a batch where the model is; see `sharding.rows`."""
    return sharding.rows(batch, self.model.params)

  def blank_batch(self, batch_size: int) -> dict[str, np.ndarray]:
    """Returns a quantized batch of zeros, or of black pictures.

    The encoder runs only if the quantizer takes more than features.
    """
    shape = batch_size, self.vectors, self.width
    features, aux = np.zeros(shape, np.float32), {}
    if self.quantizer.aux_inputs:
      features, aux = self.observe(self._black(batch_size))
    return self.quantize(features, random_keys.make(0), None, aux)

  def sizes(self, message: bytes) -> dict[str, int]:
    """Returns the bytes of a message by field, and of its header."""
    return self.session.sizes(message)

  def description(self) -> Mapping[str, Any]:
    """Returns what both ends must have in common, for the handshake."""
    plain = json.loads(self.to_json())
    del plain['digest']
    return plain

  def to_json(self) -> str:
    """Returns the session as JSON, without the tables of frequencies."""
    return self.session.to_json()

  @property
  def encoder_fingerprint(self) -> str:
    """Fingerprint of the image encoder that the edge runs."""
    return fingerprint.encoder_fingerprint(self.model)

  def __repr__(self) -> str:
    """Shows the settings."""
    return f'FeatureCodec({self.name}, split={self.split!r})'
