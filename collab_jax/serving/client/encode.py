"""Encoding on the edge: pictures to messages, each stage timed."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, UInt8
import numpy as np

from collab_jax import codecs, random_keys

Images = UInt8[Array | np.ndarray, 'B H W 3']


class EncodedImage(NamedTuple):
  """A picture's message, ready to be sent.

  Attributes:
    message: The bytes.
    codec: Index of the codec that made it.
    milliseconds: This picture's share of its batch's time, by stage.
    unlike: Whether the picture is unlike those that the model was trained on.
  """

  message: bytes
  codec: int
  milliseconds: dict[str, float]
  unlike: bool = False


class TooLargeError(ValueError):
  """No codec makes a short enough message of a picture."""


class EdgeEncoder:
  """Encodes pictures by the first codec whose message is short enough.

  Attributes:
    codecs: The codecs, best first; all feature codecs share a model and split.
    max_bytes: Longest message; None for any.
    key: Random key; each picture uses fold_in(key, its id).
  """

  def __init__(
    self,
    codec: codecs.Codec | Sequence[codecs.Codec],
    max_bytes: int | None = None,
    key: jax.Array | None = None,
  ):
    """Binds codecs.

    Args:
      codec: A codec, or several, best first.
      max_bytes: Longest message; None for any.
      key: Random key; default key(0).

    Raises:
      TypeError: It is no codec.
      ValueError: There is no codec, or codecs of several splits.
    """
    self.codecs = list(codec) if isinstance(codec, Sequence) else [codec]
    for bound in [codec] if isinstance(codec, str) else self.codecs:
      codecs.check_codec('codec', bound)
    if not self.codecs:
      raise ValueError('codec: got none, expected at least one')
    if max_bytes is not None and max_bytes < 1:
      raise ValueError(f'max_bytes: got {max_bytes}, expected at least 1')
    splits = {c.split for c in self.codecs if c.split}
    if len(splits) > 1:
      raise ValueError(f'codec: got the splits {sorted(splits)}, expected one')
    self.max_bytes = max_bytes
    self.key = random_keys.make(0) if key is None else key

  def encode(
    self, images: Images, image_ids: Sequence[int], warn: bool = True
  ) -> list[EncodedImage | TooLargeError]:
    """Encodes a batch.

    Args:
      images: Pictures of the model's size.
      image_ids: One per picture.
      warn: Warn, once in a process, of pictures unlike those that the model
        was trained on.

    Returns:
      A message per picture, or an error where all messages are too long.

    Raises:
      ValueError: The images have another dtype or shape.
    """
    count = len(images)
    images, ids = _pad_to_power_of_two(np.asarray(images), list(image_ids))
    chosen: list[EncodedImage | TooLargeError | None] = [None] * count
    cache = codecs.FeatureCache()
    for number, codec in enumerate(self.codecs):
      encoded = codec.encode_batch(images, self.key, ids, cache)
      spent = {s: 1000 * t / count for s, t in encoded.seconds.items()}
      unlike = [False] * count
      if encoded.unlike is not None:
        unlike = encoded.unlike[:count].tolist()
      if warn and any(unlike):
        codecs.warn_of_unlike_picture(codec.model)
      for i, message in enumerate(encoded.messages[:count]):
        fits = self.max_bytes is None or len(message) <= self.max_bytes
        if chosen[i] is None and fits:
          chosen[i] = EncodedImage(message, number, spent, unlike[i])
      if None not in chosen:
        break
    return [encoded or self._too_large() for encoded in chosen]

  def _too_large(self) -> TooLargeError:
    names = ', '.join(codec.name for codec in self.codecs)
    return TooLargeError(
      f'max_bytes: none of {names} makes a message of this picture with at'
      f' most {self.max_bytes} bytes'
    )


def _pad_to_power_of_two(images, ids):
  """Repeats the last picture, so that batches have few sizes to compile."""
  more = (1 << (len(images) - 1).bit_length()) - len(images)
  if not more:
    return images, ids
  return (
    np.concatenate([images, np.repeat(images[-1:], more, axis=0)]),
    ids + ids[-1:] * more,
  )
