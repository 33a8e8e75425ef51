"""Server security: TLS, certificates of clients, bearer tokens."""

from collections.abc import Iterable
import dataclasses
import hashlib
import hmac
from pathlib import Path
from typing import Any, NamedTuple
import urllib.parse

import grpc

from collab_jax.serving import tls
from collab_jax.serving.server import watched_files

# A token that is shorter can be guessed.
_SHORTEST = 16
# Headers that a proxy in front of the server sets in every call: its secret,
# address and port of the client, and the digest of its certificate.
_SECRET_HEADER = 'collab-jax-proxy'
_CLIENT_HEADER = 'collab-jax-client'
_CERTIFICATE_HEADER = 'collab-jax-certificate'
# Digits of a certificate's digest.
_LONGEST_NAME = 64
# Peer at a socket file, of which all are one.
_SOCKET_FILE = 'unix:'


@dataclasses.dataclass(frozen=True)
class Security:
  """Files by which the server identifies itself and its clients.

      Security(cert='server.pem', key='server.key', token_file='tokens')

  Attributes:
    cert: The server's certificate and those above it, PEM; '' without TLS.
    key: Its private key, PEM.
    client_ca: Authorities, PEM, one of which must have signed each client's
      certificate; '' for none.
    token_file: Tokens, a line each, of which every call needs one; '' for none.
    proxy_secret_file: Secrets, a line each, one of which the proxy in front
      adds to every call; calls without it are refused. '' for no proxy.
    insecure: Serve the network without all that.
  """

  cert: str = ''
  key: str = ''
  client_ca: str = ''
  token_file: str = ''
  proxy_secret_file: str = ''
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
    """Checks that a server may listen on a host.

    Args:
      host: Name or address.

    Raises:
      ValueError: Other machines could use the server without being identified.
    """
    identified = self.token_file or self.client_ca or self.proxy_secret_file
    if tls.is_loopback(host) or (self.cert and identified) or self.insecure:
      return
    raise ValueError(
      f'host: {host} is open to the network; give --tls_cert and --tls_key, and'
      ' --token_file, --client_ca or --proxy_secret_file. To serve anybody who'
      ' can reach it, in clear text or without a token, say --insecure'
    )

  def certificates(self) -> 'Certificates | None':
    """Returns the files of TLS; None without TLS.

    Raises:
      ValueError: A file holds something else.
      OSError: A file cannot be read.
    """
    return Certificates(self) if self.cert else None

  def tokens(self) -> list[bytes]:
    """Reads the tokens.

    Raises:
      ValueError: There is no token, one that can be guessed, or one that no
        header can hold.
      OSError: The file cannot be read.
    """
    return _read_secrets('token_file', self.token_file)

  def proxy_secrets(self) -> list[bytes]:
    """Reads the secrets of the proxy; the errors are those of `tokens`."""
    return _read_secrets('proxy_secret_file', self.proxy_secret_file)


def _read_secrets(name: str, path: str) -> list[bytes]:
  """Reads the secrets of a setting; none for no file."""
  if not path:
    return []
  secrets = tls.read_tokens(path, name)
  if not secrets or min(map(len, secrets)) < _SHORTEST:
    raise ValueError(
      f'{name}: {path} must hold tokens of at least {_SHORTEST} letters, a line'
      ' each; make one by `openssl rand -hex 32`'
    )
  return [secret.encode() for secret in secrets]


class Certificates:
  """Certificates of a port, which new connections get as their files are then.

      port.add_secure_port(address, Certificates(settings).credentials())

  Open connections keep what they began with.
  """

  def __init__(self, security: Security):
    """Reads the files.

    Args:
      security: The operator's settings, with a certificate.

    Raises:
      ValueError: A file holds something else.
      OSError: A file cannot be read.
    """
    self._security = security
    paths = {'tls_cert': security.cert, 'tls_key': security.key}
    if security.client_ca:
      paths['client_ca'] = security.client_ca
    self._files = watched_files.WatchedFiles(paths, self._read)

  def _read(self) -> tuple[bytes, bytes, bytes | None]:
    """Returns key, certificate and authorities, once they are checked."""
    cert, key = self._security.cert, self._security.key
    ca = self._security.client_ca
    tls.check_files(cert, key, ca, ('tls_cert, tls_key', 'client_ca'))
    tls.warn_if_world_readable(key)
    authorities = Path(ca).read_bytes() if ca else None
    return Path(key).read_bytes(), Path(cert).read_bytes(), authorities

  def credentials(self) -> grpc.ServerCredentials:
    """Makes credentials for one port, which must be kept while it is open."""
    # gRPC asks before each handshake, and takes each configuration once.
    return grpc.dynamic_ssl_server_credentials(
      self._configuration(), self._fetch, bool(self._security.client_ca)
    )

  def _fetch(self) -> Any:
    """Returns the configuration of a handshake; None if it is the last one."""
    return self._configuration() if self._files.refresh() else None

  def _configuration(self) -> grpc.ServerCertificateConfiguration:
    key, cert, authorities = self._files.value
    return grpc.ssl_server_certificate_configuration([(key, cert)], authorities)


