"""RPCs of an edge: handshakes and captions, with retries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import itertools
import math
import os
import threading
import time
import types
from typing import Any, NamedTuple

import grpc

from collab_jax import codecs as codecs_lib
from collab_jax.models import zoo
from collab_jax.serving import collab_pb2, protocol
from collab_jax.serving.client import (
  channel,
  encode,
  retry,
)

# Text of the status of an unknown session: the server was started anew, or has
# had too many others since.
_EXPIRED = 'handshake first'
_MAX_HANDSHAKES = 3  # In a row that did not help.
# Bounds of what is kept of a server's replies: bytes, and letters by field.
_LONGEST_NAME = 64
_LONGEST_TEXTS = {
  'model': 4096,
  'encoder': 64,
  'decoder': 64,
  'prompt': 1 << 16,
}
# Of what a server's captions depend on, by name.
_MOST_SETTINGS, _LONGEST_SETTING = 32, 64
_LONGEST_CAPTION = 1 << 20
_ROUNDING = 1e-3  # Times and entropies of 0 may come out this much below.


class SessionInfo(NamedTuple):
  """Server facts and session name, from a handshake.

  Attributes:
    session: Name of the session in requests.
    model: Name of the server's model.
    encoder: Fingerprint of the image encoder; '' if neither end has one.
    decoder: Fingerprint of the weights that write captions.
    max_message_bytes: Longest message that the server takes.
    max_tokens: Longest caption that it makes.
    prompt: Prompt of requests that have none.
    computation: Other things of the server on which captions depend, by name;
      empty for older servers.
  """

  session: bytes
  model: str
  encoder: str
  decoder: str
  max_message_bytes: int
  max_tokens: int
  prompt: str
  computation: Mapping[str, str] = types.MappingProxyType({})


class RpcResult(NamedTuple):
  """Reply to a request.

  Attributes:
    reply: The server's reply.
    tries: Number of times that the request was sent.
    seconds: Time of the last try.
    request_id: Id of the request.
  """

  reply: collab_pb2.CaptionReply
  tries: int
  seconds: float
  request_id: bytes


class GenerationOptions(NamedTuple):
  """Options of a caption.

  Attributes:
    prompt: Text for the model; empty for the server's.
    max_tokens: Longest caption; 0 for the server's.
  """

  prompt: str = ''
  max_tokens: int = 0


_DEFAULT_OPTIONS = GenerationOptions()


class RpcClient:
  """Sends the messages of some codecs; does handshakes whenever needed.

  Attributes:
    connection: The connection.
  """

  def __init__(
    self, connection: channel.Connection, codecs: Sequence[codecs_lib.Codec]
  ):
    """Binds a connection and the codecs; nothing is sent yet."""
    self.connection = connection
    self._codecs = codecs
    self._sessions: list[SessionInfo | None] = [None] * len(codecs)
    self._encoders: dict[int, str] = {}
    self._weights: tuple[Any, ...] | None = None
    self._locks = [threading.Lock() for _ in codecs]

  def handshake(
    self,
    codec: int = 0,
    padding: int = 0,
    options: GenerationOptions = _DEFAULT_OPTIONS,
    keep: bool = False,
  ) -> SessionInfo:
    """Agrees with the server on a codec, whether or not it has before.

    Args:
      codec: Index of the codec.
      padding: Bytes of padding to send besides.
      options: Options of later requests: refused now, if they cannot be met.
      keep: Refuse a server that comes back with other weights, from now on.

    Returns:
      The session.

    Raises:
      RemoteError: The server refused, or nobody answered.
    """
    retries = self.connection.start_retries()
    if keep:
      self._weights = None
    while True:
      try:
        session = self._handshake_once(
          codec, retries.remaining(), padding, options
        )
        if keep:
          self._weights = _weights(session)
        return session
      except grpc.RpcError as error:
        retries.wait_after(error)

  def caption(
    self,
    codec: int,
    message: bytes,
    options: GenerationOptions,
    continues: bytes = b'',
    picture: bytes = b'',
  ) -> RpcResult:
    """Sends a message and waits for its caption.

    Args:
      codec: Index of the codec.
      message: Bytes of the message.
      options: Options of the caption.
      continues: Id of the request whose message this one continues.
      picture: SHA-256 of the whole message, which the server then keeps; with
        an empty message, of one that it has kept.

    Returns:
      The reply.

    Raises:
      RemoteError: The server refused it, or nobody answered in time.
      TooLargeError: The message is longer than the server takes.
    """
    retries = self.connection.start_retries()
    request = _request(message, options, continues, picture)
    expired, session = 0, None
    while True:
      try:
        session = self._attach_session(
          request, codec, retries.remaining(), expired
        )
        start = time.monotonic()
        reply = self.connection.stub.Caption(
          request,
          timeout=retries.remaining(),
          metadata=self._metadata(request),
        )
        seconds = time.monotonic() - start
        self._check(_reply_faults(reply))
        return RpcResult(reply, retries.tries, seconds, request.request_id)
      except grpc.RpcError as error:
        is_expired = self._session_expired(error, session, codec)
        expired += is_expired
        if not is_expired or expired > _MAX_HANDSHAKES:
          retries.wait_after(error)

  def stream(
    self,
    codec: int,
    message: bytes,
    options: GenerationOptions,
    watch: Callable[[Any], None] | None = None,
    picture: bytes = b'',
  ) -> Iterator[str | RpcResult]:
    """Sends a message; yields the caption piece by piece, then the reply.

    Args:
      codec: Index of the codec.
      message: Bytes of the message.
      options: Options of the caption.
      watch: Called with each try's call, which any thread may `cancel`.
      picture: As in `caption`.
    """
    retries = self.connection.start_retries()
    request = _request(message, options, picture=picture)
    yielded, expired, session, call = '', 0, None, None
    while True:
      try:
        session = self._attach_session(
          request, codec, retries.remaining(), expired
        )
        start, received = time.monotonic(), ''
        call = self.connection.stub.CaptionStream(
          request,
          timeout=retries.remaining(),
          metadata=self._metadata(request),
        )
        if watch is not None:
          watch(call)
        for chunk in call:
          if chunk.WhichOneof('kind') == 'reply':
            seconds = time.monotonic() - start
            self._check(_reply_faults(chunk.reply))
            yield RpcResult(
              chunk.reply, retries.tries, seconds, request.request_id
            )
            return
          # After a break the text comes again from the beginning.
          received += chunk.text
          if len(received) > _LONGEST_CAPTION:
            self._check(
              [f'a caption of more than {_LONGEST_CAPTION:,} letters']
            )
          if len(received) > len(yielded):
            piece, yielded = received[len(yielded) :], received
            yield piece
        retries.wait_after_early_end()
      except grpc.RpcError as error:
        is_expired = self._session_expired(error, session, codec)
        expired += is_expired
        if not is_expired or expired > _MAX_HANDSHAKES:
          retries.wait_after(error)
      finally:
        if call is not None:
          call.cancel()  # Ends it if the caller has stopped listening.

  def _attach_session(
    self, request, codec: int, timeout: float, expired: int
  ) -> SessionInfo:
    """Names the session in a request, after a handshake if there is none.

    Of several servers behind one address, another one may have answered the
    last handshake: a request that was refused since makes its own, with its own
    metadata, which leads to the server that answers the request.
    """
    session = None if expired > 1 else self._sessions[codec]
    if session is None:
      with self._locks[codec]:
        session = None if expired > 1 else self._sessions[codec]
        session = session or self._handshake_once(
          codec, timeout, metadata=self._metadata(request)
        )
    if len(request.message) > session.max_message_bytes:
      raise encode.TooLargeError(
        f'got a message of {len(request.message):,} bytes, the server takes'
        f' {session.max_message_bytes:,}: choose a codec that sends less, or'
        " raise the server's limit"
      )
    request.session = session.session
    return session

  def _handshake_once(
    self,
    codec: int,
    timeout: float,
    padding: int = 0,
    options: GenerationOptions = _DEFAULT_OPTIONS,
    metadata: Sequence[tuple[str, str]] | None = None,
  ) -> SessionInfo:
    # JSON may end with blanks.
    text = self._codecs[codec].to_json() + ' ' * padding
    if codec not in self._encoders:
      self._encoders[codec] = self._codecs[codec].encoder_fingerprint
    encoder = self._encoders[codec]
    reply = self.connection.stub.Handshake(
      collab_pb2.HandshakeRequest(
        session=text,
        prompt=options.prompt,
        max_tokens=options.max_tokens,
        encoder=encoder,
      ),
      timeout=timeout,
      metadata=self.connection.metadata if metadata is None else metadata,
    )
    self._check(_handshake_faults(reply))
    session = SessionInfo(
      reply.session,
      reply.model,
      encoder or reply.encoder,
      reply.decoder,
      reply.max_message_bytes,
      reply.max_tokens,
      reply.prompt,
      dict(reply.computation),
    )
    if self._weights not in (None, _weights(session)):
      raise retry.RemoteError(
        retry.REFUSED,
        f'{self.connection.target}: the server has other weights than before:'
        f' got encoder, decoder and others {_weights(session)}, expected'
        f' {self._weights}',
      )
    self._check_names(codec, session.model)
    self._sessions[codec] = session
    return session

  def _metadata(self, request) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a request's calls, and of its handshakes."""
    key = protocol.AFFINITY, protocol.affinity(request)
    return (*self.connection.metadata, key)

  def _check_names(self, codec: int, model: str) -> None:
    """Raises RemoteError if both ends name different released models.

    Features have fingerprints, which decide; an edge that sends pictures knows
    no weights, only the name of a released model.
    """
    expected = self._codecs[codec].model.config.name
    if self._encoders[codec] or expected == model:
      return
    if expected in zoo.NAMES and model in zoo.NAMES:
      raise retry.RemoteError(
        retry.REFUSED,
        f'{self.connection.target}: model: got {model!r}, expected'
        f' {expected!r}; name the model that the server has',
      )

  def _check(self, faults: list[str]) -> None:
    """Raises RemoteError if a reply has faults."""
    if faults:
      raise retry.RemoteError(
        grpc.StatusCode.INTERNAL.name,
        f'{self.connection.target}: the reply: got {"; ".join(faults)},'
        " expected what this protocol's servers send",
      )

  def _session_expired(
    self, error: grpc.RpcError, session: SessionInfo | None, codec: int
  ) -> bool:
    """Drops a session that the server does not know (any more)."""
    code, text = retry.status(error)
    expired = code == grpc.StatusCode.FAILED_PRECONDITION and _EXPIRED in text
    if expired:
      with self._locks[codec]:
        # Another request in flight may have made a new session already.
        if self._sessions[codec] is session:
          self._sessions[codec] = None
    return expired


