"""Who may talk to the server."""

import os

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
import pytest

from collab_jax import serving
from collab_jax.serving.client import channel
from collab_jax.serving.engine import engine
from collab_jax.serving.server import security
from tests.serving import authority as authorities
from tests.serving import calling

CODES = grpc.StatusCode
TOKEN = 'correct-horse-battery-staple'


@pytest.fixture(scope='module')
def authority(tmp_path_factory):
  return authorities.Authority(tmp_path_factory.mktemp('ca'), 'ca')


@pytest.fixture(scope='module')
def token_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokens') / 'tokens'
  path.write_text(f'another-one-of-sixteen\n{TOKEN}\n')
  return str(path)


@pytest.fixture
def cold(model, monkeypatch):
  """Makes servers that need not compile anything to say who may enter."""
  monkeypatch.setattr(engine.Engine, 'warm_up', lambda self: iter([]))
  running = []

  def start(**fields):
    chosen = calling.settings(
      quantizers='', security=security.Security(**fields)
    )
    running.append(serving.Server(model, chosen).in_thread())
    return running[-1]

  yield start
  for server in running:
    server.__exit__()


def _knocks(server, credentials=None, token=''):
  """The status of a handshake about nothing: INVALID_ARGUMENT is being in."""
  caller = calling.Caller(server.address, credentials, token)
  with pytest.raises(grpc.RpcError) as raised:
    caller.handshake('', timeout=3)
  caller.channel.close()
  return raised.value.code()


def _credentials(ca, pair=None):
  cert, key = (path.read_bytes() for path in pair) if pair else (None, None)
  return grpc.ssl_channel_credentials(ca.path.read_bytes(), key, cert)


def test_a_token_is_asked_for(cold, token_file):
  server = cold(token_file=token_file)
  assert _knocks(server, token=TOKEN) is CODES.INVALID_ARGUMENT
  assert _knocks(server, token='another-one-of-sixteen') is (
    CODES.INVALID_ARGUMENT
  )
  for wrong in ('', TOKEN[:-1], TOKEN + 'x', TOKEN.upper()):
    assert _knocks(server, token=wrong) is CODES.UNAUTHENTICATED
  value = server.metrics.value(
    'requests_total', method='Handshake', code='UNAUTHENTICATED'
  )
  assert value == 4
  caller = calling.Caller(server.address)
  with calling.refused(CODES.UNAUTHENTICATED):
    caller.caption(b'12345678', b'')
  with calling.refused(CODES.UNAUTHENTICATED):
    list(caller.stream(b'12345678', b''))
  with calling.refused(CODES.UNAUTHENTICATED):
    stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services='')
    list(stub.ServerReflectionInfo(iter([asked])))
  # Probes have none.
  health = health_pb2_grpc.HealthStub(caller.channel)
  health.Check(health_pb2.HealthCheckRequest())


def test_tls(cold, authority):
  cert, key = authority.issue('server')
  server = cold(cert=str(cert), key=str(key))
  assert _knocks(server, _credentials(authority)) is CODES.INVALID_ARGUMENT
  assert _knocks(server) is CODES.UNAVAILABLE
  stranger = authorities.Authority(cert.parent, 'stranger')
  assert _knocks(server, _credentials(stranger)) is CODES.UNAVAILABLE


def test_certificates_of_clients(cold, authority, token_file):
  cert, key = authority.issue('server')
  server = cold(
    cert=str(cert),
    key=str(key),
    client_ca=str(authority.path),
    token_file=token_file,
  )
  good = _credentials(authority, authority.issue('edge'))
  assert _knocks(server, good, TOKEN) is CODES.INVALID_ARGUMENT
  assert _knocks(server, good) is CODES.UNAUTHENTICATED
  nobody = _credentials(authority)
  assert _knocks(server, nobody, TOKEN) is CODES.UNAVAILABLE
  expired = _credentials(authority, authority.issue('late', days=-1))
  assert _knocks(server, expired, TOKEN) is CODES.UNAVAILABLE
  stranger = authorities.Authority(cert.parent, 'stranger').issue('spy')
  assert _knocks(server, _credentials(authority, stranger), TOKEN) is (
    CODES.UNAVAILABLE
  )


@pytest.mark.parametrize(
  'host', ['127.0.0.1', '127.3.2.1', '::1', '[::1]', 'localhost', 'unix:/tmp/s']
)
def test_this_machine_alone_is_safe(host):
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


def test_halves_are_refused(tmp_path, model):
  with pytest.raises(ValueError, match='tls_cert, tls_key: got'):
    security.Security(cert='c')
  with pytest.raises(ValueError, match='client_ca: needs tls_cert'):
    security.Security(client_ca='c')
  for text in ('', 'short\n', f'{TOKEN}\nshort\n'):
    (tmp_path / 'tokens').write_text(text)
    chosen = security.Security(token_file=str(tmp_path / 'tokens'))
    with pytest.raises(ValueError, match='of at least 16 letters'):
      serving.Server(model, calling.settings(security=chosen))
  (tmp_path / 'tokens').write_bytes(b'not-ascii-but-l\xf6ng\n')
  with pytest.raises(ValueError, match='tokens has letters that are not ASCII'):
    serving.Server(model, calling.settings(security=chosen))
  with pytest.raises(ValueError, match='tokens has letters that are not ASCII'):
    channel.read_token(tmp_path / 'tokens')


def test_files_that_are_no_certificates_are_told(tmp_path, model, authority):
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
      serving.Server(model, calling.settings(security=chosen))


@pytest.mark.skipif(os.name != 'posix', reason='no such bits elsewhere')
def test_secrets_that_everybody_can_read_are_told(tmp_path, caplog):
  path = tmp_path / 'token'
  path.write_text(TOKEN)
  for mode, count in ((0o600, 0), (0o640, 0), (0o644, 1)):
    path.chmod(mode)
    caplog.clear()
    assert channel.read_token(path) == TOKEN
    assert len(caplog.records) == count
    assert security.Security(token_file=str(path)).tokens() == [TOKEN.encode()]
    assert len(caplog.records) == 2 * count
