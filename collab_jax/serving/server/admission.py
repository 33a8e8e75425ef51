"""Admission of calls, before their messages are awaited.

gRPC counts a call as soon as its headers are there, and reads its message
before the handler runs, for as long as that takes. Here every method reads its
message by itself: a call is identified by its headers, is refused without a
byte of its message, or takes a place, and has some seconds for its message.
"""

import asyncio
from collections.abc import AsyncIterator
import contextlib
import contextvars
import os
from typing import Any

from google.protobuf import message as protobuf
import grpc
from grpc import aio
from grpc_health.v1 import health_pb2

from collab_jax.serving.server import (
  connections,
  metrics,
  places,
  security,
)

# Caller of the request that is being answered, as `security.Authenticator`
# names it.
CALLER: contextvars.ContextVar[str] = contextvars.ContextVar(
  'caller', default=''
)
# Other end of the call that is being answered, as gRPC writes it: of its
# connection, or of that to a proxy in front.
PEER: contextvars.ContextVar[str] = contextvars.ContextVar('peer', default='')
# Text of the status of a request that cannot be parsed.
REFUSAL = (
  'the bytes are no request of this service: expected a message of collab.proto'
)

# Owner of the connections of a proxy, on which calls of many callers are.
_PROXY = 'proxy'
# The standard health service, which probes ask without a token.
_HEALTH = '/grpc.health.v1.Health/'
# Requests of strangers that are read at a time, and seconds for each.
_PROBES = 8
_PROBE_SECONDS = 5.0
# Streams of the health service, in all and of one caller or address; seconds.
_WATCHES = 64
_WATCHES_EACH = 8
_WATCH_SECONDS = 600.0
# Seconds for a stream of reflection.
_REFLECTION_SECONDS = 60.0
# Memory for messages that arrive at the same time, and the fewest of them.
_BODY_BYTES = 512 << 20
_FEWEST_BODIES = 16

_CODES = grpc.StatusCode


