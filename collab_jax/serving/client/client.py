"""The edge's client: sends pictures to a server, gets captions back."""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent import futures
import hashlib
import itertools
import math
from typing import Any, TypeVar

from jaxtyping import Array, UInt8
import numpy as np

from collab_jax import _validate, codecs, random_keys
from collab_jax.serving.client import (
  channel,
  encode,
  result,
  retry,
  rpc,
)

Failure = encode.TooLargeError | retry.RemoteError
_Outcome = TypeVar('_Outcome')


class EdgeClient:
  """Encodes pictures, sends them and waits for captions.

      codec = FeatureCodec(load('tiny', part='edge'), 'kmeans(k=8)')
      with EdgeClient('localhost:50051', codec) as client:
        captions = [result.caption for result in client.caption(images)]

  Needs only the image encoder of the model, for an image codec nothing. Does a
  handshake when needed: before the first request, and after the server was
  started anew. A request that the server could not take is sent again, with
  the same id, so that no picture is captioned twice. Any number of threads may
  use it.

  Attributes:
    connection: The channel, its credentials and its time limit.
    codecs: The codecs, best first.
    window: Number of requests that may be in flight.
    threshold: Bits of min-entropy above which the finer layers are sent; None
      to send all layers at once.
    coarse: Number of layers that are sent first.
    seed: Seed of the quantizers' random keys.
  """

  def __init__(
    self,
    target: str | channel.Connection,
    codec: codecs.Codec | Sequence[codecs.Codec],
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
      codec: A codec, or several, best first: a picture is sent by the first
        one whose message has at most `max_bytes`.
      window: Number of requests that may be in flight, at least 1.
      max_bytes: Longest message; None for any.
      threshold: Send the first layers of a message, and the others only if the
        caption has a higher min-entropy, in bits. The codec needs layers.
      coarse: Number of layers to send first then.
      seed: Seed of the quantizers' random keys; each picture has a key of its
        own, by its id.
      **settings: Arguments of `channel.Connection`, where target is a string:
        token, ca, cert, key, server_name, insecure, timeout, backoff.

    Raises:
      ValueError: A setting is out of range, does not go with another, or
        would send to another machine without TLS.
      FileNotFoundError: A certificate is missing.
    """
    if window < 1:
      raise ValueError(f'window: got {window}, expected at least 1')
    self._encoder = encode.EdgeEncoder(codec, max_bytes, random_keys.make(seed))
    self.codecs = self._encoder.codecs
    self.window = window
    self.threshold, self.coarse, self.seed = threshold, coarse, seed
    if threshold is not None:
      if math.isnan(threshold):
        raise _validate.error('threshold', threshold, 'a number of bits')
      for bound in self.codecs:
        _check_layers(bound, coarse)
    self._owns_connection = isinstance(target, str)
    if isinstance(target, str):
      self.connection = channel.Connection(target, **settings)
    elif settings:
      raise ValueError(
        f'{", ".join(settings)}: given beside a connection, which has its own'
      )
    else:
      self.connection = target
    self._rpc = rpc.RpcClient(self.connection, self.codecs)
    self._pool = futures.ThreadPoolExecutor(window, 'edge')

  def using(
    self, codec: codecs.Codec | Sequence[codecs.Codec], **settings: Any
  ) -> 'EdgeClient':
    """Returns another client on the same connection.

    Args:
      codec: As in `EdgeClient`.
      **settings: window (default: this client's), max_bytes, threshold, coarse
        and seed of `EdgeClient`.
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
      codec: Index in `codecs`.
      padding: Bytes of padding to send besides; see `rate_control`.
      prompt: As in `caption`; one that is too long is refused now.
      max_tokens: Likewise.
      keep: Refuse a server that comes back with other weights, from now on.

    Returns:
      The session.

    Raises:
      RemoteError: The server refused, or nobody answered.
    """
    options = rpc.GenerationOptions(prompt, max_tokens)
    return self._rpc.handshake(codec, padding, options, keep)

  def warm_up(self, batch_size: int = 1) -> None:
    """Compiles the edge's programs ahead of the first picture.

    Args:
      batch_size: Number of pictures that will come at a time.
    """
    size = self.codecs[0].model.config.vision.image_size
    black = np.zeros((batch_size, size, size, 3), np.uint8)
    self._encoder.encode(black, range(batch_size), warn=False)

  def caption(
    self,
    images: UInt8[Array | np.ndarray, 'B H W 3'],
    prompt: str = '',
    image_ids: Sequence[int] | None = None,
    max_tokens: int = 0,
    warn: bool = True,
  ) -> list[result.CaptionResult]:
    """Captions a batch of pictures.

    Args:
      images: Pictures of the model's size, 0..255.
      prompt: Text for the model; empty for the server's.
      image_ids: Default 0..B-1.
      max_tokens: Longest caption; 0 for the server's.
      warn: Warn, once in a process, of pictures unlike those that the model
        was trained on.

    Returns:
      One result per picture.

    Raises:
      ValueError: The images have another shape, or a message is too long.
      RemoteError: The server refused one, or nobody answered in time.
    """
    ids = range(len(images)) if image_ids is None else image_ids
    results = []
    pairs = zip(np.asarray(images), ids, strict=True)
    for outcome in self.captions(pairs, prompt, max_tokens, warn=warn):
      if isinstance(outcome, Exception):
        raise outcome
      results.append(outcome)
    return results

  def ask(
    self,
    image: UInt8[Array | np.ndarray, 'H W 3'],
    questions: Sequence[str],
    image_id: int = 0,
    max_tokens: int = 0,
  ) -> list[result.CaptionResult]:
    """Asks several questions about one picture, which is sent once.

        client.ask(image, ['answer en how many rings', 'detect red ring'])

    The picture is encoded once. Its message goes with the first question; the
    server keeps it, and the others name it by its SHA-256. A server that does
    not know it (any more) gets the message again.

    Args:
      image: A picture of the model's size, 0..255.
      questions: Prompts, at least one.
      image_id: Id of the picture.
      max_tokens: As in `caption`.

    Returns:
      A result per question; the bytes and the edge's milliseconds of all but
      the first are 0, unless the message was sent again.

    Raises:
      ValueError: There is no question, the image has another shape, or its
        message is too long.
      RemoteError: As in `caption`.
    """
    first, *others = _options(questions, max_tokens)
    encoded = self.pack(image, image_id)
    digest = hashlib.sha256(encoded.message).digest()
    answered = [self._ask(encoded, encoded.message, digest, first)]
    rest = [
      self._pool.submit(self._ask_more, encoded, digest, q) for q in others
    ]
    try:
      return answered + [future.result() for future in rest]
    finally:
      for future in rest:
        future.cancel()

  def _ask(
    self,
    encoded: encode.EncodedImage,
    sent: bytes,
    digest: bytes,
    options: rpc.GenerationOptions,
  ) -> result.CaptionResult:
    """Asks about a picture, whose message may be left out."""
    reply = self._rpc.caption(encoded.codec, sent, options, picture=digest)
    codec = self.codecs[encoded.codec]
    if not sent:
      encoded = encoded._replace(milliseconds={})
    return result.make_result(codec, encoded, sent, [reply])

  def _ask_more(
    self,
    encoded: encode.EncodedImage,
    digest: bytes,
    options: rpc.GenerationOptions,
  ) -> result.CaptionResult:
    """Asks about a picture that was sent; sends it again if need be."""
    try:
      return self._ask(encoded, b'', digest, options)
    except retry.RemoteError as error:
      if error.code != retry.REFUSED:
        raise
      # Dropped, or the server was started anew, or never kept any.
      return self._ask(encoded, encoded.message, digest, options)

  def captions(
    self,
    pictures: Iterable[tuple[UInt8[np.ndarray, 'H W 3'], int]],
    prompt: str = '',
    max_tokens: int = 0,
    batch_size: int = 8,
    warn: bool = True,
  ) -> Iterator[result.CaptionResult | Failure]:
    """Captions a stream of pictures, with many requests in flight.

    Args:
      pictures: Pictures with their ids; no more are taken than are needed.
      prompt: As in `caption`.
      max_tokens: As in `caption`.
      batch_size: Number of pictures that are encoded at a time.
      warn: As in `caption`.

    Yields:
      A result or an error per picture, in order.

    Raises:
      ValueError: The images have another shape.
    """
    options = rpc.GenerationOptions(prompt, max_tokens)
    return self._request_each(
      pictures,
      lambda each: self._caption_or_error(each, options),
      batch_size,
      warn,
    )

  def answers(
    self,
    pictures: Iterable[tuple[UInt8[np.ndarray, 'H W 3'], int]],
    questions: Sequence[str],
    max_tokens: int = 0,
    batch_size: int = 8,
  ) -> Iterator[list[result.CaptionResult] | Failure]:
    """Asks several questions about each picture of a stream, as `ask` does.

    Args:
      pictures: As in `captions`.
      questions: Prompts, at least one.
      max_tokens: As in `caption`.
      batch_size: As in `captions`.

    Yields:
      A result per question, or an error, for each picture in order. The
      questions about a picture are asked one after the other, with those about
      others in flight.

    Raises:
      ValueError: There is no question, or the images have another shape.
    """
    options = _options(questions, max_tokens)
    return self._request_each(
      pictures, lambda each: self._answers_or_error(each, options), batch_size
    )

  def _request_each(
    self,
    pictures: Iterable[tuple[UInt8[np.ndarray, 'H W 3'], int]],
    request: Callable[[encode.EncodedImage | encode.TooLargeError], _Outcome],
    batch_size: int,
    warn: bool = True,
  ) -> Iterator[_Outcome]:
    """Yields what a function of an encoded picture returns, in order."""
    pending: collections.deque[futures.Future[_Outcome]] = collections.deque()
    pictures = iter(pictures)
    size = min(batch_size, self.window)
    try:
      while chunk := list(itertools.islice(pictures, size)):
        images, ids = zip(*chunk, strict=True)
        for encoded in self._encoder.encode(np.stack(images), ids, warn):
          while len(pending) >= self.window:
            yield pending.popleft().result()
          pending.append(self._pool.submit(request, encoded))
        while pending and pending[0].done():
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()

  def stream(
    self,
    image: UInt8[Array | np.ndarray, 'H W 3'],
    prompt: str = '',
    image_id: int = 0,
    max_tokens: int = 0,
  ) -> Iterator[str | result.CaptionResult]:
    """Captions a picture, word by word; all of its layers are sent at once.

    Args:
      image: A picture of the model's size, 0..255.
      prompt: As in `caption`.
      image_id: Id of the picture.
      max_tokens: As in `caption`.

    Yields:
      Pieces of the caption as they are decoded, and last the result.

    Raises:
      ValueError: The image has another shape, or its message is too long.
      RemoteError: As in `caption`.
    """
    encoded = self.pack(image, image_id)
    yield from self.stream_packed(encoded, prompt, max_tokens)

  def pack(
    self, image: UInt8[Array | np.ndarray, 'H W 3'], image_id: int = 0
  ) -> encode.EncodedImage:
    """Encodes a picture; nothing is sent.

    Args:
      image: A picture of the model's size, 0..255.
      image_id: Id of the picture.

    Returns:
      The message, for `stream_packed`.

    Raises:
      ValueError: The image has another shape, or its message is too long.
    """
    encoded = self._encoder.encode(np.asarray(image)[None], [image_id])[0]
    if isinstance(encoded, Exception):
      raise encoded
    return encoded

  def stream_packed(
    self,
    encoded: encode.EncodedImage,
    prompt: str = '',
    max_tokens: int = 0,
    watch: Callable[[Any], None] | None = None,
    is_kept: bool | None = None,
  ) -> Generator[str | result.CaptionResult, None, None]:
    """Streams the caption of a message from `pack`; see `stream`.

    Args:
      encoded: The message.
      prompt: As in `caption`.
      max_tokens: As in `caption`.
      watch: Called with each try's call, which any thread may `cancel`.
      is_kept: Whether the server keeps the picture already, since a question
        with False: only its name is sent then, and the message if the server
        has dropped it. None lets the server keep nothing.
    """
    options = rpc.GenerationOptions(prompt, max_tokens)
    digest = b''
    if is_kept is not None:
      digest = hashlib.sha256(encoded.message).digest()
    if is_kept:
      try:
        yield from self._stream(encoded, b'', digest, options, watch)
        return
      except retry.RemoteError as error:
        if error.code != retry.REFUSED:
          raise
    yield from self._stream(encoded, encoded.message, digest, options, watch)

  def _stream(
    self,
    encoded: encode.EncodedImage,
    sent: bytes,
    digest: bytes,
    options: rpc.GenerationOptions,
    watch: Callable[[Any], None] | None,
  ) -> Generator[str | result.CaptionResult, None, None]:
    """Streams an answer about a picture, whose message may be left out."""
    codec = self.codecs[encoded.codec]
    if not sent:
      encoded = encoded._replace(milliseconds={})
    items = self._rpc.stream(encoded.codec, sent, options, watch, digest)
    for item in items:
      if isinstance(item, rpc.RpcResult):
        yield result.make_result(codec, encoded, sent, [item])
      else:
        yield item

  def close(self) -> None:
    """Drops pending requests; closes the channel if the client opened it."""
    self._pool.shutdown(wait=False, cancel_futures=True)
    if self._owns_connection:
      self.connection.close()

  def __enter__(self) -> 'EdgeClient':
    """Returns the client."""
    return self

  def __exit__(self, *unused):
    """Closes the client."""
    self.close()

  def __repr__(self) -> str:
    """Shows target and codecs."""
    names = ', '.join(codec.name for codec in self.codecs)
    return f'EdgeClient({self.connection.target}, {names})'

  def _caption_or_error(
    self,
    encoded: encode.EncodedImage | encode.TooLargeError,
    options: rpc.GenerationOptions,
  ) -> result.CaptionResult | Failure:
    """Requests a caption, and returns an error rather than raise it."""
    if isinstance(encoded, Exception):
      return encoded
    try:
      return self._request(encoded, options)
    except (encode.TooLargeError, retry.RemoteError) as error:
      return error

  def _answers_or_error(
    self,
    encoded: encode.EncodedImage | encode.TooLargeError,
    options: Sequence[rpc.GenerationOptions],
  ) -> list[result.CaptionResult] | Failure:
    """Asks about a picture in turn, and returns an error rather than raise."""
    if isinstance(encoded, Exception):
      return encoded
    digest = hashlib.sha256(encoded.message).digest()
    try:
      first = self._ask(encoded, encoded.message, digest, options[0])
      others = options[1:]
      return [first, *(self._ask_more(encoded, digest, o) for o in others)]
    except retry.RemoteError as error:
      return error

  def _request(
    self, encoded: encode.EncodedImage, options: rpc.GenerationOptions
  ) -> result.CaptionResult:
    """Sends a message: all of it, or first layers and the others if unsure."""
    number, message = encoded.codec, encoded.message
    codec = self.codecs[number]
    if self.threshold is None:
      reply = self._rpc.caption(number, message, options)
      return result.make_result(codec, encoded, message, [reply])
    coarse = b''.join(codec.split_layers(message)[: self.coarse])
    first = self._rpc.caption(number, coarse, options)
    if first.reply.min_entropy <= self.threshold:
      return result.make_result(codec, encoded, coarse, [first])
    finer = message[len(coarse) :]
    try:
      second = self._rpc.caption(number, finer, options, first.request_id)
    except retry.RemoteError as error:
      if error.code != retry.REFUSED:
        raise
      # The server has dropped the first layers; it was started anew.
      second = self._rpc.caption(number, message, options)
    return result.make_result(codec, encoded, message, [first, second])


def _options(
  questions: Sequence[str], max_tokens: int
) -> list[rpc.GenerationOptions]:
  """Returns the options of each question; refuses none, and a single text."""
  do = "write ['caption en']"
  if isinstance(questions, str) or not questions:
    raise _validate.error('questions', questions, 'one or more prompts', do)
  for i, text in enumerate(questions):
    if not isinstance(text, str):
      raise _validate.error(f'questions[{i}]', text, 'a text', do)
  return [rpc.GenerationOptions(text, max_tokens) for text in questions]


def _check_layers(codec: codecs.Codec, coarse: int) -> None:
  """Raises ValueError unless messages have more layers than are sent first."""
  layers = codec.layers
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
