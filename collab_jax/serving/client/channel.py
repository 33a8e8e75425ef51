"""The edge's connection: channel, credentials, diagnosis."""

import logging
import math
import os
from pathlib import Path
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2_grpc

from collab_jax import _renamed
from collab_jax.serving import collab_pb2_grpc, tls
from collab_jax.serving.client import retry

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

_LOG = logging.getLogger(__name__)
_WARN_INTERVAL = 10.0  # Seconds between two warnings about the same server.

_BACKOFF = retry.Backoff()
_PROBE_SECONDS = 2.0
# gRPC's texts where a connection was made, and closed before it was of use: by
# a server that wants another kind, or by one that is just going away. The text
# is of the address that was tried last: of `localhost` it may be the other one,
# at which nobody listens.
_FAILED = 'failed to connect'
_CLOSED = 'Socket closed', 'Connection refused', 'Unwrap failed'
# Captions are short; a peer that is gone must be noticed within a deadline.
# gRPC's own waits before it connects again are 1 s to 2 minutes.
_OPTIONS = (
  ('grpc.keepalive_time_ms', 10_000),
  ('grpc.keepalive_timeout_ms', 15_000),
  # gRPC keeps to this one; its own is a minute. A ping may have to wait for a
  # message in front of it: 90 kB on a link of 50 kbps.
  ('grpc.http2.ping_timeout_ms', 15_000),
  ('grpc.initial_reconnect_backoff_ms', 100),
  ('grpc.max_reconnect_backoff_ms', 2_000),
  ('grpc.min_reconnect_backoff_ms', 5_000),
  ('grpc.max_receive_message_length', 1 << 20),
)


class Connection:
  """A channel to a server, for any number of threads and codecs.

      Connection('example.org:50051', ca='ca.pem', token='...')

  Attributes:
    target: Host and port of the server.
    timeout: Seconds that a request may take, with all of its tries.
    stub: The service; each call is one try.
    health: The standard health service.
    metadata: Metadata of every call.
  """

  def __init__(
    self,
    target: str,
    *,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    server_name: str | None = None,
    insecure: bool = False,
    timeout: float = 30.0,
    backoff: retry.Backoff = _BACKOFF,
  ):
    """Opens a channel; nothing is sent yet.

    Args:
      target: 'HOST:PORT'.
      token: A token of the server's token file, if it has one.
      ca: PEM file of the authority of the server's certificate, or 'system'
        for those that this machine trusts; None does without TLS.
      cert: PEM file of the edge's certificate, if the server asks for it.
      key: PEM file of its private key.
      server_name: Name in the server's certificate, if it is not the host's.
      insecure: Do without TLS to other machines, too.
      timeout: Seconds that a request may take, with all of its tries.
      backoff: The waits between tries.

    Raises:
      ValueError: The settings do not go together, a file holds something
        else, or another machine would be reached without TLS.
      OSError: A file cannot be read.
    """
    host, port = _parse_target(target)
    if not 0 < timeout < math.inf:
      raise ValueError(
        f'timeout: got {timeout} s, expected more than 0, and no endless time'
      )
    if (cert is None) != (key is None):
      raise ValueError('cert and key: one is missing, expected both or neither')
    if cert is not None and ca is None:
      raise ValueError('cert: is given without ca, expected both, for mTLS')
    if ca is None and not (insecure or tls.is_loopback(host)):
      raise ValueError(
        f'{target} is another machine: what is sent, the token too, could be'
        ' read on the way; give ca for TLS, or insecure if that is meant'
      )
    logging.getLogger('grpc._common').addFilter(_drop_traceback)
    self.target = target
    self.timeout = timeout
    self.metadata = (('authorization', f'Bearer {token}'),) if token else ()
    self._backoff = backoff
    self._address, self._cert, self._key = (host, port), cert, key
    self._tls = ca is not None
    self._last_warning = -_WARN_INTERVAL
    options = [*_OPTIONS]
    # No proxy of the environment leads back to this machine.
    if tls.is_loopback(host):
      options.append(('grpc.enable_http_proxy', 0))
    if ca is None:
      self._channel = grpc.insecure_channel(target, options)
    else:
      files = ca, cert, key
      self._channel = _secure_channel(target, *files, server_name, options)
    self.stub = collab_pb2_grpc.CaptionerStub(self._channel)
    self.health: Any = health_pb2_grpc.HealthStub(self._channel)

  def start_retries(self) -> retry.RetryLoop:
    """Starts the time limit of a request."""
    return retry.RetryLoop(
      self.target,
      self.timeout,
      self._backoff,
      diagnose=self.diagnose,
      warn=self.warn_unavailable,
    )

  def warn_unavailable(self, text: str) -> None:
    """Logs that the server is away: of many requests, once in a while."""
    now = time.monotonic()
    if now - self._last_warning > _WARN_INTERVAL:
      self._last_warning = now
      _LOG.warning('%s: %s; trying again', self.target, text)

  def diagnose(self, text: str, seconds: float) -> str:
    """Finds a lasting reason for a failure that looks transient.

    Args:
      text: Text of the status.
      seconds: Time that this may take.

    Returns:
      A sentence; '' if no reason is found, or the server is just away.
    """
    host, port = self._address
    closed = _FAILED in text and any(words in text for words in _CLOSED)
    if not port or not closed:
      return ''
    return diagnose_closed_connection(
      host,
      port,
      min(seconds, _PROBE_SECONDS),
      tls=self._tls,
      cert=self._cert,
      key=self._key,
    )

  def close(self) -> None:
    """Closes the channel; what is in flight ends with an error."""
    self._channel.close()


