"""The server: everything put together, started, watched and stopped."""

import asyncio
import contextlib
import logging
import threading
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
import prometheus_client as prometheus

from collab_jax import codecs, sharding
from collab_jax.models import paligemma
from collab_jax.serving import (
  collab_pb2,
  collab_pb2_grpc,
  protocol,
)
from collab_jax.serving.engine import engine
from collab_jax.serving.server import (
  codec_allowlist,
  codec_registry,
  interceptors,
  metrics,
  request_cache,
  request_queue,
  scheduler,
  security,
  server_info,
  service,
)
from collab_jax.serving.server import decoders as served_lib
from collab_jax.serving.server.config import ServerConfig

_LOG = logging.getLogger(__name__)

_SERVICE = collab_pb2.DESCRIPTOR.services_by_name['Captioner'].full_name
# What a request has besides its message, at most.
_MORE = protocol.LONGEST + 4 * 4096
# A call besides those that wait: handshakes, probes, and those refused.
_CALLS = 256
_REMEMBERED = 4096, 300.0  # Requests, seconds.


class Server:
  """Serves a model to edges.

  In a program of its own `running.run` does all; in a test or a notebook

      with serving.Server(model, serving.Settings(port=0)) as server:
        client = serving.EdgeClient(server.address, codec)

  Attributes:
    settings: What the operator chose.
    metrics: What is counted.
    address: Where it listens, once it has started.
    metrics_address: Where the metrics are, or ''.
    warming: The task after which requests are taken.
    failed: Set if the thread that computes has ended by itself: no request can
      be answered any more.
  """

  def __init__(
    self,
    model: paligemma.Model,
    settings: ServerConfig | None = None,
    encoder: str = '',
  ):
    """Binds a model; nothing is started yet.

    Args:
      model: The model, with its tokenizer; `load(..., part='server')` is enough
        where no image codecs are served.
      settings: What the operator chose.
      encoder: `codecs.encoder_fingerprint` of the edges' part, where `model`
        lacks it; edges with other weights are refused.

    Raises:
      ValueError: A quantizer or codec is unknown or not for the model, the
        prompt is too long, or the model lacks what it needs.
      ImportError: The module of a quantizer cannot be imported.
      OSError: A file with a key, certificate or token cannot be read.
    """
    self.settings = settings or ServerConfig()
    self.metrics = metrics.Metrics()
    self.address = self.metrics_address = ''
    own, tokenizer = self.settings, model.tokenizer
    if tokenizer is None:
      raise ValueError('the model has no tokenizer: load(..., tokenizer=...)')
    if 'llm' not in model.params:
      raise ValueError(
        "the model has no decoder; load all of it, or the part 'server'"
      )
    known = codecs.encoder_fingerprint(model)
    if own.images and not known:
      raise ValueError(
        'images: the model has no image encoder; load all of it, not the part'
        " 'server'"
      )
    self._prompt = len(tokenizer.prompt(own.prompt))
    if self._prompt > own.sizes.max_prompt:
      raise ValueError(
        f'prompt: got {self._prompt} tokens, expected at most'
        f' {own.sizes.max_prompt}; raise max_prompt'
      )
    self._encoder = known or encoder
    self._model = model
    self._tokenizer = tokenizer
    self._offer = codec_allowlist.CodecAllowlist(
      model, own.quantizers, own.images
    )
    self._credentials = own.security.credentials()
    self._tokens = own.security.tokens()
    self._cleaning = contextlib.AsyncExitStack()

  @property
  def max_message_bytes(self) -> int:
    """The longest message that is taken."""
    vision = self._model.config.vision
    # All vectors in float32, or a picture as no encoder makes it.
    numbers = vision.num_tokens * max(vision.width, vision.out_dim)
    most = 4 * max(numbers, 3 * vision.image_size**2) + (1 << 16)
    return self.settings.max_message_bytes or most

  async def start(self, warm: bool = True) -> None:
    """Listens; takes requests once everything is compiled.

    Args:
      warm: Wait for that.

    Raises:
      OSError: A port is in use.
    """
    own, loop = self.settings, asyncio.get_running_loop()
    queue = request_queue.RequestQueue(own.queue)
    self._engine = engine.Engine(self._model, own.sizes, self._prompt)
    self._worker = scheduler.Scheduler(
      self._engine, queue, loop, self.metrics, own.group_ms / 1000, self._fail
    )
    self._known = codec_registry.CodecRegistry(
      self._offer, own.max_sessions, self._worker.call, self._warm
    )
    self._service = service.Service(
      server_info.ServerInfo(
        self._model.config.name,
        self._encoder,
        sharding.checksum(self._model.params['llm']),
        own.prompt,
        own.sizes.max_tokens,
        own.sizes.max_prompt,
        self.max_message_bytes,
      ),
      self._tokenizer,
      queue,
      self._known,
      request_cache.IdempotencyCache(*_REMEMBERED),
      self.metrics,
    )
    self.failed = asyncio.Event()
    self.metrics.watch(lambda: len(queue), lambda: len(self._known))
    self._health = health.aio.HealthServicer()  # pyright: ignore
    await self._say(False)
    try:
      await self._listen()
    except BaseException:
      await self._cleaning.aclose()
      raise
    self._worker.start()
    self.warming = asyncio.create_task(self._warm_up())
    if not warm:
      return
    try:
      await self.warming
    except BaseException:
      await self.stop()
      raise

  async def stop(self) -> None:
    """Takes no more requests, ends those that it has, then everything."""
    own = self.settings
    self._service.closed = 'the server is being stopped'
    self.metrics.serving(False)
    await self._health.enter_graceful_shutdown()
    self.warming.cancel()
    await asyncio.wait([self.warming])
    await self._idle(own.drain_seconds)
    if self._service.open:
      _LOG.warning('%d requests are given up', self._service.open)
    if not await self._worker.stop(own.drain_seconds):
      _LOG.warning('a program still runs; it is left alone')
    await self._idle(1.0)
    # What is answered by now is on its way; streams of probes never end.
    await self._grpc.stop(0.5)
    self._service.close()
    await self._cleaning.aclose()

  async def _idle(self, seconds: float) -> None:
    """Waits so long for all requests to be answered."""
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(seconds):
        await self._service.idle()

  def __enter__(self) -> 'Server':
    """Serves from a thread; returns when requests are taken."""
    return self.in_thread()

  def in_thread(self, warm: bool = True) -> 'Server':
    """Serves from a thread, until `__exit__`.

    Args:
      warm: Return when requests are taken, else when it listens.
    """
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
      target=self._loop.run_forever, name='collab_jax-server', daemon=True
    )
    self._thread.start()
    try:
      self.wait(self.start(warm))
    except BaseException:
      self._end_thread()
      raise
    return self

  def __exit__(self, *_: object) -> None:
    """Stops as `stop` does."""
    self.wait(self.stop())
    self._end_thread()

  def wait(self, work: Any) -> Any:
    """Runs a coroutine where the server runs, from another thread."""
    return asyncio.run_coroutine_threadsafe(work, self._loop).result()

  def _end_thread(self) -> None:
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  async def _listen(self) -> None:
    own = self.settings
    most = self.max_message_bytes + _MORE
    guards = [security.Tokens(self._tokens, self.metrics)]
    self._grpc = aio.server(
      interceptors=[
        *(guards if self._tokens else []),
        interceptors.ParseErrorInterceptor(_SERVICE),
      ],
      maximum_concurrent_rpcs=own.queue + own.sizes.rows + _CALLS,
      options=[
        ('grpc.max_receive_message_length', most),
        ('grpc.max_send_message_length', most),
        ('grpc.max_concurrent_streams', 1024),
        ('grpc.so_reuseport', 0),
        # A connection whose other end has gone is found out and closed.
        ('grpc.keepalive_time_ms', 15_000),
        ('grpc.keepalive_timeout_ms', 15_000),
        ('grpc.http2.ping_timeout_ms', 15_000),
        ('grpc.keepalive_permit_without_calls', 1),
        ('grpc.http2.min_ping_interval_without_data_ms', 5_000),
      ],
    )
    collab_pb2_grpc.add_CaptionerServicer_to_server(self._service, self._grpc)
    health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
    names = [_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, self._grpc)
    where = security.address(own.host, own.port)
    try:
      if self._credentials is None:
        port = self._grpc.add_insecure_port(where)
      else:
        port = self._grpc.add_secure_port(where, self._credentials)
    except RuntimeError as error:
      raise OSError(
        f'port: cannot listen on {where}; is it in use, or a certificate'
        f' damaged? {error}'
      ) from error
    self.address = security.address(own.host, port)
    if own.metrics_port >= 0:
      try:
        web, thread = prometheus.start_http_server(
          own.metrics_port, own.metrics_host, self.metrics.registry
        )
      except OSError as error:
        where = security.address(own.metrics_host, own.metrics_port)
        raise OSError(
          f'metrics_port: cannot listen on {where}: {error}; -1 for none'
        ) from error
      for end in (thread.join, web.server_close, web.shutdown):
        self._cleaning.push_async_callback(asyncio.to_thread, end)
      self.metrics_address = security.address(
        own.metrics_host, web.server_address[1]
      )
    await self._grpc.start()

  async def _warm_up(self) -> None:
    """Compiles all that will be needed, then takes requests."""
    for job in self._engine.warm_up():
      await self._worker.call(job)
    for make in self._offer.listed([self.settings.split]):
      added = await self._known.add(make)
      if (added.shortest or 0) > self.max_message_bytes:
        _LOG.warning(
          "max_message_bytes: got %d; %s needs %d in the coding 'fixed', and"
          ' will be refused in it',
          self.max_message_bytes,
          added.codec.name,
          added.shortest,
        )
    self._service.closed = ''
    await self._say(True)

  async def _warm(self, made: served_lib.MessageDecoder) -> None:
    """Compiles what a codec needs, between the steps of others' captions."""
    lengths = set()
    for job in made.warm_up(self._engine.batches):
      lengths.add(await self._worker.call(job))
    for length in sorted(lengths - {0}):
      for job in self._engine.warm_up_length(length):
        await self._worker.call(job)

  def _fail(self) -> None:
    """Takes no more requests, since nothing can be computed."""
    self._service.closed = 'the server has failed; its log says why'
    self.failed.set()
    self._saying = asyncio.ensure_future(self._say(False))

  async def _say(self, yes: bool) -> None:
    self.metrics.serving(yes)
    status = health_pb2.HealthCheckResponse.ServingStatus
    for name in ('', _SERVICE):
      await self._health.set(
        name, status.SERVING if yes else status.NOT_SERVING
      )
