"""Encoding on the edge: pictures to messages, each stage timed."""

from collections.abc import Sequence
import time
from typing import NamedTuple

import jax
from jaxtyping import Array, UInt8
import numpy as np

from collab_jax import codecs

Codec = codecs.FeatureCodec | codecs.ImageCodec
Images = UInt8[Array | np.ndarray, 'B H W 3']


class EncodedImage(NamedTuple):
  """A picture's message, ready to be sent.

  Attributes:
    message: The bytes.
    codec: Index of the codec that made it.
    milliseconds: This picture's share of its batch's time, by stage.
  """

  message: bytes
  codec: int
  milliseconds: dict[str, float]


class TooLargeError(ValueError):
  """All codecs make longer messages of a picture than allowed."""


class EdgeEncoder:
  """Encodes pictures by the first codec whose message is short enough.

  Attributes:
    codecs: The codecs, best first; all feature codecs share a model and split.
    max_bytes: Longest message; None for any.
    key: Random key; each picture uses fold_in(key, its id).
  """

  def __init__(
    self,
    codec: Codec | Sequence[Codec],
    max_bytes: int | None = None,
    key: jax.Array | None = None,
  ):
    """Binds codecs.

    Args:
      codec: A codec, or several, best first.
      max_bytes: Longest message; None for any.
      key: Random key; default key(0).

    Raises:
      ValueError: There is no codec, or codecs of several splits.
    """
    self.codecs = list(codec) if isinstance(codec, Sequence) else [codec]
    if not self.codecs:
      raise ValueError('codec: got none, expected at least one')
    if max_bytes is not None and max_bytes < 1:
      raise ValueError(f'max_bytes: got {max_bytes}, expected at least 1')
    splits = {str(c.split) for c in self.codecs if _is_feature(c)}
    if len(splits) > 1:
      raise ValueError(f'codec: got the splits {sorted(splits)}, expected one')
    self.max_bytes = max_bytes
    self.key = jax.random.key(0) if key is None else key

  def encode(
    self, images: Images, image_ids: Sequence[int]
  ) -> list[EncodedImage | TooLargeError]:
    """Encodes a batch.

    Args:
      images: Pictures of the model's size.
      image_ids: One per picture.

    Returns:
      A message per picture, or an error where all messages are too long.

    Raises:
      ValueError: The images have another dtype or shape.
    """
    count = len(images)
    images, ids = _pad_to_power_of_two(np.asarray(images), list(image_ids))
    found: list[EncodedImage | TooLargeError | None] = [None] * count
    features, encoding = None, 0.0
    for number, codec in enumerate(self.codecs):
      own, aux = features, {}
      if isinstance(codec, codecs.FeatureCodec):
        start = time.perf_counter()
        own, aux = jax.block_until_ready(codec.observe(images, features))
        encoding += _since(start) / count
        features = features if aux else own
      data, spent = _encoded(codec, images, own, aux, self.key, ids)
      milliseconds = {name: value / count for name, value in spent.items()}
      if _is_feature(codec):
        milliseconds = {'encode': encoding, **milliseconds}
      for i in range(count):
        fits = self.max_bytes is None or len(data[i]) <= self.max_bytes
        if found[i] is None and fits:
          found[i] = EncodedImage(data[i], number, milliseconds)
      if None not in found:
        break
    return [self._too_large() if one is None else one for one in found]

  def _too_large(self) -> TooLargeError:
    names = ', '.join(codec.name for codec in self.codecs)
    return TooLargeError(
      f'max_bytes: none of {names} makes a message of this picture with at'
      f' most {self.max_bytes} bytes'
    )


def _encoded(codec, images, features, aux, key, ids):
  """Messages of a batch, and the milliseconds of each stage."""
  start = time.perf_counter()
  if isinstance(codec, codecs.ImageCodec):
    data = codec.encode(images)
    return data, {'encode': _since(start)}
  message = codec.quantize(features, key, ids, aux)
  spent = {'quantize': _since(start)}
  start = time.perf_counter()
  data = codec.pack(message)
  return data, {**spent, 'pack': _since(start)}


def _pad_to_power_of_two(images, ids):
  """Repeats the last picture, so that batches have few sizes to compile."""
  more = (1 << (len(images) - 1).bit_length()) - len(images)
  if not more:
    return images, ids
  return (
    np.concatenate([images, np.repeat(images[-1:], more, axis=0)]),
    ids + ids[-1:] * more,
  )


def _is_feature(codec: Codec) -> bool:
  return isinstance(codec, codecs.FeatureCodec)


def _since(start: float) -> float:
  """Milliseconds."""
  return 1000 * (time.perf_counter() - start)