def read_token(path: str | os.PathLike[str] | None) -> str | None:
  """Reads a token file; None for no path.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: The file holds no token, several, or one that no header can
      hold.
  """
  if path is None:
    return None
  tokens = tls.read_tokens(path)
  if len(tokens) != 1:
    raise ValueError(
      f'token_file: {os.fspath(path)} has {len(tokens)} words, expected one:'
      ' the token of this edge'
    )
  return tokens[0]


def _drop_traceback(record: logging.LogRecord) -> bool:
  """Keeps gRPC's line about a reply that cannot be parsed to one line."""
  record.exc_info = None
  return True


def _secure_channel(
  target, ca, cert, key, server_name, options
) -> grpc.Channel:
  """Opens a TLS channel; see `Connection`."""
  if server_name:
    options = [*options, ('grpc.ssl_target_name_override', server_name)]
  tls.check_files(cert, key, None if ca == 'system' else ca)
  if key is not None:
    tls.warn_if_world_readable(key)
  credentials = grpc.ssl_channel_credentials(
    None if ca == 'system' else Path(ca).read_bytes(),
    Path(key).read_bytes() if key is not None else None,
    Path(cert).read_bytes() if cert is not None else None,
  )
  return grpc.secure_channel(target, credentials, options)


def _parse_target(target: str) -> tuple[str, int]:
  """Returns host and port of a target; port 0 for a socket that has none."""
  if target.startswith(('unix:', 'unix-abstract:')):
    return target, 0
  host, colon, port = target.rpartition(':')
  scheme = host.partition(':')[0]
  bare = host
  if scheme in ('dns', 'ipv4', 'ipv6'):
    bare = host[len(scheme) + 1 :].lstrip('/')
  is_host_port = (
    bare and '/' not in bare and port.isdecimal() and port.isascii()
  )
  if not (colon and is_host_port and 0 < int(port) < 1 << 16):
    raise ValueError(
      f"server: got {target!r}, expected HOST:PORT, as in 'localhost:50051'"
    )
  return bare, int(port)


def diagnose_closed_connection(
  host: str,
  port: int,
  seconds: float,
  *,
  tls: bool,
  cert: str | os.PathLike[str] | None = None,
  key: str | os.PathLike[str] | None = None,
) -> str:
  """Finds out why a server closes connections at once, by making one.

  Args:
    host: Name or address.
    port: TCP port.
    seconds: Time that this may take.
    tls: Whether the closed connections were TLS.
    cert: The edge's certificate, PEM.
    key: Its private key, PEM.

  Returns:
    A sentence; '' if no reason is found.
  """
  pair = (cert, key) if tls else None
  if not tls:
    probe = _probe(host, port, seconds, None, pair)
    return 'the server speaks TLS: give ca' if probe.handshake else ''
  tls13 = _probe(host, port, seconds, ssl.TLSVersion.TLSv1_3, pair)
  if not tls13.handshake or tls13.open:
    return ''
  # The edge's certificate is checked after the handshake of TLS 1.3, and within
  # that of TLS 1.2. A proxy that has lost its server ends both.
  tls12 = _probe(host, port, seconds, ssl.TLSVersion.TLSv1_2, pair)
  return '' if tls12.handshake or tls12.unknown else _certificate_advice(cert)


class _Probe(NamedTuple):
  """Result of a test connection.

  Attributes:
    handshake: Whether the TLS handshake was completed.
    open: Whether the server then sent something, or waited.
    unknown: Whether it has another version of TLS, or cannot be reached.
  """

  handshake: bool = False
  open: bool = False
  unknown: bool = False


def _probe(host, port, seconds, version, pair) -> _Probe:
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
  # Nothing is sent: the real connections have checked the server's identity.
  context.check_hostname = False
  context.verify_mode = ssl.CERT_NONE
  if version is not None:
    context.minimum_version = context.maximum_version = version
  context.set_alpn_protocols(['h2'])
  bare, handshake = host.strip('[]'), False
  try:
    if pair and None not in pair:
      context.load_cert_chain(*pair)
    with (
      socket.create_connection((bare, port), timeout=seconds) as raw,
      context.wrap_socket(raw, server_hostname=bare) as secured,
    ):
      handshake = True
      return _Probe(True, bool(secured.recv(1)))
  except TimeoutError:
    return _Probe(handshake, True, not handshake)
  except ssl.SSLError as error:
    return _Probe(handshake, False, 'VERSION' in (error.reason or ''))
  except ConnectionResetError:
    return _Probe(handshake)
  except OSError:
    return _Probe(handshake, False, True)


def _certificate_advice(cert: str | os.PathLike[str] | None) -> str:
  if cert is None:
    return (
      'the server closes connections without a certificate of the edge: give'
      ' cert and key'
    )
  return (
    f"the server does not accept the edge's certificate {os.fspath(cert)}: it"
    ' has expired, or is of another authority'
  )
