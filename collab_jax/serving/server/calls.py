"""Calls that come by another's port: a gateway has received them."""

import asyncio
from collections.abc import AsyncIterator
import contextlib
from typing import Any

import grpc

from collab_jax.serving import tls
from collab_jax.serving.server import admission, places, security
from collab_jax.serving.server.server import Server

_CODES = grpc.StatusCode
_UNIDENTIFIED = 'Check', 'Watch'  # Methods of probes.


class CallRefusedError(Exception):
  """A call ends with this status.

  Attributes:
    code: The status.
  """

  def __init__(self, code: grpc.StatusCode, text: str):
    """Binds a status."""
    super().__init__(text)
    self.code = code


class _Context:
  """Context of a call, as the methods of a service use it."""

  def __init__(self, peer: str):
    self._peer = peer
    # None ends it.
    self.written: asyncio.Queue[Any] = asyncio.Queue()

  def peer(self) -> str:
    return self._peer

  def time_remaining(self) -> None:
    """Returns None: a call whose time is over is cancelled by the gateway."""

  async def write(self, message: Any) -> None:
    self.written.put_nowait(message)

  async def abort(self, code: grpc.StatusCode, text: str = '') -> None:
    raise CallRefusedError(code, text)


class PortlessCalls:
  """Answers calls by a server that has no port of its own.

      await server.start(listen=False)
      reply = await PortlessCalls(server).answer('Caption', request, received)

  Callers are identified by what the gateway says of a call: its metadata, and
  the other end of the connection. Their places are those of the server.
  """

  def __init__(self, server: Server):
    """Binds a server that has started."""
    self._server = server
    self._authenticator = server.authenticator
    self._calls = places.Places(server.max_calls, self._authenticator.several)
    self._local = tls.is_loopback(server.config.host)
    server.metrics.watch_calls(lambda: self._calls.taken, lambda: 0)

  async def answer(self, method: str, request: Any, received: Any) -> Any:
    """Answers a call that has one reply.

    Args:
      method: Name of the method.
      request: Its request.
      received: The gateway's context of the call, with `peer`, `auth_context`
        and `invocation_metadata`.

    Returns:
      The reply.

    Raises:
      CallRefusedError: The call ends with another status than OK.
    """
    async with self._admitted(method, received):
      context = _Context(received.peer())
      return await self._behaviour(method)(request, context)

  async def stream(
    self, method: str, request: Any, received: Any
  ) -> AsyncIterator[Any]:
    """Answers a call that has a stream of replies.

    Args:
      method: As of `answer`.
      request: As of `answer`.
      received: As of `answer`.

    Yields:
      The replies.

    Raises:
      CallRefusedError: As of `answer`.
    """
    async with self._admitted(method, received):
      context = _Context(received.peer())
      work = self._behaviour(method)(request, context)
      task = asyncio.ensure_future(work)
      task.add_done_callback(lambda _: context.written.put_nowait(None))
      try:
        while (reply := await context.written.get()) is not None:
          yield reply
        task.result()
      finally:
        task.cancel()  # Ends it if nobody listens any more.

  def _behaviour(self, method: str) -> Any:
    is_probe = method in _UNIDENTIFIED
    service = self._server.health if is_probe else self._server.service
    return getattr(service, method)

  @contextlib.asynccontextmanager
  async def _admitted(self, method: str, received: Any) -> AsyncIterator[None]:
    """Identifies a caller, and holds a place."""
    peer = received.peer()
    metadata = received.invocation_metadata()
    if self._local and not tls.is_loopback(security.address(peer)):
      self._server.metrics.count_answer(method, _CODES.PERMISSION_DENIED.name)
      raise CallRefusedError(
        _CODES.PERMISSION_DENIED,
        'this server is for its own machine alone; its operator may open it by'
        ' --host=0.0.0.0',
      )
    client = self._authenticator.forwarded_client(metadata)
    caller = ''
    if method not in _UNIDENTIFIED:
      caller = self._identify(method, received, client)
    if not self._calls.take(caller):
      self._server.metrics.count_rejection('calls')
      raise CallRefusedError(
        _CODES.RESOURCE_EXHAUSTED,
        'too many calls at a time, here or of this caller; try again later',
      )
    try:
      admission.CALLER.set(caller)
      admission.PEER.set(client.peer if client else peer)
      yield
    finally:
      self._calls.release(caller)

  def _identify(
    self, method: str, received: Any, client: security.ForwardedClient | None
  ) -> str:
    """Returns the name of a caller."""
    name = self._authenticator.caller(received.invocation_metadata())
    if name is None:
      self._server.metrics.count_answer(method, _CODES.UNAUTHENTICATED.name)
      raise CallRefusedError(
        _CODES.UNAUTHENTICATED, self._authenticator.refusal
      )
    if client is not None:
      return name or client.identity
    return name or security.peer_identity(received)
