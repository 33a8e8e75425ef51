"""Message decoders: a codec at the server's end, from messages to prefixes."""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from collab_jax import codecs, wire
from collab_jax import message as message_lib
from collab_jax.serving import protocol
from collab_jax.serving.engine import engine as engines


class MessageDecoder(abc.ABC):
  """Decodes the messages of one codec.

  Attributes:
    codec: The receiving codec.
    id: Id of its session.
  """

  def __init__(self, codec: protocol.Codec):
    """Binds a codec of the server's model."""
    self.codec = codec
    self.id = protocol.id_of(codec)

  @abc.abstractmethod
  def unpack(self, data: bytes) -> Any:
    """Checks and unpacks a message; on any thread.

    Raises:
      FormatError: The message is damaged, or of another codec.
    """

  @abc.abstractmethod
  def warm_up(self, batches: Sequence[int]) -> Iterator[Callable[[], int]]:
    """Yields functions that compile a program and return a prefix's length."""

  @abc.abstractmethod
  def _prefix(self, rows: Sequence[Any]) -> message_lib.Prefix:
    """Decodes messages with the same layers."""

  @property
  def shortest(self) -> int | None:
    """Bytes of a whole message, where all have the same length; else None."""
    return None

  @property
  def progressive(self) -> bool:
    """Whether the first layers of a message can be decoded alone."""
    return False

  def layers(self, message: Any) -> int:
    """Returns the number of layers of an unpacked message."""
    del message
    return 1

  def max_batch(self, message: Any, count: int) -> int:
    """Returns the largest batch to decode at once, out of `count` messages."""
    del message
    return count

  def rebuild(
    self, messages: Sequence[Any], batch_size: int
  ) -> list[engines.HostPrefix]:
    """Decodes messages to prefixes; on the scheduler's thread.

    Args:
      messages: From `unpack`, all with the same layers.
      batch_size: Size to which the batch is padded.
    """
    rows = [*messages, *[messages[0]] * (batch_size - len(messages))]
    x, valid, positions, end = jax.device_get(self._prefix(rows))
    x = np.asarray(x, np.float32)
    return [
      engines.HostPrefix(x[i], valid[i], positions[i], int(end[i]))
      for i in range(len(messages))
    ]

  def _prefix_length(self, message: Any, batch_size: int) -> int:
    return len(self.rebuild([message], batch_size)[0].x)


class FeatureDecoder(MessageDecoder):
  """Decodes the messages of a feature codec.

  A message may end after any of its layers, if the quantizer rebuilds vectors
  from those. Such messages are few, so that they are decoded one by one.
  """

  def __init__(self, codec: codecs.FeatureCodec):
    """Binds a codec of the server's model."""
    super().__init__(codec)
    self._codec = codec
    self._decodable_layers = {codec.session.layers}

  def unpack(self, data: bytes) -> dict[str, np.ndarray]:
    """Checks and unpacks a message, or its first layers."""
    message = self._codec.session.unpack(data)
    if self.layers(message) not in self._decodable_layers:
      raise wire.FormatError(
        f'The message has {self.layers(message)} of'
        f' {self._codec.session.layers} layers, from which this quantizer'
        f' rebuilds nothing; expected {sorted(self._decodable_layers)}.'
      )
    return message

  @property
  def shortest(self) -> int | None:
    """Bytes of a whole message, where all have the same length; else None."""
    return self._codec.session.length

  @property
  def progressive(self) -> bool:
    """Whether the first layers of a message can be decoded alone."""
    return len(self._decodable_layers) > 1

  def layers(self, message: Any) -> int:
    """Returns the number of layers of an unpacked message."""
    return len(self._codec.session.present(message))

  def max_batch(self, message: Any, count: int) -> int:
    """Returns `count` for whole messages, 1 for partial ones."""
    whole = self.layers(message) == self._codec.session.layers
    return count if whole else 1

  def warm_up(self, batches: Sequence[int]) -> Iterator[Callable[[], int]]:
    """Yields functions that decode zeros, of all and of the first layers."""
    fields = self._codec.fields
    for batch in batches:
      yield lambda batch=batch: self._prefix_length(_zeros(fields), batch)
    for layers in range(1, self._codec.session.layers):
      yield lambda layers=layers: self._try_layers(layers)

  def _try_layers(self, layers: int) -> int:
    """Decodes the first layers, and notes whether the quantizer can."""
    fields = self._codec.fields
    first = {n: f for n, f in fields.items() if f.layer < layers}
    try:
      length = self._prefix_length(_zeros(first), 1)
    except (ValueError, KeyError):
      return 0
    self._decodable_layers.add(layers)
    return length

  def _prefix(self, rows: Sequence[Any]) -> message_lib.Prefix:
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return self._codec.rebuild_message(stacked)[1]


class ImageDecoder(MessageDecoder):
  """Decodes the messages of an image codec: runs the image encoder."""

  def __init__(self, codec: codecs.ImageCodec):
    """Binds a codec of the server's model."""
    super().__init__(codec)
    self._codec = codec

  def unpack(self, data: bytes) -> np.ndarray:
    """Decodes the picture file."""
    return self._codec.unpack(data)

  def warm_up(self, batches: Sequence[int]) -> Iterator[Callable[[], int]]:
    """Yields functions that decode black pictures."""
    size = self._codec.model.config.vision.image_size
    black = np.zeros((size, size, 3), np.uint8)
    # The first picture of a kind loads the library that decodes it.
    self._codec.unpack(self._codec.encode(black[None])[0])
    for batch in batches:
      yield lambda batch=batch: self._prefix_length(black, batch)

  def _prefix(self, rows: Sequence[Any]) -> message_lib.Prefix:
    prefix = self._codec.decode_unpacked(rows).prefix
    assert prefix is not None
    return prefix


def _zeros(fields: Mapping[str, message_lib.Field]) -> dict[str, np.ndarray]:
  """Returns an unpacked message of zeros."""
  return {
    name: np.zeros(
      field.shape,
      np.int32
      if isinstance(field, message_lib.Symbols)
      else wire.DTYPES[field.dtype],
    )
    for name, field in fields.items()
  }
