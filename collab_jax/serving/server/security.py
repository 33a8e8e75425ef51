"""Who may talk to the server: TLS, certificates of clients, tokens."""

from collections.abc import Sequence
import dataclasses
import hmac
import ipaddress
import logging
import os
from pathlib import Path
import re
import ssl
import stat

import grpc
from grpc import aio

from collab_jax.serving.server import (
  interceptors,
  metrics,
)

_LOG = logging.getLogger(__name__)

# A token that is shorter can be guessed.
_SHORTEST = 16
_BLOCK = re.compile(
  '-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----', re.DOTALL
)
# Object identifiers of Ed25519 and Ed448, as DER has them.
_EDWARDS = b'\x06\x03\x2b\x65\x70', b'\x06\x03\x2b\x65\x71'
# The standard health service, which probes ask without a token.
_OPEN = '/grpc.health.v1.Health/'


@dataclasses.dataclass(frozen=True)
class Security:
  """How the server tells whom it talks to.

  Attributes:
    cert: The server's certificate and those above it, PEM; '' without TLS.
    key: Its private key, PEM.
    client_ca: Certificates, PEM, of which each client needs one below; '' for
      none.
    token_file: Tokens, a line each, of which every call needs one; '' for none.
    insecure: Whether to serve the network without all that.
  """

  cert: str = ''
  key: str = ''
  client_ca: str = ''
  token_file: str = ''
  insecure: bool = False

  def __post_init__(self):
    """Raises ValueError where something is missing."""
    if bool(self.cert) != bool(self.key):
      raise ValueError(
        f'tls_cert, tls_key: got {self.cert!r} and {self.key!r}, expected both'
        ' or neither'
      )
    if self.client_ca and not self.cert:
      raise ValueError('client_ca: needs tls_cert and tls_key')

  def check(self, host: str) -> None:
    """Checks that a server may listen there.

    Args:
      host: Name or address.

    Raises:
      ValueError: Others than this machine could use it, and it does not tell
        who they are.
    """
    safe = self.cert and (self.token_file or self.client_ca)
    if is_loopback(host) or safe or self.insecure:
      return
    raise ValueError(
      f'host: {host} is open to the network; give --tls_cert and --tls_key, and'
      ' --token_file or --client_ca. To serve anybody who can reach it, in'
      ' clear text or without a token, say --insecure'
    )

  def credentials(self) -> grpc.ServerCredentials | None:
    """Returns what a port needs for TLS, or None.

    Raises:
      ValueError: A file holds something else.
      OSError: A file cannot be read.
    """
    if not self.cert:
      return None
    names = 'tls_cert, tls_key', 'client_ca'
    check_files(self.cert, self.key, self.client_ca, names)
    warn_if_open(self.key)
    pair = Path(self.key).read_bytes(), Path(self.cert).read_bytes()
    ca = Path(self.client_ca).read_bytes() if self.client_ca else None
    return grpc.ssl_server_credentials([pair], ca, ca is not None)

  def tokens(self) -> list[bytes]:
    """Reads the tokens.

    Raises:
      ValueError: There is none, one that can be guessed, or one that no header
        can hold.
      OSError: The file cannot be read.
    """
    if not self.token_file:
      return []
    lines = words(self.token_file)
    if not lines or min(map(len, lines)) < _SHORTEST:
      raise ValueError(
        f'token_file: {self.token_file} must hold tokens of at least'
        f' {_SHORTEST} letters, a line each; make one by `openssl rand -hex 32`'
      )
    return [line.encode() for line in lines]


def check_files(
  cert: str | os.PathLike[str] | None,
  key: str | os.PathLike[str] | None,
  ca: str | os.PathLike[str] | None,
  names: tuple[str, str] = ('cert, key', 'ca'),
) -> None:
  """Checks files for TLS, which gRPC does not tell from a server that is away.

  Args:
    cert: A certificate and those above it, PEM; None or '' for none.
    key: Its private key, PEM.
    ca: Certificates of authorities, PEM; None or '' for none.
    names: What the first two and the last one are called.

  Raises:
    ValueError: They hold something else, or do not belong together.
    OSError: One cannot be read.
  """
  if cert:
    _certificates(cert, names[0])
    Path(key or '').read_bytes()
    try:
      _context().load_cert_chain(cert, key, password=str)
    except ssl.SSLError as error:
      raise ValueError(
        f'{names[0]}: got {key}, expected the private key of {cert}, PEM,'
        ' without a password'
      ) from error
  if ca:
    _certificates(ca, names[1])


