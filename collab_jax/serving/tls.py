"""Checks of addresses, certificates and secrets, for both ends."""

import ipaddress
import logging
import os
from pathlib import Path
import re
import ssl
import stat

_LOG = logging.getLogger(__name__)

_CERTIFICATE = re.compile(
  '-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----', re.DOTALL
)
# Object identifiers of Ed25519 and Ed448, as DER has them.
_EDWARDS = b'\x06\x03\x2b\x65\x70', b'\x06\x03\x2b\x65\x71'


def check_files(
  cert: str | os.PathLike[str] | None,
  key: str | os.PathLike[str] | None,
  ca: str | os.PathLike[str] | None,
  names: tuple[str, str] = ('cert, key', 'ca'),
) -> None:
  """Checks TLS files; gRPC reports bad ones as a server that is away.

  Args:
    cert: A certificate and those above it, PEM; None or '' for none.
    key: Its private key, PEM.
    ca: Certificates of authorities, PEM; None or '' for none.
    names: Names of the first two settings and of the last one, for errors.

  Raises:
    ValueError: A file holds something else, or they do not belong together.
    OSError: A file cannot be read.
  """
  if cert:
    _check_certificates(cert, names[0])
    Path(key or '').read_bytes()
    try:
      _context().load_cert_chain(cert, key, password=str)
    except ssl.SSLError as error:
      raise ValueError(
        f'{names[0]}: got {key}, expected the private key of {cert}, PEM,'
        ' without a password'
      ) from error
  if ca:
    _check_certificates(ca, names[1])


def _check_certificates(path: str | os.PathLike[str], name: str) -> None:
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
  blocks = _CERTIFICATE.findall(data.decode('latin-1'))
  certificates = map(ssl.PEM_cert_to_DER_cert, blocks)
  if any(curve in der for der in certificates for curve in _EDWARDS):
    raise ValueError(
      f'{name}: {path} has a key on an Edwards curve, expected RSA or ECDSA:'
      " gRPC's TLS does not take others"
    )


def _context() -> ssl.SSLContext:
  return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def read_tokens(
  path: str | os.PathLike[str], name: str = 'token_file'
) -> list[str]:
  """Reads a token file.

  Args:
    path: The file, with white space between tokens.
    name: Name of the setting, for errors.

  Returns:
    The tokens; the list may be empty.

  Raises:
    ValueError: A token has letters that are not ASCII.
    OSError: The file cannot be read.
  """
  warn_if_world_readable(path)
  tokens = Path(path).read_bytes().decode('latin-1').split()
  if not all(token.isascii() and token.isprintable() for token in tokens):
    raise ValueError(
      f'{name}: {os.fspath(path)} has letters that are not ASCII, which no'
      ' header can hold; make a token by `openssl rand -hex 32`'
    )
  return tokens


def warn_if_world_readable(path: str | os.PathLike[str]) -> None:
  """Logs a warning if every user of this machine can read a secret."""
  # Only POSIX has these permission bits.
  if os.name == 'posix' and Path(path).stat().st_mode & stat.S_IROTH:
    _LOG.warning(
      'everybody on this machine can read %s: chmod o-r it', os.fspath(path)
    )


def is_loopback(host: str) -> bool:
  """Returns whether only this machine can reach an address."""
  if host == 'localhost' or host.startswith(('unix:', 'unix-abstract:')):
    return True
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return False


def join_address(host: str, port: int) -> str:
  """Returns the target 'HOST:PORT' in gRPC's form."""
  if host.startswith(('unix:', 'unix-abstract:')):
    return host
  bare = host.strip('[]')
  return f'[{bare}]:{port}' if ':' in bare else f'{bare}:{port}'
