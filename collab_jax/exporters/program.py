"""What an edge computes, as one function from pictures to a message."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt8, UInt32

from collab_jax import codecs
from collab_jax.codecs import (
  encoder,
  feature,
)
from collab_jax.exporters import primitives

Params = dict[str, Any]
Message = dict[str, jax.Array]


class Single(NamedTuple):
  """A function of one picture.

  Attributes:
    run: (images u8[1 H W 3], words i32[1 2 draws]) -> the message's fields, in
      order, each with an axis of 1 in front; values in float32. Without draws
      it takes images only.
    draws: As of `plain.Plain`.
  """

  run: Callable[..., tuple[jax.Array, ...]]
  draws: int


def weights(codec: codecs.FeatureCodec) -> Params:
  """Returns the parameters that the edge needs, without the quantizer's.

  Args:
    codec: Whose image tower; the projection is in it if it runs on the edge.
  """
  tower = dict(codec.model.params['img'])
  if codec.split == 'encoder':
    tower.pop('head', None)
  return tower


def batched(codec: codecs.FeatureCodec, seed: int) -> Callable[..., Message]:
  """Returns the edge's function of many pictures.

  Args:
    codec: What the edge computes.
    seed: Each picture has the key `fold_in(key(seed), its id)`.

  Returns:
    (weights, images, ids) -> the message's arrays, as `codec.quantize` has
    them.
  """
  quantizer = codec.quantizer

  def run(
    weights: Params, images: UInt8[Array, 'B H W 3'], ids: UInt32[Array, ' B']
  ) -> Message:
    found = _features(codec, weights, images)
    # Compiled as the codec does it, in two programs: to the bit the same.
    x, aux = jax.lax.optimization_barrier(found)
    keys = feature.image_keys(jax.random.key(seed), ids)
    each = jax.vmap(
      lambda x, key, aux: quantizer.quantize(codec.params, x, key, **aux)
    )
    return each(x, keys, aux)

  return run


def single(codec: codecs.FeatureCodec) -> Single:
  """Returns the edge's function of one picture, for converters.

  Args:
    codec: What the edge computes.

  Raises:
    plain.Unplain: The quantizer uses its key in a way that is not known, or
      needs more than features.
  """
  if codec.quantizer.aux_inputs:
    raise primitives.UnsupportedQuantizerError(
      'it takes more of the encoder than its features'
    )
  shape = jax.ShapeDtypeStruct((codec.vectors, codec.width), jnp.float32)
  quantize, draws = primitives.plain(
    lambda x, key: codec.quantizer.quantize(codec.params, x, key), shape
  )

  def run(
    images: UInt8[Array, '1 H W 3'], words: Int32[Array, '1 2 m'] | None = None
  ) -> tuple[jax.Array, ...]:
    x = _features(codec, weights(codec), images)[0][0]
    words = jnp.zeros((1, 2, 0), jnp.int32) if words is None else words
    message = quantize(x, words[0])
    return tuple(_portable(message[name])[None] for name in codec.fields)

  return Single(run, draws)


def _features(codec, tower, images):
  vision, aux_inputs = codec.model.config.vision, codec.quantizer.aux_inputs
  return encoder.observe(vision, tower, codec.split, images, aux_inputs)


def _portable(array):
  """Symbols in int32, values in float32: what every runtime returns."""
  floats = jnp.issubdtype(array.dtype, jnp.floating)
  return array.astype(jnp.float32 if floats else jnp.int32)
