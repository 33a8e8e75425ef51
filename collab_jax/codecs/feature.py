"""Features of a picture to bytes on the edge, and to a prefix on the server."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, cast

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8, UInt32
import numpy as np

from collab_jax import message as messages
from collab_jax import quantizers, sharding, wire
from collab_jax.codecs import (
  encoder,
  fingerprint,
)
from collab_jax.models import paligemma

SPLITS = ('encoder', 'head')


# Compiled once per process: the caches are keyed by what is static, so equal
# quantizers of different codecs share their programs, and so do those that
# differ in what the other end does: `sender` and `receiver`.
@jax.jit
def image_keys(key: jax.Array, image_ids: UInt32[Array, ' B']) -> jax.Array:
  """One key per image, which depends on nothing but the image's id."""
  return jax.vmap(functools.partial(jax.random.fold_in, key))(image_ids)


@functools.partial(jax.jit, static_argnames=('quantizer', 'mesh'))
def _quantize(quantizer, params, features, keys, extra, mesh):
  def one(params, x, key, extra):
    return quantizer.quantize(params, x, key, **extra)

  run = jax.vmap(one, in_axes=(None, 0, 0, 0))
  return sharding.each(run, mesh, len(keys))(params, features, keys, extra)


@functools.partial(
  jax.jit, static_argnames=('quantizer', 'split', 'names', 'coarse', 'mesh')
)
def _rebuild(
  quantizer, split, params, model, message, rows, names, coarse, mesh
):
  def one(params, message, rows):
    if coarse:
      return quantizers.decode_partial(quantizer, params, message, rows, coarse)
    if rows is not None:
      message = quantizers.conceal(quantizer, message, rows, names)
    return quantizer.dequantize(params, message)

  run = jax.vmap(one, in_axes=(None, 0, 0))
  count = len(jax.tree.leaves(message)[0])
  tokens = sharding.each(run, mesh, count)(params, message, rows)
  x = tokens.x if split == 'head' else model.project(tokens.x)
  return tokens, messages.Prefix(x, *tokens[1:])


def forget_programs() -> None:
  """Frees the programs of all quantizers that were used in this process.

  Those that are used again are compiled again. For a process that meets ever
  new quantizers, each of which leaves megabytes.
  """
  for program in cast(Any, (_quantize, _rebuild)):
    program.clear_cache()


