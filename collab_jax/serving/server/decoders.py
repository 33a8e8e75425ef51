"""A codec at the server's end: its messages to what the decoder sees."""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from collab_jax import codecs, wire
from collab_jax import message as messages
from collab_jax.serving import protocol
from collab_jax.serving.engine import engine as engines


class MessageDecoder(abc.ABC):
  """A codec that the server takes.

  Attributes:
    codec: The receiving codec.
    id: How requests name it.
  """

  def __init__(self, codec: protocol.Codec):
    """Binds a codec of the server's model."""
    self.codec = codec
    self.id = protocol.id_of(codec)

  @abc.abstractmethod
  def unpack(self, data: bytes) -> Any:
    """Checks and unpacks a message; on any thread.

    Raises:
      FormatError: It is none of this codec.
    """

  @abc.abstractmethod
  def warm_up(self, batches: Sequence[int]) -> Iterator[Callable[[], int]]:
    """Yields what compiles a program each; each returns a prefix's length."""

  @abc.abstractmethod
  def _prefix(self, rows: Sequence[Any]) -> messages.Prefix:
    """What the decoder sees of messages that are alike."""

  @property
  def shortest(self) -> int | None:
    """Bytes of every whole message, if they are all as long."""
    return None

  @property
  def progressive(self) -> bool:
    """Whether the first layers of a message make a caption, too."""
    return False

  def layers(self, message: Any) -> int:
    """How many layers an unpacked message has."""
    del message
    return 1

  def most(self, message: Any, count: int) -> int:
    """Of so many messages like this one, how many to rebuild at a time."""
    del message
    return count

  def rebuild(
    self, received: Sequence[Any], batch: int
  ) -> list[engines.HostPrefix]:
    """Rebuilds what the decoder sees; on the worker's thread.

    Args:
      received: What `unpack` returned, all with the same layers.
      batch: What to fill them up to.
    """
    rows = [*received, *[received[0]] * (batch - len(received))]
    x, valid, positions, end = jax.device_get(self._prefix(rows))
    x = np.asarray(x, np.float32)
    return [
      engines.HostPrefix(x[i], valid[i], positions[i], int(end[i]))
      for i in range(len(received))
    ]

  def _length(self, message: Any, batch: int) -> int:
    return len(self.rebuild([message], batch)[0].x)


class FeatureDecoder(MessageDecoder):
  """A codec of features.

  A message may end after any of its layers, if the quantizer rebuilds vectors
  from those; there are few of these, so that they are rebuilt one by one.
  """

  def __init__(self, codec: codecs.FeatureCodec):
    """Binds a codec of the server's model."""
    super().__init__(codec)
    self._codec = codec
    self._enough = {codec.session.layers}

  def unpack(self, data: bytes) -> dict[str, np.ndarray]:
    """Unpacks a message, or its first layers."""
    message = self._codec.session.unpack(data)
    if self.layers(message) not in self._enough:
      raise wire.FormatError(
        f'The message has {self.layers(message)} of'
        f' {self._codec.session.layers} layers, from which this quantizer'
        f' rebuilds nothing; expected {sorted(self._enough)}.'
      )
    return message

  @property
  def shortest(self) -> int | None:
    """Bytes of every whole message, if they are all as long."""
    return self._codec.session.length

  @property
  def progressive(self) -> bool:
    """Whether the first layers of a message make a caption, too."""
    return len(self._enough) > 1

  def layers(self, message: Any) -> int:
    """How many layers an unpacked message has."""
    return len(self._codec.session.present(message))

  def most(self, message: Any, count: int) -> int:
    """All of them if they are whole, else one."""
    whole = self.layers(message) == self._codec.session.layers
    return count if whole else 1

  def warm_up(self, batches: Sequence[int]) -> Iterator[Callable[[], int]]:
    """Runs zeros, of all layers and of the first ones."""
    fields = self._codec.fields
    for batch in batches:
      yield lambda batch=batch: self._length(_zeros(fields), batch)
    for layers in range(1, self._codec.session.layers):
      yield lambda layers=layers: self._try(layers)

  def _try(self, layers: int) -> int:
    """Finds out whether the first layers are enough for the quantizer."""
    fields = self._codec.fields
    some = {n: f for n, f in fields.items() if f.layer < layers}
    try:
      length = self._length(_zeros(some), 1)
    except (ValueError, KeyError):
      return 0
    self._enough.add(layers)
    return length

  def _prefix(self, rows: Sequence[Any]) -> messages.Prefix:
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return self._codec.rebuild_message(stacked)[1]


class ImageDecoder(MessageDecoder):
  """A codec of pictures: the server runs the image encoder."""

  def __init__(self, codec: codecs.ImageCodec):
    """Binds a codec of the server's model."""
    super().__init__(codec)
    self._codec = codec

  def unpack(self, data: bytes) -> np.ndarray:
    """Decodes a picture."""
    return self._codec.pictures([data])[0]

  def warm_up(self, batches: Sequence[int]) -> Iterator[Callable[[], int]]:
    """Runs black pictures."""
    size = self._codec.model.config.vision.image_size
    black = np.zeros((size, size, 3), np.uint8)
    # The first picture of a kind loads what decodes it.
    self._codec.pictures(self._codec.encode(black[None]))
    for batch in batches:
      yield lambda batch=batch: self._length(black, batch)

  def _prefix(self, rows: Sequence[Any]) -> messages.Prefix:
    return self._codec.prefix(np.stack(rows))


def _zeros(fields: Mapping[str, messages.Field]) -> dict[str, np.ndarray]:
  """A message as it comes unpacked."""
  return {
    name: np.zeros(
      field.shape,
      np.int32
      if isinstance(field, messages.Symbols)
      else wire.DTYPES[field.dtype],
    )
    for name, field in fields.items()
  }
