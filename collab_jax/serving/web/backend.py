"""Work behind the demo page: encodes pictures and streams captions."""

import collections
from collections.abc import Callable, Iterator
import time
from typing import Any

from jaxtyping import UInt8
import numpy as np

from collab_jax import codecs
from collab_jax.data import pictures
from collab_jax.serving import memory
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import (
  encode,
  result,
)
from collab_jax.serving.web import jpeg, visualize

_MAX_CLIENTS = 24  # One for each codec in use.

_LARGE = 1 << 24  # Bytes of a picture after which memory is given back.

Image = UInt8[np.ndarray, 'H W 3']


class BadRequestError(ValueError):
  """A browser's request cannot be met; the text is for its user."""


class DemoBackend:
  """Encodes pictures by the codecs that the page asks for.

  But for `nearest_jpeg`, all methods must be called by one thread; none of them
  waits for the server.
  """

  def __init__(
    self,
    client: clients.EdgeClient,
    make_codec: Callable[[str], codecs.Codec],
    size: int,
  ):
    """Binds a client.

    Args:
      client: A client of the server, for its connection.
      make_codec: Function from a config string to the codec.
      size: Side of the model's pictures in pixels.
    """
    self._client = client
    self._make_codec = make_codec
    self._size = size
    self._clients: collections.OrderedDict[str, clients.EdgeClient]
    self._clients = collections.OrderedDict()

  def read(self, file: bytes | Image) -> tuple[Image, float]:
    """Reads a picture.

    Args:
      file: Bytes of a picture file, or the picture.

    Returns:
      The picture at the model's size, and the milliseconds of reading.

    Raises:
      BadRequestError: The file is damaged, or no picture.
    """
    start = time.perf_counter()
    if isinstance(file, bytes):
      try:
        file = pictures.decode(file, 'The file')
      except pictures.PictureError as error:
        raise BadRequestError(str(error)) from error
    image, pixels = pictures.resize(file, self._size), file.size
    del file
    if pixels > _LARGE:
      memory.trim()
    return image, 1000 * (time.perf_counter() - start)

  def client(self, text: str) -> tuple[clients.EdgeClient, bool]:
    """Returns a client for a codec, and whether it is prepared.

    Args:
      text: Config string of the codec.

    Raises:
      ValueError: There is no such codec.
    """
    client = self._clients.get(text)
    if client is None:
      return self._client.using(self._make_codec(text)), False
    self._clients.move_to_end(text)
    return client, True

  def prepare(
    self, text: str, client: clients.EdgeClient, image: Image
  ) -> None:
    """Compiles the programs of a codec, and keeps its client.

    Args:
      text: Config string of the codec.
      client: Its client, after the handshake.
      image: Any picture.
    """
    self.encode(client, image)
    # Of two clients made at a time, the first stays.
    self._clients.setdefault(text, client)
    self._clients.move_to_end(text)
    if len(self._clients) > _MAX_CLIENTS:
      self._clients.popitem(last=False)[1].close()

  def encode(
    self, client: clients.EdgeClient, image: Image
  ) -> tuple[encode.EncodedImage, dict[str, Any]]:
    """Encodes a picture; returns the message and its description."""
    encoded = client.pack(image)
    codec = client.codecs[encoded.codec]
    return encoded, visualize.describe_message(codec, image, encoded.message)

  def nearest_jpeg(self, image: Image, limit: int) -> jpeg.JpegFile:
    """Finds the JPEG file to compare with; any thread may call this.

    Args:
      image: The picture, at the model's size.
      limit: Most bytes of the file.
    """
    return jpeg.nearest(self._client.codecs[0].model, image, limit)

  def close(self) -> None:
    """Closes all clients."""
    for client in self._clients.values():
      client.close()


def stream_events(
  client: clients.EdgeClient,
  encoded: encode.EncodedImage,
  prompt: str,
  watch: Callable[[Any], None] | None = None,
) -> Iterator[dict[str, Any]]:
  """Sends a message, and yields events for the page.

  Args:
    client: The client that encoded it.
    encoded: The message.
    prompt: Text for the model; empty for the server's.
    watch: As in `EdgeClient.stream_packed`.

  Yields:
    {'kind': 'text', 'text'} for pieces of the caption, then {'kind':
    'answer'} with the fields of a `CaptionResult`, or {'kind': 'error',
    'error'}.
  """
  stream = client.stream_packed(encoded, prompt, watch=watch)
  try:
    for item in stream:
      if isinstance(item, result.CaptionResult):
        yield {'kind': 'answer', **item._asdict()}
      else:
        yield {'kind': 'text', 'text': item}
  except (OSError, ValueError) as error:
    yield {'kind': 'error', 'error': str(error)}
  finally:
    stream.close()
