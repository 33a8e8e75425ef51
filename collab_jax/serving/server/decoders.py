"""Message decoder: a codec at the server's end, from messages to prefixes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from collab_jax import codecs, wire
from collab_jax.serving import protocol
from collab_jax.serving.engine import engine as engines


class MessageDecoder:
  """Decodes the messages of one codec.

  A message may end after any of its layers from which the codec decodes. Such
  partial messages are few, so that they are decoded one by one.

  Attributes:
    codec: The receiving codec.
    id: Id of its session.
  """

  def __init__(self, codec: codecs.Codec):
    """Binds a codec of the server's model."""
    self.codec = codec
    self.id = protocol.session_id(codec)
    self._layers = {codec.layers}  # Numbers of layers that can be decoded.

  def unpack(self, data: bytes) -> Any:
    """Checks and unpacks a message, or its first layers; on any thread.

    Raises:
      FormatError: The message is damaged, or of another codec.
    """
    message = self.codec.unpack(data)
    if self.layers(message) not in self._layers:
      raise wire.FormatError(
        f'message: got {self.layers(message)} of {self.codec.layers} layers,'
        f' expected {sorted(self._layers)}'
      )
    return message

  @property
  def shortest(self) -> int | None:
    """Bytes of a whole message, where all have the same length; else None."""
    return self.codec.layout.length

  @property
  def progressive(self) -> bool:
    """True if the first layers of a message can be decoded alone."""
    return len(self._layers) > 1

  def layers(self, message: Any) -> int:
    """Returns the number of layers of an unpacked message."""
    return self.codec.layers_of(message)

  def max_batch(self, message: Any, count: int) -> int:
    """Returns the largest batch to decode at once, out of `count` messages."""
    return count if self.layers(message) == self.codec.layers else 1

  def warm_up(self, batches: Sequence[int]) -> Iterator[Callable[[], int]]:
    """Yields functions that compile a program and return a prefix's length."""
    for batch in batches:
      yield lambda batch=batch: self._compile(self.codec.layers, batch)
    for layers in range(1, self.codec.layers):
      yield lambda layers=layers: self._compile_layers(layers)

  def _compile_layers(self, layers: int) -> int:
    """Compiles a program for the first layers, if they can be decoded."""
    if not self.codec.decodes_layers(layers):
      return 0
    length = self._compile(layers, 1)
    self._layers.add(layers)
    return length

  def _compile(self, layers: int, batch_size: int) -> int:
    try:
      blank = self.codec.blank(layers)
      return len(self.rebuild([blank], batch_size)[0].x)
    except (Exception, SystemExit) as error:
      if self.codec.spec.family != 'own':
        raise
      raise ValueError(
        f'{self.codec.name}: got {error!r} for a black picture, expected a'
        ' prefix; try collab_jax.testing.check_codec'
      ) from error

  def rebuild(
    self, messages: Sequence[Any], batch_size: int
  ) -> list[engines.HostPrefix]:
    """Decodes messages to prefixes; on the scheduler's thread.

    Args:
      messages: From `unpack`, all with the same layers.
      batch_size: Size to which the batch is padded.
    """
    rows = [*messages, *[messages[0]] * (batch_size - len(messages))]
    prefix = self.codec.decode_unpacked(rows).prefix
    x, valid, positions, end = jax.device_get(prefix)
    x = np.asarray(x, np.float32)
    return [
      engines.HostPrefix(x[i], valid[i], positions[i], int(end[i]))
      for i in range(len(messages))
    ]
