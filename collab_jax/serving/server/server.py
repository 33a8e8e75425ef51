"""The server: assembles the parts, starts and stops them."""

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
import prometheus_client as prometheus

from collab_jax import codecs, sharding
from collab_jax.checkpoints import checksums
from collab_jax.models import paligemma
from collab_jax.serving import (
  collab_pb2,
  collab_pb2_grpc,
  memory,
  protocol,
  tls,
)
from collab_jax.serving.engine import engine
from collab_jax.serving.server import (
  admission,
  compiler,
  connections,
  decoders,
  metrics,
  request_cache,
  request_log,
  request_queue,
  scheduler,
  security,
  service,
)
from collab_jax.serving.server import codecs as server_codecs
from collab_jax.serving.server.config import ServerConfig

_LOG = logging.getLogger(__name__)

_SERVICE = collab_pb2.DESCRIPTOR.services_by_name['Captioner'].full_name
# Bytes of a request besides its message, at most.
_OVERHEAD = protocol.LONGEST + 4 * 4096
_MINUTE_MS = 60_000
# Calls besides those that wait: handshakes, probes, and those refused.
_EXTRA_CALLS = 256
_IDEMPOTENCY = 4096, 300.0  # Requests, seconds.


class Server:
  """Serves a model to edges.

      with serving.Server(model, serving.ServerConfig(port=0)) as server:
        client = serving.EdgeClient(server.address, codec)

  `serve_forever` runs it as a program.

  Attributes:
    config: The operator's settings.
    metrics: Counters and histograms.
    address: Address of the service, once it has started.
    metrics_address: Address of the metrics, or ''.
    warming: The warm-up task, after which requests are taken.
    failed: Set if the scheduler's thread has ended by itself: no request can
      be answered any more.
  """

  def __init__(
    self,
    model: paligemma.Model,
    config: ServerConfig | None = None,
    encoder: str = '',
    codec_model: paligemma.Model | None = None,
  ):
    """Binds a model; nothing is started yet.

    Args:
      model: The model, with its tokenizer; `load(..., part='server')` is enough
        where `config.server_encoded` is empty.
      config: The operator's settings.
      encoder: `codecs.encoder_fingerprint` of the edges' part, where `model`
        lacks that part; edges with other weights are refused.
      codec_model: The part of the model that decodes messages, on one device of
        this process, where `model` lies on devices of several; None for
        `model`.

    Raises:
      ValueError: A quantizer or codec is unknown or not for the model, the
        prompt is too long, or the model lacks what it needs.
      ImportError: The module of a quantizer cannot be imported.
      OSError: A file with a key, certificate or token cannot be read.
    """
    self.config = config = config or ServerConfig()
    self.metrics = metrics.Metrics()
    self.address = self.metrics_address = ''
    tokenizer = model.tokenizer
    if tokenizer is None:
      raise ValueError('the model has no tokenizer: load(..., tokenizer=...)')
    if 'llm' not in model.params:
      raise ValueError(
        "the model has no decoder; load all of it, or the part 'server'"
      )
    fingerprint = codecs.encoder_fingerprint(model)
    self._prompt_length = len(tokenizer.prompt(config.prompt))
    if self._prompt_length > config.engine.max_prompt:
      raise ValueError(
        f'prompt: got {self._prompt_length} tokens, expected at most'
        f' {config.engine.max_prompt}; raise max_prompt'
      )
    self._encoder = fingerprint or encoder
    # Of a model on several hosts all processes read it.
    self._decoder_checksum = checksums.sampled(model.params['llm'])
    self._model = model
    self._tokenizer = tokenizer
    self._allowlist = server_codecs.CodecAllowlist(
      codec_model or model, config.quantizers, config.images
    )
    self._certificates = config.security.certificates()
    self._authenticator = security.Authenticator(config.security, config.host)
    self._cleanup = contextlib.AsyncExitStack()
    self._request_log: request_log.RequestLog | None = None
    self._grpc: aio.Server | None = None

  @property
  def model(self) -> paligemma.Model:
    """The model that is served."""
    return self._model

  @property
  def cache_bytes(self) -> int:
    """Bytes of the key-value cache of all captions, once it has started."""
    return self._engine.state_bytes

  @property
  def max_message_bytes(self) -> int:
    """Longest message that is taken, in bytes."""
    vision = self._model.config.vision
    # All vectors in float32, or a picture larger than any encoder makes it.
    numbers = vision.num_tokens * max(vision.width, vision.out_dim)
    longest = 4 * max(numbers, 3 * vision.image_size**2) + (1 << 16)
    return self.config.max_message_bytes or longest

  @property
  def authenticator(self) -> security.Authenticator:
    """Names the callers."""
    return self._authenticator

  @property
  def service(self) -> service.Service:
    """The service, once it has started."""
    return self._service

  @property
  def health(self) -> Any:
    """The standard health service, once it has started."""
    return self._health

  @property
  def max_calls(self) -> int:
    """Number of calls that may be answered at a time, once it has started."""
    return self.config.queue + self._engine.max_slots + _EXTRA_CALLS

  async def start(self, warm: bool = True, listen: bool = True) -> None:
    """Listens; takes requests once everything is compiled.

    Args:
      warm: Return only then.
      listen: Whether it has ports of its own; else its calls come by
        `calls.PortlessCalls`.

    Raises:
      OSError: A port is in use.
    """
    if self.config.log_requests:
      self._request_log = request_log.RequestLog(self.config.log_requests)
      self._cleanup.callback(self._request_log.close)
    self._assemble()
    self.failed = asyncio.Event()
    self._health = health.aio.HealthServicer()  # pyright: ignore
    await self._set_serving(False)
    try:
      if listen:
        await self._listen()
    except BaseException:
      await self._cleanup.aclose()
      raise
    trimming = asyncio.create_task(memory.trim_regularly())
    self._cleanup.callback(trimming.cancel)
    self._scheduler.start()
    self.warming = asyncio.create_task(self._warm_up())
    if not warm:
      return
    try:
      await self.warming
    except BaseException:
      await self.stop()
      raise

  def _assemble(self) -> None:
    """Makes queue, engine, scheduler, registry and service."""
    config = self.config
    queue = request_queue.RequestQueue(
      config.queue, self._authenticator.several
    )
    self._engine = engine.Engine(
      self._model, config.engine, self._prompt_length
    )
    self._scheduler = scheduler.Scheduler(
      self._engine,
      queue,
      asyncio.get_running_loop(),
      self.metrics,
      config.group_ms / 1000,
      self._on_failure,
    )
    self._compiler = compiler.CompileThreads(
      asyncio.get_running_loop(), self.metrics
    )
    # Devices of a mesh wait for each other, and must run their programs in one
    # order: there one thread alone starts them.
    is_spread = sharding.mesh_of(self._model.params) is not None
    self._compile = self._scheduler.call if is_spread else self._compiler.call
    self._registry = server_codecs.CodecRegistry(
      self._allowlist,
      config.max_sessions,
      self._compile,
      self._warm_up_decoder,
    )
    self._service = service.Service(
      protocol.ServerInfo(
        self._model.config.name,
        self._encoder,
        self._decoder_checksum,
        config.prompt,
        config.engine.max_tokens,
        config.engine.max_prompt,
        self.max_message_bytes,
        config.quantizers,
        config.images,
        protocol.computation(self._model),
      ),
      self._tokenizer,
      queue,
      self._registry,
      request_cache.IdempotencyCache(*_IDEMPOTENCY),
      self.metrics,
      self._request_log,
      config.log_captions,
      config.picture_bytes,
    )
    self.metrics.watch(lambda: len(queue), lambda: len(self._registry))
    self.metrics.set_build(self._model)

  async def stop(self) -> None:
    """Refuses new requests, finishes those it has, then stops everything."""
    drain_seconds = self.config.drain_seconds
    self.metrics.set_serving(False)
    await self._health.enter_graceful_shutdown()
    if not (self._service.closed or self.failed.is_set()):
      with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(self.config.lame_duck_seconds):
          await self.failed.wait()
    self._service.closed = 'the server is being stopped'
    self.warming.cancel()
    self._compiler.stop('the server is being stopped')
    await asyncio.wait([self.warming])
    await self._wait_until_idle(drain_seconds)
    if self._service.open:
      _LOG.warning('%d requests are given up', self._service.open)
    if not await self._scheduler.stop(drain_seconds):
      _LOG.warning('a program still runs; it is left alone')
    self._engine.close()
    await self._wait_until_idle(1.0)
    # Answers are on their way by now; streams of probes never end.
    if self._grpc is not None:
      await self._grpc.stop(0.5)
    self._service.close()
    await self._cleanup.aclose()

  async def _wait_until_idle(self, seconds: float) -> None:
    """Waits for all requests to be answered, at most some seconds."""
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(seconds):
        await self._service.wait_until_idle()

  def __enter__(self) -> 'Server':
    """Serves from a thread; returns once requests are taken."""
    return self.in_thread()

  def in_thread(self, warm: bool = True) -> 'Server':
    """Serves from a thread, until `__exit__`.

    Args:
      warm: Return once requests are taken, else once it listens.
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
    """Runs a coroutine in the server's event loop, from another thread."""
    return asyncio.run_coroutine_threadsafe(work, self._loop).result()

  def _end_thread(self) -> None:
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  async def _listen(self) -> None:
    """Opens the ports of the service and of the metrics."""
    self._grpc = self._make_grpc_server()
    host, port = self.config.host, self.config.port
    address = tls.join_address(host, port)
    _check_socket_is_free(host)
    _check_port_is_free(host, port)
    try:
      if self._certificates is None:
        port = self._grpc.add_insecure_port(address)
      else:
        self._credentials = self._certificates.credentials()
        port = self._grpc.add_secure_port(address, self._credentials)
    except RuntimeError as error:
      raise OSError(
        f'port: cannot listen on {address}; is it in use, or a certificate'
        f' damaged? {error}'
      ) from error
    self.address = tls.join_address(host, port)
    if self.config.metrics_port >= 0:
      self._serve_metrics()
    await self._grpc.start()
    is_file = host.startswith('unix')
    task = asyncio.create_task(self._connections.run(0 if is_file else port))
    self._cleanup.callback(task.cancel)

  def _make_grpc_server(self) -> aio.Server:
    config = self.config
    longest = self.max_message_bytes + _OVERHEAD
    self._connections = connections.ConnectionLimiter(self.metrics)
    guard = admission.AdmissionInterceptor(
      self._authenticator,
      self._connections,
      self.metrics,
      self.max_calls,
      longest,
      config.message_seconds,
    )
    self.metrics.watch_calls(
      lambda: guard.calls.taken, lambda: guard.watches.taken
    )
    # Calls are counted by the guard: gRPC would count strangers', too.
    server = aio.server(
      interceptors=[guard], options=list(_options(longest).items())
    )
    collab_pb2_grpc.add_CaptionerServicer_to_server(self._service, server)
    health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
    names = [_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    return server

  def _serve_metrics(self) -> None:
    host, port = self.config.metrics_host, self.config.metrics_port
    try:
      web, thread = prometheus.start_http_server(
        port, host, self.metrics.registry
      )
    except OSError as error:
      address = tls.join_address(host, port)
      raise OSError(
        f'metrics_port: cannot listen on {address}: {error}; -1 for none'
      ) from error
    metrics.bound_readers(web)
    metrics.add_probes(web, lambda: self.metrics.value('serving') == 1)
    for end in (thread.join, web.server_close, web.shutdown):
      self._cleanup.push_async_callback(asyncio.to_thread, end)
    self.metrics_address = tls.join_address(host, web.server_address[1])

  async def _warm_up(self) -> None:
    """Compiles the programs of the engine and the listed codecs."""
    for job in self._engine.warm_up():
      await self._scheduler.call(job)
    for make in self._allowlist.decoder_factories([self.config.split]):
      decoder = await self._registry.add(make)
      if (decoder.shortest or 0) > self.max_message_bytes:
        _LOG.warning(
          "max_message_bytes: got %d; %s needs %d in the coding 'fixed', and"
          ' will be refused in it',
          self.max_message_bytes,
          decoder.codec.name,
          decoder.shortest,
        )
    self._service.closed = ''
    await self._set_serving(True)

  async def _warm_up_decoder(self, decoder: decoders.MessageDecoder) -> None:
    """Compiles a codec's programs, beside others' captions on one device.

    Only prefills of a new length, of which there are few, are compiled between
    their steps.
    """
    lengths = set()
    for job in decoder.warm_up(self._engine.batches):
      lengths.add(await self._compile(job))
    for length in sorted(lengths - {0}):
      for job in self._engine.warm_up_length(length):
        await self._scheduler.call(job)

  def _on_failure(self) -> None:
    """Refuses all requests, since nothing can be computed."""
    self._service.closed = 'the server has failed; its log says why'
    self.failed.set()
    self._health_task = asyncio.ensure_future(self._set_serving(False))

  async def _set_serving(self, serving: bool) -> None:
    self.metrics.set_serving(serving)
    status = health_pb2.HealthCheckResponse.ServingStatus
    for name in ('', _SERVICE):
      await self._health.set(
        name, status.SERVING if serving else status.NOT_SERVING
      )


def _options(longest: int) -> dict[str, int]:
  """Returns the settings of gRPC's connections.

  Args:
    longest: Longest request, in bytes.
  """
  return {
    'grpc.max_receive_message_length': longest,
    'grpc.max_send_message_length': longest,
    'grpc.max_concurrent_streams': 1024,
    'grpc.so_reuseport': 0,
    # A connection whose other end has gone is found out and closed.
    'grpc.keepalive_time_ms': 15_000,
    'grpc.keepalive_timeout_ms': 15_000,
    'grpc.http2.ping_timeout_ms': 15_000,
    'grpc.keepalive_permit_without_calls': 1,
    'grpc.http2.min_ping_interval_without_data_ms': 5_000,
    # One that says nothing, or has no calls, is closed; edges connect anew by
    # themselves. So is an old one: its certificate may have expired.
    'grpc.server_handshake_timeout_ms': 10_000,
    'grpc.max_connection_idle_ms': 10 * _MINUTE_MS,
    'grpc.max_connection_age_ms': 60 * _MINUTE_MS,
    'grpc.max_connection_age_grace_ms': 5 * _MINUTE_MS,
    # Messages that nobody reads yet stay with their senders.
    'grpc.http2.bdp_probe': 0,
  }


def _check_port_is_free(host: str, port: int) -> None:
  """Refuses a port that cannot be opened, before gRPC tries and complains.

  Raises:
    OSError: Another program listens there, or the port or address may not be
      used.
  """
  if host.startswith(('unix:', 'unix-abstract:')):
    return
  error = None
  for family, kind, _, _, place in _addresses(host, port):
    try:
      with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
      return  # One is enough, as it is for gRPC.
    except OSError as failure:
      error = failure
  if error is None:
    return
  if error.errno == errno.EADDRINUSE:
    raise OSError(
      f'port: got {port}, at which another program listens, expected a free one'
      ' or 0 for any; stop that program, or give another port'
    ) from error
  if error.errno == errno.EACCES:
    raise OSError(
      f'port: got {port}, expected one that this user may open, of 1024 and'
      ' above'
    ) from error
  raise OSError(
    f'host: got {host}, expected an address of this machine ({error.strerror})'
  ) from error


def _addresses(host: str, port: int) -> list[Any]:
  """Returns the addresses of a host; none where gRPC shall say why."""
  try:
    return socket.getaddrinfo(
      host.strip('[]'), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
  except (OSError, UnicodeError):
    return []


def _check_socket_is_free(host: str) -> None:
  """Refuses the file of a Unix socket on which another server listens.

  gRPC removes such a file and makes it anew, so that nobody would reach the
  other server again, though it runs.

  Raises:
    OSError: A connection to it is accepted.
  """
  if not host.startswith('unix:'):
    return
  with socket.socket(socket.AF_UNIX) as probe:
    probe.setblocking(False)
    try:
      probe.connect(host.removeprefix('unix:').removeprefix('//'))
    except BlockingIOError:  # A server with many callers waiting.
      pass
    except OSError:  # No such file, or one that a killed server left behind.
      return
  raise OSError(
    f'port: got {host}, on which another server listens, expected a socket of '
    'its own; stop that server, or take another path'
  )
