"""Image encoder and quantizer as one function from pictures to a message."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt8, UInt32

from collab_jax import codecs, random_keys
from collab_jax.codecs import (
  encoder,
  feature,
  unlike_pictures,
)
from collab_jax.exporters import primitives
from collab_jax.models import feature_statistics

# Name of the output of mean features, by which unlike pictures are told.
MEANS = 'feature_means'

Params = dict[str, Any]
Message = dict[str, jax.Array]


class SingleImageProgram(NamedTuple):
  """Function of one picture.

  Attributes:
    run: Maps (images u8[1 H W 3], words i32[1 2 count]) to the message's
      fields, in order, and the mean features where there are `statistics`, each
      with an axis of 1 in front; values in float32. It takes images only if no
      words are drawn.
    word_count: As of `primitives.KeylessFunction`.
  """

  run: Callable[..., tuple[jax.Array, ...]]
  word_count: int


def weights(codec: codecs.FeatureCodec) -> Params:
  """Returns the parameters that the edge needs, without the quantizer's.

  Args:
    codec: The edge's codec; the projection is included with split 'head'.
  """
  tower = dict(codec.model.params['img'])
  if codec.split == 'encoder':
    tower.pop('head', None)
  return tower


def statistics(
  codec: codecs.FeatureCodec,
) -> feature_statistics.Gaussian | None:
  """Returns the distribution of pictures that the model knows, if there is one.

  Args:
    codec: The edge's codec; the program returns its mean features then, too.
  """
  known = unlike_pictures.statistics_of(codec.model)
  gaussian = known.splits.get(codec.spec.split) if known else None
  if gaussian is None or gaussian.mean.shape != (codec.width,):
    return None
  return gaussian


def batched(codec: codecs.FeatureCodec, seed: int) -> Callable[..., Message]:
  """Returns the edge's function of a batch of pictures.

  Args:
    codec: The edge's codec.
    seed: Each picture has the key `fold_in(key(seed), its id)`.

  Returns:
    Maps (weights, images, ids) to the message's arrays, as `codec.quantize`
    returns them, and `MEANS` where there are `statistics`.
  """
  quantizer, with_means = codec.quantizer, statistics(codec) is not None

  def run(
    weights: Params, images: UInt8[Array, 'B H W 3'], ids: UInt32[Array, ' B']
  ) -> Message:
    # The codec compiles the two parts apart; the barrier keeps bits equal.
    x, aux = jax.lax.optimization_barrier(_features(codec, weights, images))
    keys = feature.image_keys(random_keys.make(seed), ids)
    quantize = jax.vmap(
      lambda x, key, aux: quantizer.quantize(codec.params, x, key, **aux)
    )
    message = quantize(x, keys, aux)
    return {**message, MEANS: x.mean(1)} if with_means else message

  return run


def single(codec: codecs.FeatureCodec) -> SingleImageProgram:
  """Returns the edge's function of one picture, for converters.

  Args:
    codec: The edge's codec.

  Raises:
    UnsupportedQuantizerError: The quantizer uses its key in an unknown way, or
      needs more than features.
  """
  if codec.quantizer.aux_inputs:
    raise primitives.UnsupportedQuantizerError(
      'it takes more of the encoder than its features'
    )
  shape = jax.ShapeDtypeStruct((codec.vectors, codec.width), jnp.float32)
  quantize, word_count = primitives.rewrite(
    lambda x, key: codec.quantizer.quantize(codec.params, x, key), shape
  )
  with_means = statistics(codec) is not None

  def run(
    images: UInt8[Array, '1 H W 3'], words: Int32[Array, '1 2 m'] | None = None
  ) -> tuple[jax.Array, ...]:
    x = _features(codec, weights(codec), images)[0][0]
    words = jnp.zeros((1, 2, 0), jnp.int32) if words is None else words
    message = quantize(x, words[0])
    fields = [_portable(message[name])[None] for name in codec.fields]
    return (*fields, x.mean(0)[None]) if with_means else tuple(fields)

  return SingleImageProgram(run, word_count)


def _features(codec, tower, images):
  vision, aux_inputs = codec.model.config.vision, codec.quantizer.aux_inputs
  return encoder.observe(vision, tower, codec.split, images, aux_inputs)


def _portable(array):
  """Casts symbols to int32 and values to float32, which all runtimes have."""
  floats = jnp.issubdtype(array.dtype, jnp.floating)
  return array.astype(jnp.float32 if floats else jnp.int32)
