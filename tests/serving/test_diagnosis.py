"""Diagnosis of closed connections, against servers that are only away."""

import contextlib
import socket
import ssl
import threading
import time

import grpc
import pytest

from collab_jax.serving.client import (
  channel,
  retry,
  rpc,
  server_state,
)
from tests.serving import certificates, scripted
from tests.serving.test_client import QUICK, _codec


@pytest.fixture(scope='module')
def ca(tmp_path_factory):
  return certificates.Authority(tmp_path_factory.mktemp('ca'), 'ca')


@pytest.fixture(scope='module')
def pair(ca):
  return ca.issue('server')


def _credentials(ca, pair, mutual):
  cert, key = pair
  root = ca.path.read_bytes() if mutual else None
  both = key.read_bytes(), cert.read_bytes()
  return grpc.ssl_server_credentials([both], root, mutual)


@pytest.mark.parametrize(
  ('server', 'edge', 'said'),
  [
    ('tls', 'plain', 'speaks TLS: give ca'),
    ('mtls', 'plain', 'speaks TLS: give ca'),
    ('plain', 'tls', 'speaks no TLS: leave ca out'),
    ('mtls', 'tls', 'without a certificate of the edge: give cert and key'),
    ('mtls', 'expired', 'does not accept the edge.s certificate .*late'),
    ('tls', 'other', 'is not of the authority in ca'),
  ],
)
def test_lasting_failures_are_diagnosed_at_once(
  ca, pair, tmp_path, server, edge, said
):
  late = ca.issue('late', days=-1) if edge == 'expired' else (None, None)
  trusted = certificates.Authority(tmp_path, 'x') if edge == 'other' else ca
  credentials = None
  if server != 'plain':
    credentials = _credentials(ca, pair, server == 'mtls')
  with scripted.serving(scripted.ScriptedServer(), credentials) as target:
    link = channel.Connection(
      target,
      ca=None if edge == 'plain' else trusted.path,
      cert=late[0],
      key=late[1],
      timeout=20.0,
    )
    start = time.monotonic()
    with pytest.raises(retry.RemoteError, match=said) as raised:
      rpc.RpcClient(link, [_codec()]).handshake()
    assert time.monotonic() - start < 5
    assert raised.value.code == 'UNAVAILABLE'
    link.close()


def test_the_other_address_of_a_name_may_have_refused(ca, pair):
  """`localhost` has two; gRPC's text is of the one that was tried last."""
  text = (
    'failed to connect to all addresses; last error: UNKNOWN: ipv6:[::1]:1:'
    ' Failed to connect to remote host: Connection refused'
  )
  credentials = _credentials(ca, pair, True)
  with scripted.serving(scripted.ScriptedServer(), credentials) as target:
    name = f'localhost:{target.rpartition(":")[2]}'
    for trusted, said in ((None, 'speaks TLS: give ca'), (ca.path, 'without')):
      link = channel.Connection(name, ca=trusted)
      assert said in link.diagnose(text, 2.0)
      link.close()


@pytest.mark.parametrize(
  ('target', 'said'),
  [
    ('localhost:9', 'no server is there; start collab-jax serve, or give'),
    ('nohost.invalid:9', 'there is no machine of that name; check server'),
  ],
)
def test_a_server_that_is_not_there_is_told_in_plain_words(target, said):
  link = channel.Connection(target, timeout=0.5, backoff=QUICK, insecure=True)
  with pytest.raises(retry.RemoteError, match=said) as raised:
    rpc.RpcClient(link, [_codec()]).handshake()
  assert 'last error' not in str(raised.value)
  assert 'failed to connect' not in server_state.check_health(link, 2.0)
  link.close()


@contextlib.contextmanager
def _closing(context=None):
  """Closes connections as they come, after the handshake of a context."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    count = []

    def accept():
      with contextlib.suppress(OSError):
        while True:
          taken, _ = server.accept()
          count.append(1)
          with contextlib.suppress(OSError), taken:
            if context is not None:
              context.wrap_socket(taken, server_side=True).close()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], count
    server.shutdown(socket.SHUT_RDWR)


def test_restarting_server_is_retried(ca, pair):
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(*pair)
  # As a proxy does whose own server is away: without and with TLS.
  for made, tls in ((None, False), (None, True), (context, True)):
    with _closing(made) as (port, _):
      assert not channel.diagnose_closed_connection(
        '127.0.0.1', port, 2.0, tls=tls
      )
  with _closing() as (port, count):
    link = channel.Connection(f'127.0.0.1:{port}', timeout=0.5, backoff=QUICK)
    with pytest.raises(retry.RemoteError, match=r'within 0\.5 s'):
      rpc.RpcClient(link, [_codec()]).handshake()
    link.close()
  assert len(count) > 2
