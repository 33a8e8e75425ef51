"""The edge: pictures to a server, captions back."""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent import futures
import itertools
from typing import Any

import jax
from jaxtyping import Array, UInt8
import numpy as np

from collab_jax import codecs
from collab_jax.serving.client import (
  channel,
  encode,
  result,
  rpc,
)

Answer = result.CaptionResult
Failure = encode.TooLargeError | channel.RemoteError


class EdgeClient:
  """Encodes pictures, sends them and waits for captions.

  Of the model it needs the image encoder only, for an image codec nothing. It
  shakes hands when it must: before the first request, and when the server was
  started anew. A request that the server could not take is sent again, with
  the same id, so that no picture is captioned twice. Any number of threads may
  use it.

  Attributes:
    connection: The channel, its credentials and its time limit.
    codecs: What encodes, best first.
    window: How many requests may be in flight.
    threshold: Bits of min-entropy above which the finer layers are sent; None
      to send all layers at once.
    coarse: How many layers are sent first.
    seed: As of `__init__`.
  """

  def __init__(
    self,
    target: str | channel.Connection,
    codec: encode.Codec | Sequence[encode.Codec],
    *,
    window: int = 16,
    max_bytes: int | None = None,
    threshold: float | None = None,
    coarse: int = 1,
    seed: int = 0,
    **settings: Any,
  ):
    """Opens a channel; nothing is sent yet.

    Args:
      target: 'HOST:PORT', or the connection of another client.
      codec: A FeatureCodec or ImageCodec. Or several, best first: a picture
        is sent by the first one whose message has at most `max_bytes`.
      window: How many requests may be in flight, at least 1.
      max_bytes: The longest message; None for any.
      threshold: Send the first layers of a message, and the others only if the
        caption has a higher min-entropy, in bits. The codec needs layers.
      coarse: How many layers to send first then.
      seed: Of the quantizers' random keys; each picture has its own, by its
        id.
      **settings: Of `connection.Connection`, for a target in words: token,
        ca, cert, key, server_name, insecure, timeout, backoff.

    Raises:
      ValueError: A setting is out of range, does not go with another, or
        would send to another machine without TLS.
      FileNotFoundError: A certificate is missing.
    """
    if window < 1:
      raise ValueError(f'window: got {window}, expected at least 1')
    self._packer = encode.EdgeEncoder(codec, max_bytes, jax.random.key(seed))
    self.codecs = self._packer.codecs
    self.window = window
    self.threshold, self.coarse, self.seed = threshold, coarse, seed
    if threshold is not None:
      for one in self.codecs:
        _check_layers(one, coarse)
    self._owns = isinstance(target, str)
    if isinstance(target, str):
      self.connection = channel.Connection(target, **settings)
    elif settings:
      raise ValueError(
        f'{", ".join(settings)}: given beside a connection, which has its own'
      )
    else:
      self.connection = target
    self._asker = rpc.RpcClient(self.connection, self.codecs)
    self._pool = futures.ThreadPoolExecutor(window, 'edge')

  def using(
    self, codec: encode.Codec | Sequence[encode.Codec], **settings: Any
  ) -> 'EdgeClient':
    """Another client on the same connection.

    Args:
      codec: As of `__init__`.
      **settings: window (by default this one's), max_bytes, threshold, coarse
        and seed of `__init__`.
    """
    settings = {'window': self.window, **settings}
    return EdgeClient(self.connection, codec, **settings)

  def handshake(
    self,
    codec: int = 0,
    padding: int = 0,
    prompt: str = '',
    max_tokens: int = 0,
    keep: bool = False,
  ) -> rpc.SessionInfo:
    """Agrees with the server on a codec, whether or not it has before.

    Args:
      codec: Which of `codecs`.
      padding: Bytes to send besides, that mean nothing; see `uplink`.
      prompt: As of `caption`; one that is too long is refused now.
      max_tokens: Likewise.
      keep: Refuse a server that comes back with other weights, from now on.

    Returns:
      What the server said.

    Raises:
      RemoteError: It does not agree, and says why; or nobody answers.
    """
    wanted = rpc.GenerationOptions(prompt, max_tokens)
    return self._asker.handshake(codec, padding, wanted, keep)

  def warm_up(self, batch_size: int = 1) -> None:
    """Compiles what the edge needs, so that no picture's time has it.

    Args:
      batch_size: Number of pictures that will come at a time.
    """
    size = self.codecs[0].model.config.vision.image_size
    black = np.zeros((batch_size, size, size, 3), np.uint8)
    self._packer.pack(black, range(batch_size))

  def caption(
    self,
    images: UInt8[Array | np.ndarray, 'B H W 3'],
    prompt: str = '',
    image_ids: Sequence[int] | None = None,
    max_tokens: int = 0,
  ) -> list[Answer]:
    """Captions a batch of pictures.

    Args:
      images: Pictures of the model's size, 0..255.
      prompt: Text for the model; empty for the server's.
      image_ids: Default 0..B-1.
      max_tokens: Longest caption; 0 for the server's.

    Returns:
      One answer per picture.

    Raises:
      ValueError: They are no such pictures, or a message is too long.
      RemoteError: The server refused one, or nobody answered in time.
    """
    ids = range(len(images)) if image_ids is None else image_ids
    result = []
    pairs = zip(np.asarray(images), ids, strict=True)
    for answer in self.captions(pairs, prompt, max_tokens):
      if isinstance(answer, Exception):
        raise answer
      result.append(answer)
    return result

  def captions(
    self,
    pictures: Iterable[tuple[UInt8[np.ndarray, 'H W 3'], int]],
    prompt: str = '',
    max_tokens: int = 0,
    batch_size: int = 8,
  ) -> Iterator[Answer | Failure]:
    """Captions pictures as they come, many in flight.

    Args:
      pictures: Pictures with their ids; no more are taken than are needed.
      prompt: As of `caption`.
      max_tokens: As of `caption`.
      batch_size: How many are encoded at a time.

    Yields:
      An answer per picture, in order, or the error that it met.

    Raises:
      ValueError: They are no such pictures.
    """
    wanted = rpc.GenerationOptions(prompt, max_tokens)
    waiting: collections.deque[futures.Future[Answer | Failure]]
    waiting = collections.deque()
    pictures = iter(pictures)
    size = min(batch_size, self.window)
    try:
      while chunk := list(itertools.islice(pictures, size)):
        images, ids = zip(*chunk, strict=True)
        for packed in self._packer.pack(np.stack(images), ids):
          while len(waiting) >= self.window:
            yield waiting.popleft().result()
          waiting.append(self._pool.submit(self._settle, packed, wanted))
        while waiting and waiting[0].done():
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for one in waiting:
        one.cancel()

  def stream(
    self,
    image: UInt8[Array | np.ndarray, 'H W 3'],
    prompt: str = '',
    image_id: int = 0,
    max_tokens: int = 0,
  ) -> Iterator[str | Answer]:
    """Captions a picture, word by word; all of its layers are sent at once.

    Args:
      image: A picture of the model's size, 0..255.
      prompt: As of `caption`.
      image_id: Of the picture.
      max_tokens: As of `caption`.

    Yields:
      Pieces of the caption as they are decoded, and last the answer.

    Raises:
      ValueError: It is no such picture, or its message is too long.
      RemoteError: As `caption`.
    """
    packed = self.pack(image, image_id)
    yield from self.stream_packed(packed, prompt, max_tokens)

  def pack(
    self, image: UInt8[Array | np.ndarray, 'H W 3'], image_id: int = 0
  ) -> encode.EncodedImage:
    """Encodes a picture; nothing is sent.

    Args:
      image: A picture of the model's size, 0..255.
      image_id: Of the picture.

    Returns:
      The message, for `stream_packed`.

    Raises:
      ValueError: It is no such picture, or its message is too long.
    """
    packed = self._packer.pack(np.asarray(image)[None], [image_id])[0]
    if isinstance(packed, Exception):
      raise packed
    return packed

  def stream_packed(
    self,
    packed: encode.EncodedImage,
    prompt: str = '',
    max_tokens: int = 0,
    watch: Callable[[Any], None] | None = None,
  ) -> Generator[str | Answer, None, None]:
    """Like `stream`, of what `pack` made.

    Args:
      packed: What is sent.
      prompt: As of `caption`.
      max_tokens: As of `caption`.
      watch: Called with each try's call, which any thread may `cancel`.
    """
    wanted = rpc.GenerationOptions(prompt, max_tokens)
    number, message = packed.codec, packed.message
    for said in self._asker.stream(number, message, wanted, watch):
      if isinstance(said, rpc.RpcResult):
        codec = self.codecs[packed.codec]
        yield result.made(codec, packed, packed.message, [said])
      else:
        yield said

  def close(self) -> None:
    """Drops what has not been sent; closes the channel if it is its own."""
    self._pool.shutdown(wait=False, cancel_futures=True)
    if self._owns:
      self.connection.close()

  def __enter__(self) -> 'EdgeClient':
    """The client itself."""
    return self

  def __exit__(self, *unused):
    """Closes it."""
    self.close()

  def __repr__(self) -> str:
    """Shows where it sends what."""
    names = ', '.join(codec.name for codec in self.codecs)
    return f'EdgeClient({self.connection.target}, {names})'

  def _settle(
    self,
    packed: encode.EncodedImage | encode.TooLargeError,
    wanted: rpc.GenerationOptions,
  ) -> Answer | Failure:
    """Asks, and gives back an error rather than raise it."""
    if isinstance(packed, Exception):
      return packed
    try:
      return self._ask(packed, wanted)
    except (encode.TooLargeError, channel.RemoteError) as error:
      return error

  def _ask(
    self, packed: encode.EncodedImage, wanted: rpc.GenerationOptions
  ) -> Answer:
    """Sends a message: at once, or its first layers and then perhaps more."""
    number, message = packed.codec, packed.message
    codec = self.codecs[number]
    if self.threshold is None:
      reply = self._asker.caption(number, message, wanted)
      return result.made(codec, packed, message, [reply])
    assert isinstance(codec, codecs.FeatureCodec)
    coarse = b''.join(codec.session.split(message)[: self.coarse])
    first = self._asker.caption(number, coarse, wanted)
    if first.reply.min_entropy <= self.threshold:
      return result.made(codec, packed, coarse, [first])
    rest = message[len(coarse) :]
    try:
      second = self._asker.caption(number, rest, wanted, first.request_id)
    except channel.RemoteError as error:
      if error.code != channel.REFUSED:
        raise
      # The server has forgotten the beginning; it was started anew.
      second = self._asker.caption(number, message, wanted)
    return result.made(codec, packed, message, [first, second])


def _check_layers(codec: encode.Codec, coarse: int) -> None:
  """Raises ValueError unless a codec's messages have more layers than that."""
  layers = 1
  if isinstance(codec, codecs.FeatureCodec):
    layers = codec.session.layers
  if layers < 2:
    raise ValueError(
      f'threshold: the messages of {codec.name} have one layer, expected a'
      " quantizer with several, such as 'merge(k=6,centroids=residual_vq)'"
    )
  if not 0 < coarse < layers:
    raise ValueError(
      f'coarse: got {coarse} layers to send first, expected 1 to {layers - 1}:'
      f' the messages of {codec.name} have {layers}'
    )