class AdmissionInterceptor(aio.ServerInterceptor):
  """Lets calls in by their headers, and reads their messages.

  Attributes:
    calls: Places of calls, held until they are answered.
    bodies: Places of messages that arrive, held until they are there.
    watches: Places of streams of the health service.
  """

  def __init__(
    self,
    authenticator: security.Authenticator,
    limiter: connections.ConnectionLimiter,
    counters: metrics.Metrics,
    max_calls: int,
    max_bytes: int,
    seconds: float,
  ):
    """Binds the identity of callers, and limits.

    Args:
      authenticator: Names the callers.
      limiter: Is told of the connections whose calls are let in.
      counters: Metrics of the server.
      max_calls: Number of calls that may be answered at a time.
      max_bytes: Longest request.
      seconds: Time for the message of a call to arrive.
    """
    fair = authenticator.several
    self.calls = places.Places(max_calls, fair)
    bodies = max(_FEWEST_BODIES, _BODY_BYTES // max_bytes)
    self.bodies = places.Places(min(bodies, max_calls), fair)
    self.watches = places.Places(_WATCHES)
    self._probes = places.Places(_PROBES)
    self._authenticator = authenticator
    self._limiter = limiter
    self._metrics = counters
    self._seconds = seconds
    self._body_left = asyncio.Condition()

  async def intercept_service(self, continuation, handler_call_details):
    """Returns a handler that admits the call, or refuses it."""
    handler: Any = await continuation(handler_call_details)
    method = handler_call_details.method
    if handler is None:
      return None
    metadata = handler_call_details.invocation_metadata or ()
    caller = self._authenticator.caller(metadata)
    client = self._authenticator.forwarded_client(metadata)
    if method.startswith(_HEALTH):
      if handler.response_streaming:
        return _reading(handler, self._watch(handler, caller, client))
      return _reading(handler, self._check(handler, client))
    if caller is None:
      return _reading(handler, self._refuse(os.path.basename(method), client))
    return _reading(handler, self._answer(handler, caller, client))

  def _other_end(self, context, client: security.ForwardedClient | None) -> str:
    """Returns the client's end of a call, by which callers are paced."""
    if client is None:
      return context.peer()
    self._limiter.admit(context.peer(), _PROXY)
    return client.peer

  def _refuse(self, method: str, client: security.ForwardedClient | None):
    """Returns a behaviour that ends a stranger's call, its message unread."""

    async def refuse(_, context):
      peer = self._other_end(context, client)
      if client is None:  # On a proxy's connection are others' calls, too.
        self._limiter.count_refusal(peer)
      self._metrics.count_answer(method, _CODES.UNAUTHENTICATED.name)
      await asyncio.sleep(self._limiter.wait_seconds(peer))
      await context.abort(_CODES.UNAUTHENTICATED, self._authenticator.refusal)

    return refuse

  def _answer(
    self, handler: Any, token: str, client: security.ForwardedClient | None
  ):
    """Returns a behaviour that answers an identified caller."""
    behaviour = _behaviour(handler)

    async def answer(requests, context):
      peer = self._other_end(context, client)
      caller = token or (
        client.identity if client else security.peer_identity(context)
      )
      if client is None:
        self._limiter.admit(peer, caller)
      async with self._place(self.calls, caller, 'calls', context):
        CALLER.set(caller)
        PEER.set(peer)
        if handler.request_streaming:
          async with asyncio.timeout(_REFLECTION_SECONDS):
            parsed = _parsed(handler, requests)
            async for reply in behaviour(parsed, context):
              await context.write(reply)
          return None
        async with self._body(caller, context):
          data = await self._receive(requests, context, self._seconds)
        return await behaviour(_parse(handler, data), context)

    return answer

  def _check(self, handler: Any, client: security.ForwardedClient | None):
    """Returns a behaviour that answers a probe, whatever else goes on."""
    behaviour = _behaviour(handler)

    async def check(requests, context):
      request = health_pb2.HealthCheckRequest()
      peer = self._other_end(context, client)
      await asyncio.sleep(self._limiter.probe_seconds(peer, client is None))
      if self._probes.take():
        # Of too many probes at a time, which service they mean is not read.
        try:
          data = await self._receive(requests, context, _PROBE_SECONDS)
        finally:
          self._probes.release()
        request = await self._parse_probe(handler, data, context)
      return await behaviour(request, context)

    return check

  def _watch(
    self,
    handler: Any,
    token: str | None,
    client: security.ForwardedClient | None,
  ):
    """Returns a behaviour of streams that are bounded in number and life."""
    behaviour = _behaviour(handler)

    async def watch(requests, context):
      peer = self._other_end(context, client)
      caller = token or security.address(peer)
      if self.watches.held(caller) >= _WATCHES_EACH:
        if not token:
          await asyncio.sleep(self._limiter.wait_seconds(peer))
        await self._reject('watches', context)
      async with self._place(self.watches, caller, 'watches', context):
        data = await self._receive(requests, context, _PROBE_SECONDS)
        request = await self._parse_probe(handler, data, context)
        with contextlib.suppress(TimeoutError):
          async with asyncio.timeout(_WATCH_SECONDS):
            await behaviour(request, context)
        await context.abort(_CODES.UNAVAILABLE, 'watch again')

    return watch

  async def _parse_probe(self, handler: Any, data, context) -> Any:
    request = _parse(handler, data)
    if request is None:
      await context.abort(_CODES.INVALID_ARGUMENT, 'no request of a probe')
    return request

  @contextlib.asynccontextmanager
  async def _place(
    self, kind: places.Places, caller: str, name: str, context
  ) -> AsyncIterator[None]:
    """Holds a place, or ends the call."""
    if not kind.take(caller):
      await self._reject(name, context)
    try:
      yield
    finally:
      kind.release(caller)

  async def _reject(self, name: str, context) -> None:
    self._metrics.count_rejection(name)
    await context.abort(
      _CODES.RESOURCE_EXHAUSTED,
      f'too many {name} at a time, here or of this caller; try again later',
    )

  @contextlib.asynccontextmanager
  async def _body(self, caller: str, context) -> AsyncIterator[None]:
    """Waits for a place for a message; until then gRPC holds its sender."""
    if not self.bodies.take(caller):
      try:
        async with asyncio.timeout(self._seconds), self._body_left:
          await self._body_left.wait_for(lambda: self.bodies.take(caller))
      except TimeoutError:
        await self._reject('bodies', context)
    try:
      yield
    finally:
      self.bodies.release(caller)
      async with self._body_left:
        self._body_left.notify_all()

  async def _receive(self, requests, context, seconds: float) -> bytes | None:
    """Waits for the one message of a call; None if it has none."""
    try:
      async with asyncio.timeout(seconds):
        return await anext(requests, None)
    except TimeoutError:
      self._metrics.count_rejection('late')
      await context.abort(
        _CODES.DEADLINE_EXCEEDED,
        f'the message of the call has not come within {seconds:g} s',
      )


def _behaviour(handler: Any) -> Any:
  """Returns the function of a handler, of any of the four kinds."""
  return (
    handler.unary_unary
    or handler.unary_stream
    or handler.stream_unary
    or handler.stream_stream
  )


def _reading(handler: Any, behaviour: Any) -> grpc.RpcMethodHandler:
  """Returns a handler whose behaviour reads the bytes of requests itself."""
  make = (
    grpc.stream_stream_rpc_method_handler
    if handler.response_streaming
    else grpc.stream_unary_rpc_method_handler
  )
  return make(
    behaviour,
    request_deserializer=None,
    response_serializer=handler.response_serializer,
  )


def _parse(handler: Any, data: bytes | None) -> Any:
  """Returns a request; None where the bytes are none of the method's.

  By itself gRPC answers UNKNOWN to those, and the service counts nothing.
  """
  try:
    return None if data is None else handler.request_deserializer(data)
  except protobuf.DecodeError:
    return None


async def _parsed(handler: Any, requests) -> AsyncIterator[Any]:
  """Yields the requests of a stream, which ends at one that is damaged."""
  async for data in requests:
    request = _parse(handler, data)
    if request is None:
      return
    yield request
