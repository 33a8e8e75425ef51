"""The service itself: requests to tickets, tickets to replies."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
import contextlib
import logging
import time

import grpc

from collab_jax import wire
from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.serving import (
  collab_pb2,
  collab_pb2_grpc,
  protocol,
)
from collab_jax.serving.server import (
  codec_allowlist,
  codec_registry,
  interceptors,
  metrics,
  partial_message_cache,
  request_cache,
  request_queue,
  scheduler,
)
from collab_jax.serving.server import server_info as terms_lib
from collab_jax.serving.server.request import RequestState

_LOG = logging.getLogger(__name__)
_CODES = grpc.StatusCode
# What a piece of text ends with whose bytes are not all there yet.
_UNFINISHED = '\N{REPLACEMENT CHARACTER}'
# No prompt of as many tokens as may be is longer.
_LONGEST_PROMPT = 4096


class RefusalError(Exception):
  """A request gets this status."""

  def __init__(self, code: grpc.StatusCode, text: str):
    """Binds a status."""
    super().__init__(text)
    self.code = code


# The status of what may be raised while a request is answered.
_STATUS = {
  wire.FormatError: _CODES.INVALID_ARGUMENT,
  codec_allowlist.RefusedError: _CODES.FAILED_PRECONDITION,
  codec_registry.BusyError: _CODES.RESOURCE_EXHAUSTED,
  partial_message_cache.UnknownError: _CODES.FAILED_PRECONDITION,
  request_queue.QueueFullError: _CODES.RESOURCE_EXHAUSTED,
  request_queue.ServerStoppedError: _CODES.UNAVAILABLE,
  scheduler.FailedError: _CODES.INTERNAL,
}


class Service(collab_pb2_grpc.CaptionerServicer):
  """Answers every request once, or with a status.

  Attributes:
    open: Requests that are being answered.
    closed: Why no requests are taken; '' if they are.
  """

  def __init__(
    self,
    terms: terms_lib.ServerInfo,
    tokenizer: tokenizer_lib.Tokenizer,
    queue: request_queue.RequestQueue,
    known: codec_registry.CodecRegistry,
    remembered: request_cache.IdempotencyCache,
    counts: metrics.Metrics,
  ):
    """Binds what it answers with; at first no requests are taken.

    Args:
      terms: What edges are told.
      tokenizer: The model's.
      queue: The worker's.
      known: The codecs.
      remembered: Requests that may come again.
      counts: What is counted.
    """
    self.open = 0
    self.closed = 'the server is warming up'
    self._terms = terms
    self._tokenizer = tokenizer
    self._queue = queue
    self._known = known
    self._repeats = remembered
    self._beginnings = partial_message_cache.PartialMessageCache()
    self._metrics = counts
    # Two: one message is being unpacked while another is fetched.
    self._threads = futures.ThreadPoolExecutor(2, 'collab_jax-unpack')

  async def idle(self) -> None:
    """Waits until nothing is being answered."""
    while self.open:
      await asyncio.sleep(0.005)

  def close(self) -> None:
    """Ends the threads."""
    self._threads.shutdown(wait=False, cancel_futures=True)

  async def Handshake(self, request, context) -> collab_pb2.HandshakeReply:
    """Agrees on a codec."""
    async with self._answering('Handshake', request, context):
      self._tokens(request.max_tokens)
      self._prompt(request.prompt)
      self._encoder(request.encoder)
      found = await self._known.agree(request.session)
      return collab_pb2.HandshakeReply(
        session=found.id + self._terms.tag,
        model=self._terms.model,
        encoder=self._terms.encoder,
        decoder=self._terms.decoder,
        max_message_bytes=self._terms.max_message_bytes,
        max_tokens=self._terms.max_tokens,
        prompt=self._terms.prompt,
      )
    raise AssertionError  # The context manager has raised.

  async def Caption(self, request, context) -> collab_pb2.CaptionReply:
    """Captions a picture."""
    async with self._answering('Caption', request, context):
      with self._ticket(request) as (ticket, repeated):
        # The ticket is others' too: it must not be cancelled with this one.
        await asyncio.shield(ticket.done)
        return self._reply(ticket, repeated)
    raise AssertionError

  async def CaptionStream(self, request, context) -> None:
    """Captions a picture, and sends the text while it is written."""
    async with self._answering('CaptionStream', request, context):
      with self._ticket(request) as (ticket, repeated):
        sent = ''
        while not ticket.done.done():
          changed = ticket.changed
          text = self._tokenizer.decode(ticket.tokens)
          if _goes_on(sent, text):
            piece, sent = text[len(sent) :], text
            await context.write(collab_pb2.CaptionChunk(text=piece))
          if changed is ticket.changed and not ticket.done.done():
            await changed.wait()
        ticket.done.result()
        reply = self._reply(ticket, repeated)
        if reply.caption != sent and reply.caption.startswith(sent):
          piece = reply.caption[len(sent) :]
          await context.write(collab_pb2.CaptionChunk(text=piece))
        await context.write(collab_pb2.CaptionChunk(reply=reply))

  @contextlib.asynccontextmanager
  async def _answering(
    self, method: str, request, context
  ) -> AsyncIterator[None]:
    """Turns what is raised within into a status, and counts it."""
    code, text = _CODES.OK, ''
    self.open += 1
    try:
      if self.closed:
        raise RefusalError(_CODES.UNAVAILABLE, self.closed)
      if request is None:
        raise RefusalError(_CODES.INVALID_ARGUMENT, interceptors.REFUSAL)
      async with asyncio.timeout(context.time_remaining()):
        yield
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
      self._metrics.answered(method, code.name)
    if code is not _CODES.OK:
      await context.abort(code, text)

  @contextlib.contextmanager
  def _ticket(self, request) -> Iterator[tuple[RequestState, bool]]:
    """The ticket of a request, its own or that of the same one before."""
    ticket, repeated = self._find(request)
    ticket.waiters += 1
    try:
      yield ticket, repeated
    finally:
      ticket.waiters -= 1
      if not ticket.waiters and not ticket.done.done():
        # Nobody is left to be answered: its row or place is for others.
        self._repeats.forget(request, ticket)
        self._queue.cancel(ticket)
        ticket.told(error=request_queue.ServerStoppedError('nobody waits'))

  def _find(self, request) -> tuple[RequestState, bool]:
    terms = self._terms
    if len(request.request_id) not in (0, request_cache.ID):
      raise RefusalError(
        _CODES.INVALID_ARGUMENT,
        f'request_id: got {len(request.request_id)} bytes, expected'
        f' {request_cache.ID} random ones, or none',
      )
    self._metrics.received(len(request.message))
    try:
      known = self._repeats.find(request)
    except ValueError as error:
      raise RefusalError(_CODES.INVALID_ARGUMENT, str(error)) from error
    if known is not None:
      return known, known.done.done()
    name = request.session[: protocol.ID]
    here = request.session == name + terms.tag
    session = self._known.find(name) if here else None
    if session is None:
      raise RefusalError(
        _CODES.FAILED_PRECONDITION,
        f'session {name.hex() or "none"} is not known here (any more):'
        ' handshake first',
      )
    message = request.message
    if request.continues:
      message = self._beginnings.whole(
        request.continues, session.id, request.message
      )
    if len(message) > terms.max_message_bytes:
      raise RefusalError(
        _CODES.RESOURCE_EXHAUSTED,
        f'message: got {len(message)} bytes, expected at most'
        f' {terms.max_message_bytes}',
      )
    wanted = self._tokens(request.max_tokens)
    prompt = self._prompt(request.prompt)
    self._queue.reserve()
    ticket = RequestState(
      session,
      prompt,
      wanted,
      time.perf_counter(),
    )
    self._repeats.add(request, ticket)
    ticket.done.add_done_callback(lambda _: self._count(ticket))
    if session.progressive:
      self._beginnings.add(request.request_id, session.id, message)
    future = self._threads.submit(_unpack, ticket, message)
    self._follow(future, ticket)
    return ticket, False

  def _tokens(self, wanted: int) -> int:
    """The longest caption of a request."""
    most = self._terms.max_tokens
    if wanted > most:
      raise RefusalError(
        _CODES.INVALID_ARGUMENT,
        f'max_tokens: got {wanted}, expected at most {most}',
      )
    return wanted or most

  def _encoder(self, there: str) -> None:
    """Refuses features of another image encoder."""
    here = self._terms.encoder
    if here and there and there != here:
      raise codec_allowlist.RefusedError(
        f'image encoder: got the fingerprint {there[:16]!r}, expected {here!r}:'
        ' the edge and the server have different weights of the model'
        f' {self._terms.model!r}'
      )

  def _prompt(self, text: str) -> list[int]:
    """The ids of a request's prompt."""
    text, most = text or self._terms.prompt, self._terms.max_prompt
    ids = self._tokenizer.prompt(text[: _LONGEST_PROMPT + 1])
    if len(text) > _LONGEST_PROMPT or len(ids) > most:
      raise RefusalError(
        _CODES.INVALID_ARGUMENT,
        f'prompt: got {len(text)} letters, {len(ids)} tokens or more, expected'
        f' at most {_LONGEST_PROMPT} and {most}',
      )
    return ids

  def _follow(self, future: futures.Future, ticket: RequestState) -> None:
    """Puts a ticket into the queue once its message is unpacked."""

    def unpacked(future):
      ticket.began = time.perf_counter()
      error = None if future.cancelled() else future.exception()
      if future.cancelled() or error or ticket.cancelled:
        self._queue.leave()
      else:
        try:
          self._queue.put(ticket)
        except request_queue.ServerStoppedError as gone:
          error = gone
      if error or future.cancelled():
        ticket.told(
          error=error or request_queue.ServerStoppedError('nobody waits')
        )

    asyncio.wrap_future(future).add_done_callback(unpacked)

  def _count(self, ticket: RequestState) -> None:
    if ticket.done.exception() is None:
      self._metrics.captioned(ticket.milliseconds, len(ticket.tokens))

  def _reply(
    self, ticket: RequestState, repeated: bool
  ) -> collab_pb2.CaptionReply:
    spent = ticket.milliseconds
    return collab_pb2.CaptionReply(
      caption=self._tokenizer.decode(ticket.tokens),
      tokens=len(ticket.tokens),
      min_entropy=ticket.bits,
      stages=collab_pb2.Stages(batch=ticket.batch, **spent),
      repeated=repeated,
    )


def _goes_on(sent: str, text: str) -> bool:
  """Whether text is what was sent, and more, that may be sent by now."""
  more = text.startswith(sent) and len(text) > len(sent)
  return more and not text.endswith(_UNFINISHED)


def _unpack(ticket: RequestState, data: bytes) -> None:
  """Checks and unpacks a message, on a thread of its own."""
  start = time.perf_counter()
  ticket.message = ticket.session.unpack(data)
  ticket.milliseconds['unpack'] = 1000 * (time.perf_counter() - start)
