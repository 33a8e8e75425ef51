"""One message to the server, and its answer, however often it takes."""

from collections.abc import Callable, Iterator, Sequence
import os
import threading
import time
from typing import Any, NamedTuple

import grpc

from collab_jax.serving import (
  collab_pb2,
  protocol,
)
from collab_jax.serving.client import (
  channel,
  encode,
)

# How the server says that it does not know a session: it was started anew, or
# has had too many others since.
_UNKNOWN = 'handshake first'
_HANDSHAKES = 3  # In a row that did not help.


class SessionInfo(NamedTuple):
  """What the server said of a session.

  Attributes:
    session: How requests name it.
    model: Name of the server's model.
    encoder: Fingerprint of the image encoder; '' if nobody has one.
    decoder: Fingerprint of the weights that write captions.
    max_message_bytes: The longest message that it takes.
    max_tokens: The longest caption that it makes.
    prompt: The prompt of requests that have none.
  """

  session: bytes
  model: str
  encoder: str
  decoder: str
  max_message_bytes: int
  max_tokens: int
  prompt: str


class RpcResult(NamedTuple):
  """What came of a request.

  Attributes:
    reply: What the server sent.
    tries: How many times it was sent.
    seconds: How long the last of them took.
    request_id: Its id.
  """

  reply: collab_pb2.CaptionReply
  tries: int
  seconds: float
  request_id: bytes


class GenerationOptions(NamedTuple):
  """What is asked for besides a caption.

  Attributes:
    prompt: Text for the model; empty for the server's.
    max_tokens: Longest caption; 0 for the server's.
  """

  prompt: str = ''
  max_tokens: int = 0


_ANYTHING = GenerationOptions()


