"""Work behind the demo page: encodes pictures and streams captions."""

import collections
from collections.abc import Callable, Iterator
import dataclasses
import hashlib
import time
from typing import Any, NamedTuple

from jaxtyping import UInt8
import numpy as np

from collab_jax import codecs
from collab_jax.data import pictures
from collab_jax.models import mask_decoder
from collab_jax.serving import memory
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import (
  encode,
  result,
)
from collab_jax.serving.web import answers, jpeg, visualize

_MAX_CLIENTS = 24  # One for each codec in use.
_MAX_PACKED = 24  # Messages that are kept for more questions.

# Status of a request that the server does not take, whoever sends it.
_REFUSED_PROMPT = 'INVALID_ARGUMENT'

_LARGE = 1 << 24  # Bytes of a picture after which memory is given back.

Image = UInt8[np.ndarray, 'H W 3']


class BadRequestError(ValueError):
  """A browser's request cannot be met; the text is for its user."""


class ReadPicture(NamedTuple):
  """Picture of a file.

  Attributes:
    image: The picture at the model's size.
    size: Width and height of the file.
    milliseconds: Time of reading.
  """

  image: Image
  size: tuple[int, int]
  milliseconds: float


@dataclasses.dataclass
class PackedPicture:
  """Message of a picture, which is sent with the first question about it.

  Attributes:
    encoded: The message.
    description: Values for the page.
    is_kept: Whether the server has answered a question with the message.
    is_new: Whether it was encoded for the questions that are asked now.
  """

  encoded: encode.EncodedImage
  description: dict[str, Any]
  is_kept: bool = False
  is_new: bool = True


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
    decoder: mask_decoder.Params | None = None,
  ):
    """Binds a client.

    Args:
      client: A client of the server, for its connection.
      make_codec: Function from a config string to the codec.
      size: Side of the model's pictures in pixels.
      decoder: Decoder of masks; None leaves them out.
    """
    self._client = client
    self._make_codec = make_codec
    self._size = size
    self._decoder = decoder
    self._clients: collections.OrderedDict[str, clients.EdgeClient]
    self._clients = collections.OrderedDict()
    self._packed: collections.OrderedDict[tuple[str, bytes], PackedPicture]
    self._packed = collections.OrderedDict()

  def read(self, file: bytes | Image) -> ReadPicture:
    """Reads a picture.

    Args:
      file: Bytes of a picture file, or the picture.

    Raises:
      BadRequestError: The file is damaged, or no picture.
    """
    start = time.perf_counter()
    if isinstance(file, bytes):
      try:
        file = pictures.decode(file, 'The file')
      except pictures.PictureError as error:
        raise BadRequestError(str(error)) from error
    height, width, _ = file.shape
    image = pictures.resize(file, self._size)
    del file
    if 3 * height * width > _LARGE:
      memory.trim()
    spent = 1000 * (time.perf_counter() - start)
    return ReadPicture(image, (width, height), spent)

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
    _pack(client, image)
    # Of two clients made at a time, the first stays.
    self._clients.setdefault(text, client)
    self._clients.move_to_end(text)
    if len(self._clients) > _MAX_CLIENTS:
      self._clients.popitem(last=False)[1].close()

  def encode(
    self, text: str, client: clients.EdgeClient, image: Image
  ) -> PackedPicture:
    """Encodes a picture, once for all questions about it.

    Args:
      text: Config string of the codec.
      client: Its client.
      image: The picture.
    """
    key = text, hashlib.sha256(image.tobytes()).digest()
    packed = self._packed.get(key)
    if packed is not None:
      self._packed.move_to_end(key)
      packed.is_new = False
      return packed
    packed = self._packed[key] = _pack(client, image)
    if len(self._packed) > _MAX_PACKED:
      self._packed.popitem(last=False)
    return packed

  def describe_answer(
    self, text: str, prompt: str, size: tuple[int, int]
  ) -> dict[str, Any]:
    """Describes an answer's boxes and masks; see `answers`."""
    return answers.describe_answer(
      text, prompt, size, self._size, self._decoder
    )

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


def _pack(client: clients.EdgeClient, image: Image) -> PackedPicture:
  """Encodes a picture, and describes its message."""
  encoded = client.pack(image)
  codec = client.codecs[encoded.codec]
  description = visualize.describe_message(codec, image, encoded.message)
  return PackedPicture(encoded, description)


def stream_events(
  client: clients.EdgeClient,
  packed: PackedPicture,
  prompt: str,
  watch: Callable[[Any], None] | None = None,
) -> Iterator[dict[str, Any]]:
  """Asks about a picture, and yields events for the page.

  Args:
    client: The client that encoded it.
    packed: Its message, which is sent unless the server has it.
    prompt: Text for the model; empty for the server's.
    watch: As in `EdgeClient.stream_packed`.

  Yields:
    {'kind': 'text', 'text'} for pieces of the answer, then {'kind':
    'answer'} with the fields of a `CaptionResult`, or {'kind': 'error',
    'error', 'is_refusal'}; after a refusal another prompt may be answered.
  """
  encoded = packed.encoded
  if packed.is_kept:  # The time of encoding was the first question's.
    encoded = encoded._replace(milliseconds={})
  stream = client.stream_packed(
    encoded, prompt, watch=watch, is_kept=packed.is_kept
  )
  try:
    for item in stream:
      if isinstance(item, result.CaptionResult):
        packed.is_kept = True
        yield {'kind': 'answer', **item._asdict()}
      else:
        yield {'kind': 'text', 'text': item}
  except (OSError, ValueError) as error:
    is_refusal = getattr(error, 'code', '') == _REFUSED_PROMPT
    yield {'kind': 'error', 'error': str(error), 'is_refusal': is_refusal}
  finally:
    stream.close()