class ForwardedClient(NamedTuple):
  """Client of a call, as the proxy in front of the server names it.

  Attributes:
    peer: Address and port of its connection to the proxy, as gRPC writes them.
    identity: Name of the caller without a token: its certificate's digest, else
      its address.
  """

  peer: str
  identity: str


class Authenticator:
  """Names the callers of a server.

      Authenticator(Security(token_file='tokens'), '0.0.0.0').caller(metadata)

  Whoever has a token is named by it, on any connection. Where there are no
  tokens, callers are told apart by their certificates, else by their addresses:
  see `peer_identity`; behind a proxy, by those that the proxy has seen. Files
  of tokens and secrets are read anew when they change.

  Attributes:
    refusal: Text of the status of a caller without a name.
  """

  def __init__(self, security: Security, host: str = '127.0.0.1'):
    """Reads the tokens.

    Args:
      security: The operator's settings.
      host: Address at which the server listens.

    Raises:
      ValueError: As of `Security.tokens`.
      OSError: The file cannot be read.
    """
    clients = security.client_ca or security.proxy_secret_file
    self._shared = bool(clients) or not tls.is_loopback(host)
    # Names by header.
    self._tokens: watched_files.WatchedFiles[dict[bytes, str]] | None = None
    self._secrets: watched_files.WatchedFiles[dict[bytes, str]] | None = None
    self.refusal = (
      "expected metadata 'authorization: Bearer TOKEN', with a token of the"
      " server's"
    )
    if security.token_file:
      self._tokens = watched_files.WatchedFiles(
        {'token_file': security.token_file},
        lambda: {b'Bearer ' + t: _digest(t) for t in security.tokens()},
      )
    if path := security.proxy_secret_file:
      self._secrets = watched_files.WatchedFiles(
        {'proxy_secret_file': path},
        lambda: dict.fromkeys(security.proxy_secrets(), ''),
      )
      self.refusal = (
        'this server answers calls that come through its proxy; call that'
      )
      if security.token_file:
        self.refusal += ', with a token'

  def several(self) -> bool:
    """Returns whether there may be several callers, who share places."""
    return len(self._tokens.value) > 1 if self._tokens else self._shared

  def caller(self, metadata: Iterable[tuple[str, Any]]) -> str | None:
    """Returns the name of a caller by the headers of a call.

    Args:
      metadata: The headers.

    Returns:
      The name; '' where there are no tokens; None where there are, and the
      headers have none of them, or lack the secret of the proxy in front.
    """
    headers = dict(metadata)
    if self._secrets and self.forwarded_client(headers.items()) is None:
      return None
    if self._tokens is None:
      return ''
    return _match(self._tokens, headers.get('authorization', ''))

  def forwarded_client(
    self, metadata: Iterable[tuple[str, Any]]
  ) -> ForwardedClient | None:
    """Returns the client that the proxy names; None for a direct call.

    Headers of a call without the proxy's secret are anybody's: they are not
    read.

    Args:
      metadata: The headers.
    """
    headers = dict(metadata)
    secret = headers.get(_SECRET_HEADER, '')
    if self._secrets is None or _match(self._secrets, secret) is None:
      return None
    host, _, port = str(headers.get(_CLIENT_HEADER, '')).rpartition(':')
    peer = f'ipv6:[{host}]:{port}' if ':' in host else f'ipv4:{host}:{port}'
    certificate = str(headers.get(_CERTIFICATE_HEADER, '')).lower()
    return ForwardedClient(peer, certificate[:_LONGEST_NAME] or address(peer))


def _match(
  secrets: watched_files.WatchedFiles[dict[bytes, str]], given: str | bytes
) -> str | None:
  """Returns the name of a secret that was given; None for a wrong one."""
  secrets.refresh()
  given = given.encode() if isinstance(given, str) else given
  # Compares with every secret, in a time that does not depend on content.
  matches = [
    name
    for secret, name in secrets.value.items()
    if hmac.compare_digest(given, secret)
  ]
  return matches[0] if matches else None


def peer_identity(context: Any) -> str:
  """Returns the name of a caller without a token.

  Args:
    context: A call's context: with a client's certificate that is the name,
      else the other end's address.
  """
  certificate = context.auth_context().get('x509_pem_cert')
  return _digest(certificate[0]) if certificate else address(context.peer())


def address(peer: str) -> str:
  """Returns the address of a peer, as gRPC writes it, without the port."""
  return plain_peer(peer).rpartition(':')[0]


def has_address(peer: str) -> bool:
  """Returns whether a peer is told apart from others: not at a socket file."""
  return plain_peer(peer) != _SOCKET_FILE


def plain_peer(peer: str) -> str:
  """Returns HOST:PORT of a peer; 'unix:' for the other end of a socket file."""
  kind, _, rest = urllib.parse.unquote(peer).partition(':')
  if kind not in ('ipv4', 'ipv6'):
    return _SOCKET_FILE
  host, _, port = rest.rpartition(':')
  return f'{host.strip("[]").removeprefix("::ffff:")}:{port}'


def _digest(secret: bytes) -> str:
  """Returns a name that does not show the secret."""
  return hashlib.sha256(secret).hexdigest()[:32]
