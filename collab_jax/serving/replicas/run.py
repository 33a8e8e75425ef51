"""Runs replicas as a program: signals, and lines on standard output."""

import asyncio
from collections.abc import Mapping
import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import signal
import socket
import sys
import time
from typing import Any

from collab_jax import __version__, _output, _ray_address, _validate
from collab_jax.serving import tls
from collab_jax.serving.client import channel, server_state
from collab_jax.serving.replicas import ingress
from collab_jax.serving.server import loading
from collab_jax.serving.server.config import ServerConfig

# Name of the application.
NAME = 'collab_jax'

_LOG = logging.getLogger(__name__)
_SIGNALS = signal.SIGTERM, signal.SIGINT
_EVERYWHERE = '0.0.0.0', '::', '[::]'
# Seconds in which Ray's ingress opens its port.
_OPENING = 30.0


@dataclasses.dataclass(frozen=True)
class ReplicaConfig:
  """Settings of a set of replicas.

      ReplicaConfig(replicas=2, resources='CPU=1')

  Attributes:
    replicas: Number of replicas.
    address: Address of a Ray cluster, as of `ray.init`; '' starts one on this
      machine, which ends with the program.
    resources: Ray's resources of a replica, with ',' between them.
  """

  replicas: int = 1
  address: str = ''
  resources: str = 'CPU=1'

  def __post_init__(self):
    """Raises ValueError for settings out of range."""
    _validate.integer('replicas', self.replicas)
    self.amounts()

  def amounts(self) -> dict[str, float]:
    """Returns the amount of each resource.

    Raises:
      ValueError: The text is no list of amounts.
    """
    amounts = {}
    for entry in filter(None, map(str.strip, self.resources.split(','))):
      name, _, amount = entry.partition('=')
      try:
        amounts[name.strip()] = float(amount)
      except ValueError:
        amounts[name.strip()] = -1.0
      if not name.strip() or not 0 <= amounts[name.strip()] < math.inf:
        raise ValueError(
          f'replica_resources: got {self.resources!r}, expected amounts as in'
          " 'CPU=1,GPU=1'"
        )
    return amounts


def check(arguments: loading.ServerArguments) -> None:
  """Checks that Ray's ingress can serve as the operator has said.

  It has no TLS, and listens at all addresses: calls of other machines are
  refused one by one, unless the operator lets them in.

  Args:
    arguments: The server's arguments.

  Raises:
    ValueError: It cannot.
    ImportError: Ray is not installed.
  """
  if importlib.util.find_spec('ray') is None:
    raise ImportError(
      "engine: 'ray' needs the extra 'ray': pip install"
      " 'collab_jax[ray,serving]'"
    )
  config = arguments.config
  if config.log_requests == '-':
    raise ValueError(
      "log_requests: got '-' with --engine=ray, expected a file: standard"
      ' output of replicas is in the logs of Ray'
    )
  if config.security.cert:
    raise ValueError(
      'tls_cert: got a certificate with --engine=ray, whose ingress has no TLS,'
      ' expected none; end TLS in a proxy in front (docs/serving.md)'
    )
  if not tls.is_loopback(config.host) and config.host not in _EVERYWHERE:
    raise ValueError(
      f'host: got {config.host!r}, expected 127.0.0.1 for this machine alone,'
      " or 0.0.0.0: Ray's ingress listens at all addresses"
    )


def make_application(
  arguments: loading.ServerArguments, config: ReplicaConfig
) -> Any:
  """Makes Ray Serve's application, for `ray.serve.run` and its configurations.

  Args:
    arguments: The server's arguments, by which each replica makes its own.
    config: Settings of the set; its address is not used.

  Returns:
    The application.

  Raises:
    ValueError: Ray's ingress cannot serve so.
    ImportError: Ray is not installed.
  """
  check(arguments)
  from collab_jax.serving.replicas import deployment

  return deployment.bind(arguments, config.replicas, config.amounts())


def serve_replicas(
  arguments: loading.ServerArguments, config: ReplicaConfig
) -> None:
  """Serves by replicas until SIGTERM or SIGINT; SIGHUP restarts them in turn.

  Args:
    arguments: The server's arguments, by which each replica makes its own.
    config: Settings of the set.

  Raises:
    ValueError: The settings do not go together.
    ImportError: Ray is not installed.
    OSError: The cluster cannot be reached, or no replica starts.
  """
  check(arguments)
  arguments = _with_ports(arguments)
  if not config.address:
    _check_ports_are_free(arguments.config)
  replicas = _ReplicaSet(arguments, config)
  replicas.start()
  asyncio.run(_run(replicas, arguments.config))