class FeatureCodec:
  """The paper's codec: image features, quantized, as bytes.

  Edge: SigLIP, quantizer, wire. Server: wire, quantizer, and the projection
  to the decoder's width if the split lies before it.

  Attributes:
    model: The model, of which the edge uses `img` and the server `llm`.
    quantizer: What is kept of the features.
    split: 'encoder' cuts before the projection, 'head' after it.
    params: The quantizer's parameters; an empty dict if it has none.
    fields: What a message holds, by name.
    session: What both ends agree on; packs and unpacks.
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
        quantizer of that name, no such coding, or a book of the quantizer is
        of another model or of other coordinates.
    """
    if split not in SPLITS:
      raise ValueError(f"split: got {split!r}, expected 'encoder' or 'head'")
    if isinstance(quantizer, str):
      quantizer = quantizers.make(quantizer)
    self.model = model
    self.quantizer = quantizer
    self.split = split
    vision = model.config.vision
    self.vectors = vision.num_tokens
    self.width = vision.width if split == 'encoder' else vision.out_dim
    self._books = quantizers.pretrained.check_coordinates(quantizer)
    # The server alone has no encoder to compare; the wire's session does it.
    if self._books and fingerprint.has_encoder(model):
      quantizers.pretrained.check(
        quantizer, fingerprint.features_of(model, split)
      )
    key = jax.random.key(0) if key is None else key
    self.params = quantizer.init_params(key, self.vectors, self.width)
    self.fields = quantizer.fields(self.vectors, self.width)
    self.sent = quantizer.sent(self.vectors)
    self.uses_key = quantizer.uses_key
    self._sender = getattr(quantizer, 'sender', quantizer)
    self._receiver = getattr(quantizer, 'receiver', quantizer)
    self.name = quantizers.name(quantizer)
    if split != 'encoder':
      self.name += f'@{split}'
    if coding != 'fixed':
      self.name += f'/{coding}'
    self.session = wire.Session(
      self.fields,
      jax.device_get(quantizers.priors(quantizer, self.params)),
      self._spec(),
      coding,
    )

  @functools.cached_property
  def rows(self) -> tuple[str, ...]:
    """Names of the fields with a row for every vector that is sent."""
    return quantizers.row_fields(self.quantizer, self.vectors, self.width)

  def describe(self) -> dict[str, Any]:
    """The settings as plain values, for records and tables."""
    coding = self.session.coding
    return {
      'codec': 'feature',
      'split': self.split,
      **({} if coding == 'fixed' else {'coding': coding}),
      **quantizers.describe(self.quantizer),
      # A book's name stays when its file is replaced.
      **({'books': self._books} if self._books else {}),
    }

  def _spec(self) -> dict[str, Any]:
    """What the edge and the server must have in common.

    Of the model that is the projection, which both of them hold: one that was
    trained on has another. Its fingerprint is that of bfloat16, so that a
    number type chosen for the memory of one end makes no difference.
    """
    head = jax.tree.map(
      lambda x: jnp.asarray(x).astype(jnp.bfloat16),
      self.model.params.get('img', {}).get('head', {}),
    )
    return {
      'codec': 'feature',
      # Where an end keeps its books is its own affair.
      'quantizer': quantizers.name(
        quantizers.pretrained.unnamed(self.quantizer)
      ),
      'split': self.split,
      'n': self.vectors,
      'd': self.width,
      'model': self.model.config.name,
      'head': sharding.checksum(head),
      'params': sharding.checksum(self.params, samples=None),
    }

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
    """Turns pictures into messages: the edge.

    Args:
      images: Pictures of the model's size, 0..255.
      key: Random key; each image uses fold_in(key, its id).
      image_ids: Default 0..B-1.

    Returns:
      One message per picture.

    Raises:
      ValueError: They are no such pictures.
    """
    features, extra = self.observe(images)
    return self.pack(self.quantize(features, key, image_ids, extra))

  def encode_features(
    self,
    features: Float[Array, 'B N D'],
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
  ) -> list[bytes]:
    """Turns features into messages; see `encode`."""
    return self.pack(self.quantize(features, key, image_ids))

  def observe(
    self,
    images: UInt8[Array | np.ndarray, 'B H W 3'],
    features: Float[Array, 'B N D'] | None = None,
  ) -> tuple[Array, dict[str, Array]]:
    """Runs the image encoder for features, and what `quantize` takes besides.

    Args:
      images: Pictures of the model's size, 0..255.
      features: From `features`, if they are there: all that most need.

    Returns:
      The features, and `quantize`'s `extra`: see `quantizers.needs`.
    """
    needs = quantizers.needs(self.quantizer)
    if not needs:
      return self.features(images) if features is None else features, {}
    encoder.check_images(images, self.model.config.vision.image_size)
    images = self._spread(images)
    made = encoder.observed(self.model, self.split, images, needs)
    return self._spread(made)

  def quantize(
    self,
    features: Float[Array, 'B N D'],
    key: jax.Array,
    image_ids: Sequence[int] | None = None,
    extra: Mapping[str, Array] | None = None,
  ) -> dict[str, np.ndarray]:
    """Quantizes a batch and fetches the message's arrays from the device.

    As `encode_features`; `extra` is that of `observe`, without it the features
    have to do.
    """
    ids = range(len(features)) if image_ids is None else image_ids
    # Folding an id in uses its low 32 bits.
    ids = np.asarray([i & 0xFFFFFFFF for i in ids], np.uint32)
    mesh = sharding.mesh_of(self.model.params)
    features, ids, extra = self._spread((features, ids, dict(extra or {})))
    keys = image_keys(key, ids)
    made = _quantize(self._sender, self.params, features, keys, extra, mesh)
    return jax.device_get(made)

  def pack(self, message: dict[str, np.ndarray]) -> list[bytes]:
    """Serializes a batch of messages."""
    return self.session.pack_batch(message)

  def decode(self, data: Sequence[bytes]) -> messages.Prefix:
    """Turns messages into what the captioner reads: the server.

    Args:
      data: Messages of this codec.

    Returns:
      The prefix at the decoder's width.

    Raises:
      collab_jax.wire.FormatError: A message is damaged, or another codec's.
    """
    return self.rebuild(data)[1]

  def rebuild(
    self, data: Sequence[bytes]
  ) -> tuple[messages.Tokens, messages.Prefix]:
    """Like `decode`, but returns the batched tokens before the projection too.

    They are what the features are compared with to measure the distortion.
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
        least one of each message is there. None: nothing is missing.
      layers: If not 0, a vector that did not arrive still has these layers.
    """
    mesh = sharding.mesh_of(self.model.params)
    batch = self._spread((message, rows))
    names = () if rows is None else self.rows
    coarse = tuple(n for n, f in self.fields.items() if f.layer < layers)
    settings = self._receiver, self.split, self.params, self.model
    return self._spread(_rebuild(*settings, *batch, names, coarse, mesh))

  def check(self, data: bytes) -> None:
    """Raises FormatError unless this is a message of this codec."""
    self.session.unpack(data)

  def _spread(self, batch: Any) -> Any:
    """Puts a batch where the model is; see `sharding.rows`."""
    return sharding.rows(batch, self.model.params)

  def warm_up(self, batch_size: int) -> messages.Prefix:
    """Compiles what a batch needs by running it on zeros.

    Args:
      batch_size: Number of pictures that will come at a time.

    Returns:
      A prefix, for the captioner to compile too.
    """
    features, extra = encoder.blank(self, batch_size)
    made = self.quantize(features, jax.random.key(0), None, extra)
    return self.decode(self.pack(made))

  def sizes(self, data: bytes) -> dict[str, int]:
    """Bytes of a message by field, and of its header; they add up."""
    return self.session.sizes(data)

  def __repr__(self) -> str:
    """Shows the settings."""
    return f'FeatureCodec({self.name}, split={self.split!r})'
