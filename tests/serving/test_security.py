"""Server security: TLS, client certificates, tokens."""

import os

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
import pytest

from collab_jax import serving
from collab_jax.serving.client import channel
from collab_jax.serving.engine import engine
from collab_jax.serving.server import security
from tests.serving import certificates, harness

CODES = grpc.StatusCode
TOKEN = 'correct-horse-battery-staple'


@pytest.fixture(scope='module')
def authority(tmp_path_factory):
  return certificates.Authority(tmp_path_factory.mktemp('ca'), 'ca')


@pytest.fixture(scope='module')
def token_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokens') / 'tokens'
  path.write_text(f'another-one-of-sixteen\n{TOKEN}\n')
  return str(path)


@pytest.fixture
def cold(model, monkeypatch):
  """Factory of servers that compile nothing."""
  monkeypatch.setattr(engine.Engine, 'warm_up', lambda self: iter([]))
  running = []

  def start(**fields):
    chosen = harness.make_config(
      quantizers='', security=security.Security(**fields)
    )
    running.append(serving.Server(model, chosen).in_thread())
    return running[-1]

  yield start
  for server in running:
    server.__exit__()


def _handshake_code(server, credentials=None, token=''):
  """Returns the status of an empty handshake: INVALID_ARGUMENT if let in."""
  caller = harness.Caller(server.address, credentials, token)
  with pytest.raises(grpc.RpcError) as raised:
    caller.handshake('', timeout=3)
  caller.channel.close()
  return raised.value.code()


def _credentials(ca, pair=None):
  cert, key = (path.read_bytes() for path in pair) if pair else (None, None)
  return grpc.ssl_channel_credentials(ca.path.read_bytes(), key, cert)


def test_token_is_required(cold, token_file):
  server = cold(token_file=token_file)
  assert _handshake_code(server, token=TOKEN) is CODES.INVALID_ARGUMENT
  assert _handshake_code(server, token='another-one-of-sixteen') is (
    CODES.INVALID_ARGUMENT
  )
  for wrong in ('', TOKEN[:-1], TOKEN + 'x', TOKEN.upper()):
    assert _handshake_code(server, token=wrong) is CODES.UNAUTHENTICATED
  value = server.metrics.value(
    'requests_total', method='Handshake', code='UNAUTHENTICATED'
  )
  assert value == 4
  caller = harness.Caller(server.address)
  with harness.refused(CODES.UNAUTHENTICATED):
    caller.caption(b'12345678', b'')
  with harness.refused(CODES.UNAUTHENTICATED):
    list(caller.stream(b'12345678', b''))
  with harness.refused(CODES.UNAUTHENTICATED):
    stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services='')
    list(stub.ServerReflectionInfo(iter([asked])))
  # Probes have none.
  health = health_pb2_grpc.HealthStub(caller.channel)
  health.Check(health_pb2.HealthCheckRequest())


def test_tls(cold, authority):
  cert, key = authority.issue('server')
  server = cold(cert=str(cert), key=str(key))
  assert (
    _handshake_code(server, _credentials(authority)) is CODES.INVALID_ARGUMENT
  )
  assert _handshake_code(server) is CODES.UNAVAILABLE
  stranger = certificates.Authority(cert.parent, 'stranger')
  assert _handshake_code(server, _credentials(stranger)) is CODES.UNAVAILABLE


def test_certificates_of_clients(cold, authority, token_file):
  cert, key = authority.issue('server')
  server = cold(
    cert=str(cert),
    key=str(key),
    client_ca=str(authority.path),
    token_file=token_file,
  )
  good = _credentials(authority, authority.issue('edge'))
  assert _handshake_code(server, good, TOKEN) is CODES.INVALID_ARGUMENT
  assert _handshake_code(server, good) is CODES.UNAUTHENTICATED
  nobody = _credentials(authority)
  assert _handshake_code(server, nobody, TOKEN) is CODES.UNAVAILABLE
  expired = _credentials(authority, authority.issue('late', days=-1))
  assert _handshake_code(server, expired, TOKEN) is CODES.UNAVAILABLE
  stranger = certificates.Authority(cert.parent, 'stranger').issue('spy')
  assert _handshake_code(server, _credentials(authority, stranger), TOKEN) is (
    CODES.UNAVAILABLE
  )


@pytest.mark.parametrize(
  'host', ['127.0.0.1', '127.3.2.1', '::1', '[::1]', 'localhost', 'unix:/tmp/s']
)
def test_loopback_hosts_are_safe(host):
  assert serving.ServerConfig(host=host).host == host


@pytest.mark.parametrize(
  'host', ['0.0.0.0', '::', '192.168.0.7', 'edge.example']
)
def test_the_network_needs_tls_and_a_token(host):
  pair = {'cert': 'c', 'key': 'k'}
  for fields in ({}, {'token_file': 't'}, pair):
    with pytest.raises(ValueError, match=f'host: {host} is open to the net'):
      serving.ServerConfig(host=host, security=security.Security(**fields))
  for fields in (
    {'insecure': True},
    {**pair, 'token_file': 't'},
    {**pair, 'client_ca': 'c'},
  ):
    serving.ServerConfig(host=host, security=security.Security(**fields))


def test_incomplete_settings_are_refused(tmp_path, model):
  with pytest.raises(ValueError, match='tls_cert, tls_key: got'):
    security.Security(cert='c')
  with pytest.raises(ValueError, match='client_ca: needs tls_cert'):
    security.Security(client_ca='c')
  for text in ('', 'short\n', f'{TOKEN}\nshort\n'):
    (tmp_path / 'tokens').write_text(text)
    chosen = security.Security(token_file=str(tmp_path / 'tokens'))
    with pytest.raises(ValueError, match='of at least 16 letters'):
      serving.Server(model, harness.make_config(security=chosen))
  (tmp_path / 'tokens').write_bytes(b'not-ascii-but-l\xf6ng\n')
  with pytest.raises(ValueError, match='tokens has letters that are not ASCII'):
    serving.Server(model, harness.make_config(security=chosen))
  with pytest.raises(ValueError, match='tokens has letters that are not ASCII'):
    channel.read_token(tmp_path / 'tokens')


def test_bad_certificate_files_are_refused(tmp_path, model, authority):
  bad = tmp_path / 'bad'
  bad.write_text('no certificate')
  cert, key = map(str, authority.issue('told'))
  for settings, said in (
    ({'cert': str(bad), 'key': key}, 'tls_cert, tls_key: got .*bad, expected'),
    ({'cert': key, 'key': cert}, 'tls_cert, tls_key: got .*key, expected cert'),
    ({'cert': cert, 'key': key, 'client_ca': str(bad)}, 'client_ca: got .*bad'),
  ):
    chosen = security.Security(**settings)
    with pytest.raises(ValueError, match=said):
      serving.Server(model, harness.make_config(security=chosen))


@pytest.mark.skipif(os.name != 'posix', reason='no such bits elsewhere')
def test_world_readable_secrets_are_warned_about(tmp_path, caplog):
  path = tmp_path / 'token'
  path.write_text(TOKEN)
  for mode, count in ((0o600, 0), (0o640, 0), (0o644, 1)):
    path.chmod(mode)
    caplog.clear()
    assert channel.read_token(path) == TOKEN
    assert len(caplog.records) == count
    assert security.Security(token_file=str(path)).tokens() == [TOKEN.encode()]
    assert len(caplog.records) == 2 * count