async def _run(replicas: '_ReplicaSet', served: ServerConfig) -> None:
  stop_requested = asyncio.Event()
  restarts: asyncio.Queue[None] = asyncio.Queue()
  loop = asyncio.get_running_loop()

  def stop(signum):
    _LOG.warning('%s: stopping; a second one ends it at once', signum.name)
    for handled in _SIGNALS:
      loop.remove_signal_handler(handled)
    stop_requested.set()

  for signum in _SIGNALS:
    loop.add_signal_handler(signum, stop, signum)
  loop.add_signal_handler(signal.SIGHUP, restarts.put_nowait, None)
  stopping = asyncio.create_task(stop_requested.wait())
  working = asyncio.create_task(_work(replicas, served, restarts))
  try:
    await asyncio.wait([stopping, working], return_when=asyncio.FIRST_COMPLETED)
    if working.done():
      working.result()
  finally:
    stopping.cancel()
    working.cancel()
    await asyncio.to_thread(replicas.stop)
  _output.announce('stopped')


async def _work(
  replicas: '_ReplicaSet', served: ServerConfig, restarts: asyncio.Queue
) -> None:
  """Starts the replicas; restarts them in turn whenever that is asked for."""
  address = tls.join_address(served.host, served.port)
  print(*replicas.headline(), sep='\n', file=sys.stderr, flush=True)
  _output.announce(f'listening on {address}')
  if served.metrics_port >= 0:
    address = tls.join_address(served.metrics_host, served.metrics_port)
    _output.announce(f'metrics on http://{address}/metrics')
  await asyncio.to_thread(replicas.deploy)
  await asyncio.to_thread(replicas.check_port)
  _output.announce('serving')
  while True:
    await restarts.get()
    while not restarts.empty():  # One restart is enough for all.
      restarts.get_nowait()
    _output.announce('restarting')
    try:
      await asyncio.to_thread(replicas.deploy)
    except OSError as error:  # The old ones go on.
      _LOG.error('%s', error)
    else:
      _output.announce('restarted')


