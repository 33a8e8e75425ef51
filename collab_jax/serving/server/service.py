"""The gRPC service: requests to request states, and those to replies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
import contextlib
import dataclasses
import logging
import time

import grpc

from collab_jax import __version__, wire
from collab_jax.models import tokenizer as tokenizers
from collab_jax.serving import (
  collab_pb2,
  collab_pb2_grpc,
  protocol,
)
from collab_jax.serving.server import (
  admission,
  codecs,
  metrics,
  request_cache,
  request_log,
  request_queue,
  scheduler,
)
from collab_jax.serving.server.request import RequestState

_LOG = logging.getLogger(__name__)
_CODES = grpc.StatusCode
# Last letter of a text that ends within the bytes of a letter.
_INCOMPLETE = '\N{REPLACEMENT CHARACTER}'
# No prompt of the most tokens is longer.
_LONGEST_PROMPT = 4096


class RefusalError(Exception):
  """A request is refused with this status."""

  def __init__(self, code: grpc.StatusCode, text: str):
    """Binds a status."""
    super().__init__(text)
    self.code = code


# Status of each error that may be raised while a request is answered.
_STATUS = {
  wire.FormatError: _CODES.INVALID_ARGUMENT,
  codecs.RefusedError: _CODES.FAILED_PRECONDITION,
  codecs.BusyError: _CODES.RESOURCE_EXHAUSTED,
  request_cache.UnknownPictureError: _CODES.FAILED_PRECONDITION,
  request_cache.UnknownRequestError: _CODES.FAILED_PRECONDITION,
  request_queue.QueueFullError: _CODES.RESOURCE_EXHAUSTED,
  request_queue.ServerStoppedError: _CODES.UNAVAILABLE,
  scheduler.FailedError: _CODES.INTERNAL,
}


@dataclasses.dataclass
class _Call:
  """Facts of a call for the log, as they become known."""

  method: str
  start: float
  codec: str = ''
  state: RequestState | None = None
  repeated: bool = False


class Service(collab_pb2_grpc.CaptionerServicer):
  """Answers every request once, with a reply or a status.

  Attributes:
    open: Number of requests that are being answered.
    closed: Reason for which no requests are taken; '' if they are.
  """

  def __init__(
    self,
    info: protocol.ServerInfo,
    tokenizer: tokenizers.Tokenizer,
    queue: request_queue.RequestQueue,
    registry: codecs.CodecRegistry,
    idempotency: request_cache.IdempotencyCache,
    counters: metrics.Metrics,
    log: request_log.RequestLog | None = None,
    log_captions: bool = False,
    picture_bytes: int = 0,
  ):
    """Binds the parts of a server; at first no requests are taken.

    Args:
      info: Server facts sent in handshakes.
      tokenizer: The model's tokenizer.
      queue: The scheduler's queue.
      registry: Codecs that edges have agreed on.
      idempotency: Requests that may come again.
      counters: Metrics of the server.
      log: Log of requests, if there is one.
      log_captions: Whether it has prompts and captions.
      picture_bytes: Bytes of pictures to keep for more questions.
    """
    self._log, self._log_captions = log, log_captions
    self.open = 0
    self.closed = 'the server is warming up'
    self._info = info
    self._tokenizer = tokenizer
    self._has_warned = False  # Of a prompt that the vocabulary cannot answer.
    self._queue = queue
    self._registry = registry
    self._idempotency = idempotency
    self._partial_messages = request_cache.PartialMessageCache()
    self._pictures = request_cache.PictureCache(picture_bytes)
    counters.watch_pictures(
      lambda: len(self._pictures), lambda: self._pictures.total_bytes
    )
    self._metrics = counters
    # Two: one message is being unpacked while another is fetched.
    self._threads = futures.ThreadPoolExecutor(2, 'collab_jax-unpack')

  async def wait_until_idle(self) -> None:
    """Waits until nothing is being answered."""
    while self.open:
      await asyncio.sleep(0.005)

  def close(self) -> None:
    """Ends the threads."""
    self._threads.shutdown(wait=False, cancel_futures=True)

  async def Metadata(self, request, context) -> collab_pb2.MetadataReply:
    """Says what the server has and admits; before the warm-up is done, too."""
    async with self._answering('Metadata', request, context, False):
      return collab_pb2.MetadataReply(
        version=__version__,
        model=self._info.model,
        quantizers=self._info.quantizers,
        images=self._info.images,
        prompt=self._info.prompt,
        max_tokens=self._info.max_tokens,
        max_message_bytes=self._info.max_message_bytes,
      )
    raise AssertionError  # The context manager has raised.

  async def Handshake(self, request, context) -> collab_pb2.HandshakeReply:
    """Agrees on a codec."""
    async with self._answering('Handshake', request, context) as call:
      self._max_tokens(request.max_tokens)
      self._tokenize(request.prompt)
      self._check_encoder(request.encoder)
      decoder = await self._registry.get_or_create(
        request.session, admission.CALLER.get()
      )
      call.codec = decoder.codec.name
      return collab_pb2.HandshakeReply(
        session=decoder.id + self._info.tag,
        model=self._info.model,
        encoder=self._info.encoder,
        decoder=self._info.decoder,
        max_message_bytes=self._info.max_message_bytes,
        max_tokens=self._info.max_tokens,
        prompt=self._info.prompt,
        computation=self._info.computation,
      )
    raise AssertionError

  async def Caption(self, request, context) -> collab_pb2.CaptionReply:
    """Captions a picture."""
    async with self._answering('Caption', request, context) as call:
      with self._join(request, call) as (state, repeated):
        # Other calls may wait for the same state: shield it from this one.
        await asyncio.shield(state.done)
        return self._reply(state, repeated)
    raise AssertionError

  async def CaptionStream(self, request, context) -> None:
    """Captions a picture, and sends the text while it is written."""
    async with self._answering('CaptionStream', request, context) as call:
      with self._join(request, call) as (state, repeated):
        sent = ''
        while not state.done.done():
          progress = state.progress
          text = self._tokenizer.decode(state.tokens)
          if _extends(sent, text):
            piece, sent = text[len(sent) :], text
            await context.write(collab_pb2.CaptionChunk(text=piece))
          if progress is state.progress and not state.done.done():
            await progress.wait()
        state.done.result()
        reply = self._reply(state, repeated)
        if reply.caption != sent and reply.caption.startswith(sent):
          piece = reply.caption[len(sent) :]
          await context.write(collab_pb2.CaptionChunk(text=piece))
        await context.write(collab_pb2.CaptionChunk(reply=reply))

  @contextlib.asynccontextmanager
  async def _answering(
    self, method: str, request, context, if_open: bool = True
  ) -> AsyncIterator[_Call]:
    """Turns errors raised within into a status, and counts the answer."""
    code, text = _CODES.OK, ''
    call = _Call(method, time.perf_counter())
    self.open += 1
    try:
      if self.closed and if_open:
        raise RefusalError(_CODES.UNAVAILABLE, self.closed)
      if request is None:
        raise RefusalError(_CODES.INVALID_ARGUMENT, admission.REFUSAL)
      async with asyncio.timeout(context.time_remaining()):
        yield call
    except asyncio.CancelledError:
      code = _CODES.CANCELLED
      raise
    except TimeoutError:
      code, text = _CODES.DEADLINE_EXCEEDED, 'the deadline has passed'
    except RefusalError as error:
      code, text = error.code, str(error)
    except tuple(_STATUS) as error:
      code = next(c for k, c in _STATUS.items() if isinstance(error, k))
      text = str(error)
    except Exception:
      _LOG.exception('%s failed', method)
      code, text = _CODES.INTERNAL, 'the server failed; its log says why'
    finally:
      self.open -= 1
      self._metrics.count_answer(method, code.name)
      self._log_call(call, request, context, code, text)
    if code is not _CODES.OK:
      await context.abort(code, text)

  def _log_call(self, call: _Call, request, context, code, text: str) -> None:
    """Counts the time of a call, and writes its line."""
    seconds = time.perf_counter() - call.start
    if code is _CODES.OK:
      self._metrics.observe_request(call.method, seconds)
    if self._log is None:
      return
    state = call.state
    stages = state.milliseconds if state else {}
    record = {
      'method': call.method,
      'id': getattr(request, 'request_id', b'').hex(),
      'peer': admission.PEER.get() or context.peer(),
      'status': code.name,
      'codec': call.codec,
      'bytes': len(getattr(request, 'message', b'')),
      'tokens': len(state.tokens) if state else 0,
      'batch': state.batch if state else 0,
      'repeated': call.repeated,
      'milliseconds': {
        name: round(spent, 3)
        for name, spent in {**stages, 'all': 1000 * seconds}.items()
      },
    }
    if text:
      record['error'] = text
    if self._log_captions and state:
      record['prompt'] = request.prompt or self._info.prompt
      record['caption'] = self._tokenizer.decode(state.tokens)
    self._log.write(record)

  @contextlib.contextmanager
  def _join(self, request, call: _Call) -> Iterator[tuple[RequestState, bool]]:
    """Waits on a request's state: a new one, or that of its first try."""
    state, repeated = self._get_or_admit(request)
    call.state, call.codec, call.repeated = state, state.codec, repeated
    state.waiters += 1
    try:
      yield state, repeated
    finally:
      state.waiters -= 1
      if not state.waiters and not state.done.done():
        # Nobody is left to be answered: frees its slot or place.
        self._idempotency.discard(request, state)
        self._queue.cancel(state)
        state.update(error=request_queue.ServerStoppedError('nobody waits'))

  def _get_or_admit(self, request) -> tuple[RequestState, bool]:
    """Returns a request's state, and whether it was answered before."""
    if len(request.request_id) not in (0, request_cache.ID):
      raise RefusalError(
        _CODES.INVALID_ARGUMENT,
        f'request_id: got {len(request.request_id)} bytes, expected'
        f' {request_cache.ID} random ones, or none',
      )
    self._metrics.count_received(len(request.message))
    try:
      earlier = self._idempotency.get(request, admission.CALLER.get())
    except ValueError as error:
      raise RefusalError(_CODES.INVALID_ARGUMENT, str(error)) from error
    if earlier is not None:
      return earlier, earlier.done.done()
    return self._admit(request), False

  def _admit(self, request) -> RequestState:
    """Checks a request, reserves its place and starts to unpack its message."""
    caller = admission.CALLER.get()
    decoder = self._find_decoder(request.session, caller)
    message = request.message
    if request.continues:
      message = self._partial_messages.complete(
        request.continues, decoder.id, message, caller
      )
    if len(message) > self._info.max_message_bytes:
      raise RefusalError(
        _CODES.RESOURCE_EXHAUSTED,
        f'message: got {len(message)} bytes, expected at most'
        f' {self._info.max_message_bytes}',
      )
    max_tokens = self._max_tokens(request.max_tokens)
    prompt = self._tokenize(request.prompt)
    picture = self._keep_picture(request.picture, decoder.id, message, caller)
    known = picture is not None and not message
    if picture is not None:
      message = picture.message
      self._metrics.count_picture(known)
    waiting = len(self._queue)
    self._queue.reserve(caller)
    self._metrics.observe_queue(waiting)
    state = RequestState(
      decoder,
      prompt,
      max_tokens,
      time.perf_counter(),
      caller=caller,
      codec=decoder.codec.name,
      picture=picture,
      known=known,
    )
    self._idempotency.add(request, state)
    state.done.add_done_callback(lambda _: self._count(state))
    if decoder.progressive:
      self._partial_messages.add(
        request.request_id, decoder.id, message, caller
      )
    future = self._threads.submit(_unpack, state, message)
    self._enqueue_when_unpacked(future, state)
    return state

  def _keep_picture(
    self, digest: bytes, session: bytes, message: bytes, caller: str
  ) -> request_cache.KeptPicture | None:
    """Returns the picture of a request that names it; None for others."""
    if not digest:
      return None
    try:
      return self._pictures.get(digest, session, message, caller)
    except ValueError as error:
      raise RefusalError(_CODES.INVALID_ARGUMENT, str(error)) from error

  def _find_decoder(self, session: bytes, caller: str):
    """Returns the decoder of a session that the caller has agreed on here."""
    name = session[: protocol.ID]
    is_ours = session == name + self._info.tag
    decoder = self._registry.get(name, caller) if is_ours else None
    if decoder is None:
      raise RefusalError(
        _CODES.FAILED_PRECONDITION,
        f'session {name.hex() or "none"} is not known here (any more):'
        ' handshake first',
      )
    return decoder

  def _max_tokens(self, requested: int) -> int:
    """Returns the longest caption of a request."""
    limit = self._info.max_tokens
    if requested > limit:
      raise RefusalError(
        _CODES.INVALID_ARGUMENT,
        f'max_tokens: got {requested}, expected at most {limit}',
      )
    return requested or limit

  def _check_encoder(self, fingerprint: str) -> None:
    """Refuses features of another image encoder."""
    expected = self._info.encoder
    if expected and fingerprint and fingerprint != expected:
      raise codecs.RefusedError(
        f'image encoder: got the fingerprint {fingerprint[:16]!r}, expected'
        f' {expected!r}: the edge and the server have different weights of the'
        f' model {self._info.model!r}'
      )

  def _tokenize(self, text: str) -> list[int]:
    """Returns the ids of a request's prompt."""
    text, limit = text or self._info.prompt, self._info.max_prompt
    ids = self._tokenizer.prompt(text[: _LONGEST_PROMPT + 1])
    if len(text) > _LONGEST_PROMPT or len(ids) > limit:
      raise RefusalError(
        _CODES.INVALID_ARGUMENT,
        f'prompt: got {len(text)} letters, {len(ids)} tokens or more, expected'
        f' at most {_LONGEST_PROMPT} and {limit}',
      )
    if not self._has_warned and (said := self._tokenizer.describe_unfit(text)):
      self._has_warned = True
      _LOG.warning('%s', said)
    return ids

  def _enqueue_when_unpacked(
    self, future: futures.Future, state: RequestState
  ) -> None:
    """Puts a request into the queue once its message is unpacked."""

    def enqueue(future):
      state.stage_start = time.perf_counter()
      error = None if future.cancelled() else future.exception()
      if future.cancelled() or error or state.cancelled:
        self._queue.release(state.caller)
      else:
        try:
          self._queue.put(state)
        except request_queue.ServerStoppedError as stopped:
          error = stopped
      if error or future.cancelled():
        state.update(
          error=error or request_queue.ServerStoppedError('nobody waits')
        )

    asyncio.wrap_future(future).add_done_callback(enqueue)

  def _count(self, state: RequestState) -> None:
    if state.done.exception() is None:
      self._metrics.count_caption(state.milliseconds, len(state.tokens))

  def _reply(
    self, state: RequestState, repeated: bool
  ) -> collab_pb2.CaptionReply:
    return collab_pb2.CaptionReply(
      caption=self._tokenizer.decode(state.tokens),
      tokens=len(state.tokens),
      min_entropy=state.min_entropy,
      stages=collab_pb2.Stages(batch=state.batch, **state.milliseconds),
      repeated=repeated,
      known_picture=state.known,
    )


def _extends(sent: str, text: str) -> bool:
  """Returns whether text is `sent` and more, all of it whole letters."""
  is_longer = text.startswith(sent) and len(text) > len(sent)
  return is_longer and not text.endswith(_INCOMPLETE)


def _unpack(state: RequestState, data: bytes) -> None:
  """Checks and unpacks a message, on a thread of its own."""
  start = time.perf_counter()
  if state.picture is not None and state.picture.prefix is not None:
    return
  try:
    state.message = state.decoder.unpack(data)
  except (Exception, KeyboardInterrupt):
    raise
  except BaseException as error:
    # One message must not end the event loop, as SystemExit would.
    _LOG.exception('a message could not be unpacked')
    raise scheduler.FailedError(scheduler.FAILED) from error
  state.milliseconds['unpack'] = 1000 * (time.perf_counter() - start)
