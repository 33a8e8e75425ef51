"""Why a server closes connections: gRPC does not say, a connection does."""

import os
import socket
import ssl
from typing import NamedTuple

# gRPC's words where a connection was made, and closed before it was of use: by
# a server that wants another kind, or by one that is just going away.
CLOSED = 'failed to connect', 'Socket closed'


def diagnose_closed_connection(
  host: str,
  port: int,
  seconds: float,
  *,
  tls: bool,
  cert: str | os.PathLike[str] | None = None,
  key: str | os.PathLike[str] | None = None,
) -> str:
  """Finds out why a server closes a connection right away.

  Args:
    host: Name or address.
    port: TCP port.
    seconds: How long that may take.
    tls: Whether the connections that it closes are TLS.
    cert: The edge's certificate on them, PEM.
    key: Its private key, PEM.

  Returns:
    A sentence, or '' where it cannot be told.
  """
  pair = (cert, key) if tls else None
  if not tls:
    some = _connect(host, port, seconds, None, pair)
    return 'the server speaks TLS: give ca' if some.agreed else ''
  new = _connect(host, port, seconds, ssl.TLSVersion.TLSv1_3, pair)
  if not new.agreed or new.open:
    return ''
  # A certificate of the edge is looked at after the handshake of TLS 1.3, and
  # within that of TLS 1.2. A proxy that has lost its server ends both.
  old = _connect(host, port, seconds, ssl.TLSVersion.TLSv1_2, pair)
  return '' if old.agreed or old.unknown else _unwelcome(cert)


class _Connected(NamedTuple):
  """What became of a connection.

  Attributes:
    agreed: Whether the handshake of TLS was done.
    open: Whether the server then sent something, or waited.
    unknown: Whether it has another version of TLS, or cannot be reached.
  """

  agreed: bool = False
  open: bool = False
  unknown: bool = False


def _connect(host, port, seconds, version, pair) -> _Connected:
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
  # Nothing is sent: who the server is has been checked on the other ones.
  context.check_hostname = False
  context.verify_mode = ssl.CERT_NONE
  if version is not None:
    context.minimum_version = context.maximum_version = version
  context.set_alpn_protocols(['h2'])
  bare, agreed = host.strip('[]'), False
  try:
    if pair and None not in pair:
      context.load_cert_chain(*pair)
    with (
      socket.create_connection((bare, port), timeout=seconds) as raw,
      context.wrap_socket(raw, server_hostname=bare) as secured,
    ):
      agreed = True
      return _Connected(True, bool(secured.recv(1)))
  except TimeoutError:
    return _Connected(agreed, True, not agreed)
  except ssl.SSLError as error:
    return _Connected(agreed, False, 'VERSION' in (error.reason or ''))
  except ConnectionResetError:
    return _Connected(agreed)
  except OSError:
    return _Connected(agreed, False, True)


def _unwelcome(cert: str | os.PathLike[str] | None) -> str:
  if cert is None:
    return (
      'the server closes connections without a certificate of the edge: give'
      ' cert and key'
    )
  return (
    f"the server does not accept the edge's certificate {os.fspath(cert)}: it"
    ' has expired, or is of another authority'
  )