class _ReplicaSet:
  """Ray Serve's application on a cluster."""

  def __init__(self, arguments: loading.ServerArguments, config: ReplicaConfig):
    self._arguments = arguments
    self._config = config

  def start(self) -> None:
    """Connects to the cluster, or starts one; then Serve on it.

    Raises:
      OSError: The cluster cannot be reached.
    """
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    # A call after the end must not find, or start, another cluster.
    os.environ['RAY_ENABLE_AUTO_CONNECT'] = '0'
    # By itself Ray gives its workers the lowest priority on their machine.
    os.environ.setdefault('RAY_worker_niceness', '0')
    import ray  # pyright: ignore[reportMissingImports]
    from ray import serve  # pyright: ignore[reportMissingImports]
    from ray.serve import (  # pyright: ignore[reportMissingImports]
      config as serve_config,
    )
    from ray.serve import schema  # pyright: ignore[reportMissingImports]

    self._ray, self._serve = ray, serve
    logging.getLogger('ray.serve').setLevel(logging.WARNING)
    settings: dict[str, Any] = {'address': self._config.address}
    if not self._config.address:
      cpus = self._config.replicas * self._config.amounts().get('CPU', 0)
      settings = {
        'address': 'local',
        'num_cpus': max(os.cpu_count() or 1, math.ceil(cpus)),
        'include_dashboard': False,
      }
    try:
      _ray_address.probe(self._config.address)
      context = ray.init(
        namespace='serve',
        logging_level='ERROR',
        log_to_driver=False,
        **settings,
      )
    except ConnectionError as error:
      raise OSError(
        f'address: got {self._config.address!r}, expected that of a running Ray'
        f' cluster, and RAY_AUTH_MODE=token where it asks for one: {error}'
      ) from error
    self._warn_of_few_resources()
    self._logs = f'{context.address_info["session_dir"]}/logs'
    served = self._arguments.config
    self._logging = schema.LoggingConfig(
      log_level='ERROR', enable_access_log=False
    )
    serve.start(
      http_options=serve_config.HTTPOptions(
        host=served.metrics_host,
        # Ray's ingress has one, whether it is used or not.
        port=served.metrics_port if served.metrics_port >= 0 else _free_port(),
      ),
      grpc_options=serve_config.gRPCOptions(
        port=served.port,
        grpc_servicer_functions=[ingress.PATH],
        enable_reflection=False,
      ),
      logging_config=self._logging,
    )
    logging.getLogger('ray.serve').setLevel(logging.WARNING)

  def _warn_of_few_resources(self) -> None:
    """Says that Ray will wait for more machines."""
    cluster = self._ray.cluster_resources()
    for name, amount in self._config.amounts().items():
      needed = amount * self._config.replicas
      if needed > cluster.get(name, 0):
        _LOG.warning(
          'replicas: %d of %s need %s=%g, the cluster has %g: waiting for more',
          self._config.replicas,
          self._config.resources,
          name,
          needed,
          cluster.get(name, 0),
        )

  def headline(self) -> list[str]:
    """Returns lines that say what is served, and where its logs are."""
    arguments, config = self._arguments, self._config
    where = config.address or 'on this machine'
    texts = {
      'version': f'collab_jax {__version__}, ray {self._ray.__version__}',
      'model': arguments.model,
      'replicas': f'{config.replicas}, {config.resources} each, {where}',
      'logs': self._logs,
    }
    return [f'{name:12}{text}' for name, text in texts.items()]

  def deploy(self) -> None:
    """Starts the replicas, or restarts them in turn; returns when all serve.

    Raises:
      OSError: They do not start.
    """
    application = make_application(self._arguments, self._config)
    shows_metrics = self._arguments.config.metrics_port >= 0
    try:
      self._serve.run(
        application,
        name=NAME,
        route_prefix='/' if shows_metrics else None,
        logging_config=self._logging,
      )
    except RuntimeError as error:
      raise OSError(
        f'replicas: got none that starts, expected {self._config.replicas}:'
        f' {self._reason(error)}'
      ) from error

  def _reason(self, error: Exception) -> str:
    """Returns the last line of what ended a replica, else of an error."""
    texts = [str(error)]
    # The error names the deployment alone; the status has the replica's own.
    if application := self._serve.status().applications.get(NAME):
      texts += [each.message for each in application.deployments.values()]
    lines = '\n'.join(texts).strip().splitlines()
    return lines[-1] if lines else repr(error)

  def check_port(self) -> None:
    """Raises OSError unless the ingress of this machine answers a probe."""
    if self._config.address:
      return
    port = self._arguments.config.port
    connection = channel.Connection(f'127.0.0.1:{port}')
    try:
      deadline = time.monotonic() + _OPENING
      while trouble := server_state.check_health(connection, 2.0):
        if time.monotonic() > deadline:
          raise OSError(f'port: got no answer at {port}: {trouble}')
        time.sleep(0.2)
    finally:
      connection.close()

  def stop(self) -> None:
    """Lets the replicas finish what they have, and leaves the cluster."""
    with contextlib.suppress(Exception):
      self._serve.delete(NAME)
    # A cluster of its own ends with it.
    self._ray.shutdown()


def _with_ports(arguments: loading.ServerArguments) -> loading.ServerArguments:
  """Replaces ports that may be any by free ones: Ray must be told."""
  config = arguments.config
  changes: Mapping[str, int] = {
    'port': config.port or _free_port(),
    'metrics_port': config.metrics_port or _free_port(),
  }
  return dataclasses.replace(
    arguments, config=dataclasses.replace(config, **changes)
  )


def _check_ports_are_free(config: ServerConfig) -> None:
  """Refuses a port that another program has: Ray would wait for it.

  Raises:
    OSError: A port is in use.
  """
  for name in ('port', 'metrics_port'):
    port = getattr(config, name)
    if port < 0:
      continue
    with socket.socket() as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(('127.0.0.1', port))
      except OSError as error:
        raise OSError(
          f'{name}: got {port}, expected one that is free: {error.strerror}'
        ) from error


def _free_port() -> int:
  """Returns a TCP port that no program has now."""
  with socket.socket() as bound:
    bound.bind(('127.0.0.1', 0))
    return bound.getsockname()[1]