def _certificates(path, name):
  """Raises ValueError unless a file holds certificates that gRPC can use."""
  context = _context()
  data = Path(path).read_bytes()
  try:
    context.load_verify_locations(path)
  except ssl.SSLError as error:
    raise ValueError(
      f'{name}: got {path}, expected certificates in PEM'
    ) from error
  if not context.cert_store_stats()['x509']:
    raise ValueError(f'{name}: {path} holds no certificate, in PEM')
  blocks = _BLOCK.findall(data.decode('latin-1'))
  der = map(ssl.PEM_cert_to_DER_cert, blocks)
  if any(curve in one for one in der for curve in _EDWARDS):
    raise ValueError(
      f'{name}: {path} has a key on an Edwards curve, expected RSA or ECDSA:'
      " gRPC's TLS does not take others"
    )


def _context() -> ssl.SSLContext:
  return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def words(path: str | os.PathLike[str]) -> list[str]:
  """Reads a token file.

  Args:
    path: The file.

  Returns:
    The tokens, which may be none.

  Raises:
    ValueError: One is not of ASCII letters.
    OSError: The file cannot be read.
  """
  warn_if_open(path)
  text = Path(path).read_bytes().decode('latin-1')
  found = text.split()
  if not all(word.isascii() and word.isprintable() for word in found):
    raise ValueError(
      f'token_file: {os.fspath(path)} has letters that are not ASCII, which no'
      ' header can hold; make a token by `openssl rand -hex 32`'
    )
  return found


def warn_if_open(path: str | os.PathLike[str]) -> None:
  """Logs that everybody on this machine can read a secret."""
  # Only POSIX says so in these bits.
  if os.name == 'posix' and Path(path).stat().st_mode & stat.S_IROTH:
    _LOG.warning(
      'everybody on this machine can read %s: chmod o-r it', os.fspath(path)
    )


def is_loopback(host: str) -> bool:
  """Whether only this machine can reach an address."""
  if host == 'localhost' or host.startswith(('unix:', 'unix-abstract:')):
    return True
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return False


def address(host: str, port: int) -> str:
  """What gRPC listens to, or connects to."""
  if host.startswith(('unix:', 'unix-abstract:')):
    return host
  bare = host.strip('[]')
  return f'[{bare}]:{port}' if ':' in bare else f'{bare}:{port}'


class Tokens(aio.ServerInterceptor):
  """Refuses calls without one of the tokens, but for the health service."""

  def __init__(self, tokens: Sequence[bytes], counts: metrics.Metrics):
    """Binds tokens.

    Args:
      tokens: From `Security.tokens`.
      counts: Where refusals are counted.
    """
    self._tokens = tokens
    self._metrics = counts

  async def intercept_service(self, continuation, handler_call_details):
    """Passes a call on, or answers UNAUTHENTICATED."""
    handler = await continuation(handler_call_details)
    method = handler_call_details.method
    if handler is None or method.startswith(_OPEN):
      return handler
    given = dict(handler_call_details.invocation_metadata or ()).get(
      'authorization', ''
    )
    given = given.encode() if isinstance(given, str) else given
    # All are compared, in a time that does not depend on what is in them.
    known = [hmac.compare_digest(given, b'Bearer ' + t) for t in self._tokens]
    if any(known):
      return handler
    return self._refusal(handler, method)

  def _refusal(self, handler, method: str) -> grpc.RpcMethodHandler:
    async def refuse(_, context):
      self._metrics.answered(os.path.basename(method), 'UNAUTHENTICATED')
      await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "expected metadata 'authorization: Bearer TOKEN', with a token of the"
        " server's",
      )

    return interceptors.remade(handler, refuse, handler.request_deserializer)
