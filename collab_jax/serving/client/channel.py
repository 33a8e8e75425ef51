"""The edge's end of the link: a channel, who may use it, and trying again."""

import dataclasses
import logging
import os
from pathlib import Path
import random
import time

import grpc

from collab_jax.serving import collab_pb2_grpc
from collab_jax.serving.client import diagnosis
from collab_jax.serving.server import security

_LOG = logging.getLogger(__name__)
_QUIET = 10.0  # Seconds between two lines about the same server.

# The code of a session that the server does not take.
REFUSED = grpc.StatusCode.FAILED_PRECONDITION.name

# What passes by itself: the server starts, drains or is full.
_TRANSIENT = (
  grpc.StatusCode.UNAVAILABLE,
  grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# gRPC gives these codes to what will not pass, too.
_PERMANENT = (
  'larger than max',
  'CERTIFICATE_VERIFY_FAILED',
  'WRONG_VERSION_NUMBER',
  'verification check failed',
  'certificate required',
  'DNS resolution failed',
  'NO_COMMON_SIGNATURE_ALGORITHMS',
)
# What to do about those, where gRPC's words are not enough.
_HINTS = {
  'WRONG_VERSION_NUMBER': 'the server speaks no TLS: leave ca out',
  'CERTIFICATE_VERIFY_FAILED': (
    "the server's certificate is not of the authority in ca, or has expired"
  ),
  'verification check failed': (
    "the server's certificate has another name: give server_name"
  ),
}
_PROBE = 2.0  # Seconds.
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


class RemoteError(OSError):
  """What the server said instead of a caption, or that nobody answered.

  Attributes:
    code: Name of the gRPC status code.
  """

  def __init__(self, code: str, text: str):
    super().__init__(f'{text} ({code})')
    self.code = code


@dataclasses.dataclass(frozen=True)
class Backoff:
  """Waits between tries: twice as long each time, less a random part.

  Without that part, all edges would come back to a server that was restarted
  at the same moment.

  Attributes:
    first: Seconds of the first wait, at most.
    most: Seconds of any wait, at most.
  """

  first: float = 0.1
  most: float = 3.0

  def __post_init__(self):
    if not 0 < self.first <= self.most:
      raise ValueError(
        f'first, most: got {self.first} and {self.most} seconds, expected'
        ' 0 < first <= most'
      )

  def wait(self, failures: int, draw: float) -> float:
    """Seconds to wait.

    Args:
      failures: Tries in a row that failed, at least 1.
      draw: A random number in [0, 1).

    Returns:
      Half to all of first * 2^(failures - 1), or of `most` if that is less.
    """
    longest = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
    return longest * (1 - draw / 2)


class Connection:
  """A channel to a server, for any number of threads and codecs.

  Attributes:
    target: The server's host and port.
    timeout: Seconds that a request may take, with all of its tries.
    stub: The service, each call one try.
    metadata: What every call carries.
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
    backoff: Backoff = Backoff(),
  ):
    """Opens a channel; nothing is sent yet.

    Args:
      target: 'HOST:PORT'.
      token: What the server's token file holds, if it asks for one.
      ca: PEM file of who signed the server's certificate, or 'system' for
        those that this machine trusts; None does without TLS.
      cert: PEM file of the edge's own certificate, if the server asks for it.
      key: PEM file of its private key.
      server_name: The name in the server's certificate, if it is not the
        host's.
      insecure: Do without TLS to other machines, too.
      timeout: Seconds that a request may take, with all of its tries.
      backoff: The waits between tries.

    Raises:
      ValueError: These do not go together, a file holds something else, or
        another machine would be reached without TLS.
      OSError: A file cannot be read.
    """
    host, port = _place(target)
    if not timeout > 0:
      raise ValueError(f'timeout: got {timeout} s, expected more than 0')
    if (cert is None) != (key is None):
      raise ValueError('cert and key: one is missing, expected both or neither')
    if cert is not None and ca is None:
      raise ValueError('cert: is given without ca, expected both, for mTLS')
    if ca is None and not (insecure or security.is_loopback(host)):
      raise ValueError(
        f'{target} is another machine: what is sent, the token too, could be'
        ' read on the way; give ca for TLS, or insecure if that is meant'
      )
    self.target = target
    self.timeout = timeout
    self.metadata = (('authorization', f'Bearer {token}'),) if token else ()
    self._backoff = backoff
    self._where, self._cert, self._key = (host, port), cert, key
    self._tls = ca is not None
    self._random = random.Random(os.urandom(8))
    self._complained = -_QUIET
    options: list[tuple[str, int | str]] = list(_OPTIONS)
    if ca is None:
      self._channel = grpc.insecure_channel(target, options)
    else:
      if server_name:
        options.append(('grpc.ssl_target_name_override', server_name))
      security.check_files(cert, key, None if ca == 'system' else ca)
      if key is not None:
        security.warn_if_open(key)
      credentials = grpc.ssl_channel_credentials(
        None if ca == 'system' else Path(ca).read_bytes(),
        Path(key).read_bytes() if key is not None else None,
        Path(cert).read_bytes() if cert is not None else None,
      )
      self._channel = grpc.secure_channel(target, credentials, options)
    self.stub = collab_pb2_grpc.CaptionerStub(self._channel)

  def attempts(self) -> 'RetryLoop':
    """Starts the clock of a request."""
    return RetryLoop(self)

  def wait(self, failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return self._backoff.wait(failures, self._random.random())

  def complain(self, text: str) -> None:
    """Logs that the server is away: of many requests, once in a while."""
    now = time.monotonic()
    if now - self._complained > _QUIET:
      self._complained = now
      _LOG.warning('%s: %s; trying again', self.target, text)

  def why(self, text: str, seconds: float) -> str:
    """Finds out what will not pass by itself.

    Args:
      text: Of a status that may pass.
      seconds: How long that may take.

    Returns:
      A sentence; '' if nothing is known, or the server is just away.
    """
    host, port = self._where
    if not port or not all(words in text for words in diagnosis.CLOSED):
      return ''
    return diagnosis.diagnose_closed_connection(
      host,
      port,
      min(seconds, _PROBE),
      tls=self._tls,
      cert=self._cert,
      key=self._key,
    )

  def close(self) -> None:
    """Closes the channel; what is in flight ends with an error."""
    self._channel.close()


class RetryLoop:
  """The tries of one request, all within the connection's time limit.

  Attributes:
    tries: Which try this is, from 1.
  """

  def __init__(self, link: Connection):
    """Starts the clock."""
    self.tries = 1
    self._link = link
    self._why = ''
    self._end = time.monotonic() + link.timeout

  def left(self) -> float:
    """Seconds that this try may take."""
    return max(self._end - time.monotonic(), 1e-3)

  def failed(self, error: grpc.RpcError) -> None:
    """Waits for the next try.

    Args:
      error: What became of this one.

    Raises:
      RemoteError: It will not pass, or time is up.
    """
    code, text = status(error)
    if passes(code, text):
      why = self._link.why(text, self.left())
      if why:
        raise RemoteError(code.name, f'{self._link.target}: {why}') from error
    else:
      if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        # Why it was tried again says more than that time ran out.
        text = self._late(self._why or text)
      hints = [hint for words, hint in _HINTS.items() if words in text]
      text = f'{hints[0]}: {text}' if hints else text
      raise RemoteError(code.name, f'{self._link.target}: {text}') from error
    self._again(code.name, text, error)

  def ended(self) -> None:
    """Like `failed`, where an answer stopped without an error."""
    self._again('UNAVAILABLE', 'the answer ended before the caption did', None)

  def _again(self, code: str, text: str, error: Exception | None) -> None:
    wait = self._link.wait(self.tries)
    if time.monotonic() + wait >= self._end:
      text = f'{self._link.target}: {self._late(text)}'
      raise RemoteError(code, text) from error
    self._why = text
    self._link.complain(f'{text} ({code})')
    time.sleep(wait)
    self.tries += 1

  def _late(self, text: str) -> str:
    plural = 's' if self.tries > 1 else ''
    return (
      f'no answer within {self._link.timeout:g} s, {self.tries} time{plural}'
      f' tried; the last time: {text}'
    )


def read_token(path: str | os.PathLike[str] | None) -> str | None:
  """Reads a token file; None for no path.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It holds no token, several, or one that no header can hold.
  """
  if path is None:
    return None
  lines = security.words(path)
  if len(lines) != 1:
    raise ValueError(
      f'token_file: {os.fspath(path)} has {len(lines)} words, expected one:'
      ' the token of this edge'
    )
  return lines[0]


def status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
  """Code and text of an error; every one that a call raises has both."""
  code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
  text = error.details()  # pyright: ignore[reportAttributeAccessIssue]
  return code, text or 'no reason given'


def passes(code: grpc.StatusCode, text: str) -> bool:
  """Whether the same request may work in a moment."""
  return code in _TRANSIENT and not any(words in text for words in _PERMANENT)


def _place(target: str) -> tuple[str, int]:
  """The host and the port of a target; 0 for a socket that has none."""
  if target.startswith(('unix:', 'unix-abstract:')):
    return target, 0
  host, colon, port = target.rpartition(':')
  scheme = host.partition(':')[0]
  bare = host
  if scheme in ('dns', 'ipv4', 'ipv6'):
    bare = host[len(scheme) + 1 :].lstrip('/')
  known = bare and '/' not in bare and port.isdecimal() and port.isascii()
  if not (colon and known and 0 < int(port) < 1 << 16):
    raise ValueError(
      f"server: got {target!r}, expected HOST:PORT, as in 'localhost:50051'"
    )
  return bare, int(port)