class RpcClient:
  """Sends the messages of some codecs; shakes hands whenever it must.

  Attributes:
    connection: What they are sent over.
  """

  def __init__(self, link: channel.Connection, codecs: Sequence[encode.Codec]):
    """Binds a connection and the codecs; nothing is sent yet."""
    self.connection = link
    self._codecs = codecs
    self._agreed: list[SessionInfo | None] = [None] * len(codecs)
    self._encoders: dict[int, str] = {}
    self._weights: tuple[str, str] | None = None
    self._locks = [threading.Lock() for _ in codecs]

  def handshake(
    self,
    codec: int = 0,
    padding: int = 0,
    wanted: GenerationOptions = _ANYTHING,
    keep: bool = False,
  ) -> SessionInfo:
    """Agrees with the server on a codec, whether or not it has before.

    Args:
      codec: Which one.
      padding: Bytes to send besides, that mean nothing.
      wanted: What will be asked for: refused now, if it could not be answered.
      keep: Refuse a server that comes back with other weights, from now on.

    Returns:
      What the server said.

    Raises:
      RemoteError: It does not agree, and says why; or nobody answers.
    """
    attempts = self.connection.attempts()
    if keep:
      self._weights = None
    while True:
      try:
        agreed = self._shake(codec, attempts.left(), padding, wanted)
        if keep:
          self._weights = agreed.encoder, agreed.decoder
        return agreed
      except grpc.RpcError as error:
        attempts.failed(error)

  def agreed(self, codec: int = 0) -> SessionInfo:
    """What was agreed upon, with a handshake if nothing was."""
    return self._agreed[codec] or self.handshake(codec)

  def caption(
    self,
    codec: int,
    message: bytes,
    wanted: GenerationOptions,
    continues: bytes = b'',
  ) -> RpcResult:
    """Sends a message and waits for its caption.

    Args:
      codec: Which codec made it.
      message: Its bytes.
      wanted: What is asked for.
      continues: The id of a request, whose message this one goes on.

    Returns:
      The reply.

    Raises:
      RemoteError: The server refused it, or nobody answered in time.
      TooLargeError: The server takes no message of that length.
    """
    attempts = self.connection.attempts()
    request = _request(message, wanted, continues)
    forgotten, agreed = 0, None
    while True:
      try:
        agreed = self._sign(request, codec, attempts.left())
        start = time.monotonic()
        reply = self.connection.stub.Caption(
          request, timeout=attempts.left(), metadata=self.connection.metadata
        )
        seconds = time.monotonic() - start
        return RpcResult(reply, attempts.tries, seconds, request.request_id)
      except grpc.RpcError as error:
        unknown = self._forgets(error, agreed, codec)
        forgotten += unknown
        if not unknown or forgotten > _HANDSHAKES:
          attempts.failed(error)

  def stream(
    self,
    codec: int,
    message: bytes,
    wanted: GenerationOptions,
    watch: Callable[[Any], None] | None = None,
  ) -> Iterator[str | RpcResult]:
    """Like `caption`; yields the caption piece by piece, then the reply.

    Args:
      codec: As of `caption`.
      message: As of `caption`.
      wanted: As of `caption`.
      watch: Called with each try's call, which any thread may `cancel`.
    """
    attempts = self.connection.attempts()
    request = _request(message, wanted)
    told, forgotten, agreed, call = '', 0, None, None
    while True:
      try:
        agreed = self._sign(request, codec, attempts.left())
        start, said = time.monotonic(), ''
        call = self.connection.stub.CaptionStream(
          request, timeout=attempts.left(), metadata=self.connection.metadata
        )
        if watch is not None:
          watch(call)
        for chunk in call:
          if chunk.WhichOneof('kind') == 'reply':
            seconds = time.monotonic() - start
            yield RpcResult(
              chunk.reply, attempts.tries, seconds, request.request_id
            )
            return
          # After a break it comes again from the beginning.
          said += chunk.text
          if len(said) > len(told):
            piece, told = said[len(told) :], said
            yield piece
        attempts.ended()
      except grpc.RpcError as error:
        unknown = self._forgets(error, agreed, codec)
        forgotten += unknown
        if not unknown or forgotten > _HANDSHAKES:
          attempts.failed(error)
      finally:
        if call is not None:
          call.cancel()  # Nobody listens any more; else it has ended.

  def _sign(self, request, codec: int, left: float) -> SessionInfo:
    """Names the session, after a handshake if there is none."""
    agreed = self._agreed[codec]
    if agreed is None:
      with self._locks[codec]:
        agreed = self._agreed[codec] or self._shake(codec, left)
    if len(request.message) > agreed.max_message_bytes:
      raise encode.TooLargeError(
        f'got a message of {len(request.message):,} bytes, the server takes'
        f' {agreed.max_message_bytes:,}: choose a codec that sends less, or'
        " raise the server's limit"
      )
    request.session = agreed.session
    return agreed

  def _shake(
    self,
    codec: int,
    left: float,
    padding: int = 0,
    wanted: GenerationOptions = _ANYTHING,
  ) -> SessionInfo:
    own = self._codecs[codec]
    # Blanks around it are no part of JSON.
    text = protocol.to_json(own) + ' ' * padding
    if codec not in self._encoders:
      self._encoders[codec] = protocol.encoder_of(own)
    encoder = self._encoders[codec]
    reply = self.connection.stub.Handshake(
      collab_pb2.HandshakeRequest(
        session=text,
        prompt=wanted.prompt,
        max_tokens=wanted.max_tokens,
        encoder=encoder,
      ),
      timeout=left,
      metadata=self.connection.metadata,
    )
    made = SessionInfo(
      reply.session,
      reply.model,
      encoder or reply.encoder,
      reply.decoder,
      reply.max_message_bytes,
      reply.max_tokens,
      reply.prompt,
    )
    if self._weights not in (None, (made.encoder, made.decoder)):
      raise channel.RemoteError(
        channel.REFUSED,
        f'{self.connection.target}: the server has other weights than before:'
        f' got encoder and decoder {made.encoder!r}, {made.decoder!r}, expected'
        f' {self._weights}',
      )
    self._agreed[codec] = made
    return made

  def _forgets(
    self, error: grpc.RpcError, agreed: SessionInfo | None, codec: int
  ) -> bool:
    """Whether the server does not know what was agreed (any more)."""
    code, text = channel.status(error)
    unknown = code == grpc.StatusCode.FAILED_PRECONDITION and _UNKNOWN in text
    if unknown:
      with self._locks[codec]:
        # Of many requests in flight, the first one to hear of it.
        if self._agreed[codec] is agreed:
          self._agreed[codec] = None
    return unknown


def _request(message, wanted, continues=b'') -> collab_pb2.CaptionRequest:
  return collab_pb2.CaptionRequest(
    message=message,
    prompt=wanted.prompt,
    request_id=os.urandom(16),
    continues=continues,
    max_tokens=wanted.max_tokens,
  )