def _handshake_faults(reply: collab_pb2.HandshakeReply) -> list[str]:
  """Lists fields of a handshake's reply that no server of ours sends."""
  faults = []
  if not 0 < len(reply.session) <= _LONGEST_NAME:
    faults.append(f'a session name of {len(reply.session):,} bytes')
  for name, most in _LONGEST_TEXTS.items():
    length = len(getattr(reply, name))
    if length > most:
      faults.append(f'{length:,} letters of {name}')
  if len(reply.computation) > _MOST_SETTINGS:
    faults.append(f'{len(reply.computation):,} settings')
  longest = max(
    map(len, itertools.chain(*reply.computation.items())), default=0
  )
  if longest > _LONGEST_SETTING:
    faults.append(f'a setting of {longest:,} letters')
  return faults


def _weights(session: SessionInfo) -> tuple[Any, ...]:
  """Returns what captions of a run must have in common."""
  return session.encoder, session.decoder, dict(session.computation)


def _reply_faults(reply: collab_pb2.CaptionReply) -> list[str]:
  """Lists numbers of a reply that are not finite, or below 0."""
  numbers = {
    'min_entropy': reply.min_entropy,
    **{f.name: value for f, value in reply.stages.ListFields()},
  }
  return [
    f'{name} {value:g}'
    for name, value in numbers.items()
    if not (math.isfinite(value) and value > -_ROUNDING)
  ]


def _request(
  message, options, continues=b'', picture=b''
) -> collab_pb2.CaptionRequest:
  return collab_pb2.CaptionRequest(
    message=message,
    prompt=options.prompt,
    request_id=os.urandom(16),
    continues=continues,
    picture=picture,
    max_tokens=options.max_tokens,
  )
