"""Ray Serve's application: replicas of a server, and their metrics.

Imports Ray: only for processes that use it.
"""

import asyncio
import contextlib
import dataclasses
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
import prometheus_client as prometheus
from ray import serve  # pyright: ignore[reportMissingImports]
from ray.serve import (  # pyright: ignore[reportMissingImports]
  config as serve_config,
)
from starlette import (  # pyright: ignore[reportMissingImports]
  requests,
  responses,
)

from collab_jax import _precision, launcher
from collab_jax.serving import collab_pb2
from collab_jax.serving.replicas import merged_metrics
from collab_jax.serving.server import calls, loading

# Seconds between two pages of a replica's metrics.
_PERIOD = 1.0
# Chooses the replica by a hash of a call's metadata `session_id`.
_ROUTER = 'ray.serve.experimental.consistent_hash_router.ConsistentHashRouter'


class CaptionerReplica:
  """A server whose calls come from Ray's ingress."""

  async def __init__(self, arguments: loading.ServerArguments, store: Any):
    self._name = serve.get_replica_context().replica_id.unique_id
    self._store = store
    self._server: Any = None
    launcher.prepare_process()
    # For as long as the process lives.
    self._precision = _precision.matmul_precision(arguments.precision)
    self._precision.__enter__()
    server = await asyncio.to_thread(loading.make_server, arguments)
    await server.start(listen=False)
    self._server = server
    self._calls = calls.PortlessCalls(server)
    self._pushing = asyncio.create_task(self._push_metrics())

  async def Metadata(self, request, grpc_context):
    """Says what the server has and admits."""
    empty = collab_pb2.MetadataReply()
    return await self._answer('Metadata', request, grpc_context, empty)

  async def Handshake(self, request, grpc_context):
    """Agrees on a codec."""
    empty = collab_pb2.HandshakeReply()
    return await self._answer('Handshake', request, grpc_context, empty)

  async def Caption(self, request, grpc_context):
    """Captions a picture."""
    empty = collab_pb2.CaptionReply()
    return await self._answer('Caption', request, grpc_context, empty)

  async def CaptionStream(self, request, grpc_context):
    """Captions a picture, and sends the text while it is written."""
    try:
      async for chunk in self._calls.stream(
        'CaptionStream', request, grpc_context
      ):
        yield chunk
    except calls.CallRefusedError as error:
      _set_status(grpc_context, error)
      # Of an error without arguments of its own, which Ray can pickle.
      raise RuntimeError(str(error)) from None

  async def Check(self, request, grpc_context):
    """Answers a probe."""
    empty = health_pb2.HealthCheckResponse()
    return await self._answer('Check', request, grpc_context, empty)

  async def Watch(self, request, grpc_context):
    """Refuses streams of probes, on which a replica's end would wait."""
    error = calls.CallRefusedError(
      grpc.StatusCode.UNIMPLEMENTED, 'replicas answer Check alone'
    )
    _set_status(grpc_context, error)
    raise RuntimeError(str(error))
    yield

  async def __call__(self, request: requests.Request) -> responses.Response:
    """Answers readers of the metrics, and probes."""
    if request.url.path == '/metrics':
      text = await self._store.merged.remote()
      return responses.Response(
        text, headers={'Content-Type': prometheus.CONTENT_TYPE_LATEST}
      )
    if request.url.path in ('/live', '/ready'):
      return responses.PlainTextResponse('ok\n')
    return responses.PlainTextResponse('no such page\n', 404)

  async def check_health(self) -> None:
    """Raises an error once nothing can be computed: Ray starts another."""
    if self._server.failed.is_set():
      raise RuntimeError('the scheduler has ended; its log says why')

  async def __del__(self):
    """Ends the server; Ray has waited for the calls."""
    if self._server is not None:
      await self._server.stop()

  async def _answer(self, method: str, request, context, empty) -> Any:
    """Answers a call that has one reply; `empty` goes with other statuses."""
    try:
      return await self._calls.answer(method, request, context)
    except calls.CallRefusedError as error:
      _set_status(context, error)
      return empty

  async def _push_metrics(self) -> None:
    registry = self._server.metrics.registry
    while True:
      page = prometheus.generate_latest(registry).decode()
      # The store is started anew if it has gone.
      with contextlib.suppress(Exception):
        await self._store.put.remote(self._name, page)
      await asyncio.sleep(_PERIOD)


def _set_status(context: Any, error: calls.CallRefusedError) -> None:
  context.set_code(error.code)
  context.set_details(str(error))


def bind(
  arguments: loading.ServerArguments, replicas: int, resources: dict[str, float]
) -> Any:
  """Returns the application: replicas of a server, and their metrics.

  Args:
    arguments: The server's arguments.
    replicas: Number of replicas.
    resources: Amount of each of Ray's resources that a replica takes.
  """
  # Ray lets a replica end once its calls are answered.
  config = dataclasses.replace(arguments.config, lame_duck_seconds=0.0)
  arguments = dataclasses.replace(arguments, config=config)
  others = {k: v for k, v in resources.items() if k not in ('CPU', 'GPU')}
  options = {
    'num_cpus': resources.get('CPU', 0),
    'num_gpus': resources.get('GPU', 0),
    'resources': others,
  }
  max_calls = config.queue + config.engine.max_slots
  captioner = serve.deployment(
    CaptionerReplica,
    name='Captioner',
    num_replicas=replicas,
    max_ongoing_requests=2 * max_calls,
    max_queued_requests=max_calls * replicas,
    graceful_shutdown_timeout_s=config.drain_seconds,
    graceful_shutdown_wait_loop_s=0.2,
    health_check_period_s=2.0,
    ray_actor_options=options,
    request_router_config=serve_config.RequestRouterConfig(
      request_router_class=_ROUTER
    ),
  )
  store = serve.deployment(
    merged_metrics.MetricsStore,
    name='Metrics',
    ray_actor_options={'num_cpus': 0},
  )
  return captioner.bind(arguments, store.bind())
