"""The work behind the edge's page, one picture at a time."""

import collections
from collections.abc import Callable, Iterator
import time
from typing import Any

from jaxtyping import UInt8
import numpy as np

from collab_jax.data import pictures
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import (
  encode,
  result,
)
from collab_jax.serving.web import visualize

# Clients that are kept, one for each codec that was asked for.
_MOST = 24

Image = UInt8[np.ndarray, 'H W 3']


class Refused(ValueError):
  """What a browser asked for cannot be done; the message is for a person."""


class DemoBackend:
  """Encodes pictures by whatever codec is asked for, and tells what came of it.

  Its methods are called by one thread, and none of them waits for the server.
  """

  def __init__(
    self,
    client: clients.EdgeClient,
    make: Callable[[str], encode.Codec],
    size: int,
  ):
    """Binds a client.

    Args:
      client: Whose connection is used.
      make: From a codec's text to the codec.
      size: Side of the model's pictures in pixels.
    """
    self._client = client
    self._make = make
    self._size = size
    self._clients: collections.OrderedDict[str, clients.EdgeClient]
    self._clients = collections.OrderedDict()

  def read(self, file: bytes | Image) -> tuple[Image, float]:
    """Reads a picture.

    Args:
      file: A picture's file, or the picture.

    Returns:
      The picture at the model's size, and the milliseconds it took.

    Raises:
      Refused: The file is damaged, or no picture.
    """
    start = time.perf_counter()
    if isinstance(file, bytes):
      try:
        file = pictures.decode(file, 'The file')
      except pictures.PictureError as error:
        raise Refused(str(error)) from error
    image = pictures.resize(file, self._size)
    return image, 1000 * (time.perf_counter() - start)

  def client(self, text: str) -> tuple[clients.EdgeClient, bool]:
    """A client for a codec, and whether it is prepared.

    Args:
      text: The codec.

    Raises:
      ValueError: There is no such codec.
    """
    client = self._clients.get(text)
    if client is None:
      return self._client.using(self._make(text)), False
    self._clients.move_to_end(text)
    return client, True

  def prepare(
    self, text: str, client: clients.EdgeClient, image: Image
  ) -> None:
    """Compiles what a codec needs, and keeps its client.

    Args:
      text: The codec.
      client: Its client, which has agreed on it with the server.
      image: Any picture.
    """
    self.packed(client, image)
    # Of two that came at a time, the first stays.
    self._clients.setdefault(text, client)
    self._clients.move_to_end(text)
    if len(self._clients) > _MOST:
      self._clients.popitem(last=False)[1].close()

  def packed(
    self, client: clients.EdgeClient, image: Image
  ) -> tuple[encode.EncodedImage, dict[str, Any]]:
    """A picture's message, and what there is to see of it."""
    packed = client.pack(image)
    shown = visualize.view(client.codecs[packed.codec], image, packed.message)
    return packed, shown

  def close(self) -> None:
    """Closes all clients."""
    for client in self._clients.values():
      client.close()


def stream_events(
  client: clients.EdgeClient,
  packed: encode.EncodedImage,
  prompt: str,
  watch: Callable[[Any], None] | None = None,
) -> Iterator[dict[str, Any]]:
  """Sends a message, and says what comes back.

  Args:
    client: Whose message it is.
    packed: The message.
    prompt: Text for the model; empty for the server's.
    watch: As of `EdgeClient.stream_packed`.

  Yields:
    {'kind': 'text', 'text'} for pieces of the caption, then {'kind':
    'answer'} with the fields of an `Answer`; or {'kind': 'error', 'error'}.
  """
  said = client.stream_packed(packed, prompt, watch=watch)
  try:
    for piece in said:
      if isinstance(piece, result.CaptionResult):
        yield {'kind': 'answer', **piece._asdict()}
      else:
        yield {'kind': 'text', 'text': piece}
  except (OSError, ValueError) as error:
    yield {'kind': 'error', 'error': str(error)}
  finally:
    said.close()
