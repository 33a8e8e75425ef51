"""Server security: TLS, certificates of clients, bearer tokens."""

from collections.abc import Sequence
import dataclasses
import hmac
import os
from pathlib import Path

import grpc
from grpc import aio

from collab_jax.serving import tls
from collab_jax.serving.server import (
  interceptors,
  metrics,
)

# A token that is shorter can be guessed.
_SHORTEST = 16
# The standard health service, which probes ask without a token.
_HEALTH = '/grpc.health.v1.Health/'


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
    insecure: Serve the network without all that.
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
    """Checks that a server may listen on a host.

    Args:
      host: Name or address.

    Raises:
      ValueError: Other machines could use the server without being identified.
    """
    safe = self.cert and (self.token_file or self.client_ca)
    if tls.is_loopback(host) or safe or self.insecure:
      return
    raise ValueError(
      f'host: {host} is open to the network; give --tls_cert and --tls_key, and'
      ' --token_file or --client_ca. To serve anybody who can reach it, in'
      ' clear text or without a token, say --insecure'
    )

  def credentials(self) -> grpc.ServerCredentials | None:
    """Returns a port's credentials for TLS; None without TLS.

    Raises:
      ValueError: A file holds something else.
      OSError: A file cannot be read.
    """
    if not self.cert:
      return None
    names = 'tls_cert, tls_key', 'client_ca'
    tls.check_files(self.cert, self.key, self.client_ca, names)
    tls.warn_if_world_readable(self.key)
    pair = Path(self.key).read_bytes(), Path(self.cert).read_bytes()
    ca = Path(self.client_ca).read_bytes() if self.client_ca else None
    return grpc.ssl_server_credentials([pair], ca, ca is not None)

  def tokens(self) -> list[bytes]:
    """Reads the tokens.

    Raises:
      ValueError: There is no token, one that can be guessed, or one that no
        header can hold.
      OSError: The file cannot be read.
    """
    if not self.token_file:
      return []
    tokens = tls.read_tokens(self.token_file)
    if not tokens or min(map(len, tokens)) < _SHORTEST:
      raise ValueError(
        f'token_file: {self.token_file} must hold tokens of at least'
        f' {_SHORTEST} letters, a line each; make one by `openssl rand -hex 32`'
      )
    return [token.encode() for token in tokens]


class TokenInterceptor(aio.ServerInterceptor):
  """Refuses calls without a valid token, except for the health service."""

  def __init__(self, tokens: Sequence[bytes], counters: metrics.Metrics):
    """Binds tokens.

    Args:
      tokens: From `Security.tokens`.
      counters: Counts the refusals.
    """
    self._tokens = tokens
    self._metrics = counters

  async def intercept_service(self, continuation, handler_call_details):
    """Passes a call on, or answers UNAUTHENTICATED."""
    handler = await continuation(handler_call_details)
    method = handler_call_details.method
    if handler is None or method.startswith(_HEALTH):
      return handler
    given = dict(handler_call_details.invocation_metadata or ()).get(
      'authorization', ''
    )
    given = given.encode() if isinstance(given, str) else given
    # Compares with every token, in a time that does not depend on content.
    matches = [hmac.compare_digest(given, b'Bearer ' + t) for t in self._tokens]
    if any(matches):
      return handler
    return self._refusal(handler, method)

  def _refusal(self, handler, method: str) -> grpc.RpcMethodHandler:
    async def refuse(_, context):
      self._metrics.count_answer(os.path.basename(method), 'UNAUTHENTICATED')
      await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "expected metadata 'authorization: Bearer TOKEN', with a token of the"
        " server's",
      )

    return interceptors.replace_behaviour(
      handler, refuse, handler.request_deserializer
    )
