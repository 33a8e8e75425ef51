"""Server security: TLS, client certificates, tokens."""

import logging
import os
import pathlib
import ssl
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
import pytest

from collab_jax import serving
from collab_jax.serving.client import channel
from collab_jax.serving.engine import engine
from collab_jax.serving.server import connections, security, watched_files
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


def _served_certificate(server):
  host, _, port = server.address.rpartition(':')
  return ssl.get_server_certificate((host, int(port))).strip()


def test_certificates_are_read_anew(cold, authority, monkeypatch, caplog):
  """New connections get another pair, open ones stay, bad ones are not used."""
  monkeypatch.setattr(watched_files, '_PERIOD_SECONDS', 0.0)
  cert, key = authority.issue('rotated')
  server = cold(cert=str(cert), key=str(key))
  open_before = harness.Caller(server.address, _credentials(authority))
  with harness.refused(CODES.INVALID_ARGUMENT):
    open_before.handshake('', timeout=3)
  first = cert.read_text().strip()
  assert _served_certificate(server) == first
  caplog.set_level(logging.INFO)
  other_cert, other_key = authority.issue('rotated-next')
  # Half of the pair, then half of the certificate, are not used.
  cert.write_bytes(other_cert.read_bytes())
  for _ in range(3):
    assert _served_certificate(server) == first
  cert.write_bytes(other_cert.read_bytes()[:300])
  assert _served_certificate(server) == first
  cert.unlink()
  assert _served_certificate(server) == first
  warned = [r for r in caplog.records if 'stays in use' in r.getMessage()]
  assert len(warned) == 1
  assert 'tls_cert, tls_key: got ' in warned[0].getMessage()
  cert.write_bytes(other_cert.read_bytes())
  key.write_bytes(other_key.read_bytes())
  assert _served_certificate(server) == other_cert.read_text().strip() != first
  # Both, though the first of them was seen before.
  assert 'tls_cert, tls_key: read anew' in caplog.messages
  assert (
    _handshake_code(server, _credentials(authority)) is CODES.INVALID_ARGUMENT
  )
  with harness.refused(CODES.INVALID_ARGUMENT):
    open_before.handshake('', timeout=3)
  open_before.channel.close()


def test_authorities_of_clients_are_read_anew(
  cold, authority, tmp_path, monkeypatch, caplog
):
  """A client of the authority that left is let in no more."""
  caplog.set_level(logging.INFO)
  monkeypatch.setattr(watched_files, '_PERIOD_SECONDS', 0.0)
  cert, key = authority.issue('server')
  next_one = certificates.Authority(tmp_path, 'next')
  trusted = tmp_path / 'trusted.pem'
  trusted.write_bytes(authority.path.read_bytes())
  server = cold(cert=str(cert), key=str(key), client_ca=str(trusted))
  ca = authority.path.read_bytes()

  def code(pair):
    pair = [path.read_bytes() for path in reversed(pair)]
    return _handshake_code(server, grpc.ssl_channel_credentials(ca, *pair))

  old, new = authority.issue('edge-old'), next_one.issue('edge-new')
  assert code(old) is CODES.INVALID_ARGUMENT
  assert code(new) is CODES.UNAVAILABLE
  both = authority.path.read_bytes() + next_one.path.read_bytes()
  trusted.write_bytes(both)
  assert code(old) is code(new) is CODES.INVALID_ARGUMENT
  trusted.write_bytes(next_one.path.read_bytes())
  assert code(old) is CODES.UNAVAILABLE
  assert code(new) is CODES.INVALID_ARGUMENT
  said = [r.getMessage() for r in caplog.records if 'anew' in r.getMessage()]
  assert said == ['client_ca: read anew'] * 2


def test_tokens_are_read_anew(cold, tmp_path, monkeypatch, caplog):
  """A token that left is refused; a file that holds none changes nothing."""
  monkeypatch.setattr(watched_files, '_PERIOD_SECONDS', 0.0)
  path = tmp_path / 'tokens'
  path.write_text(TOKEN)
  path.chmod(0o600)
  server = cold(token_file=str(path))
  assert not server._authenticator.several()
  assert _handshake_code(server, token=TOKEN) is CODES.INVALID_ARGUMENT
  path.write_text(f'{TOKEN}\nanother-one-of-sixteen\n')
  for token in (TOKEN, 'another-one-of-sixteen'):
    assert _handshake_code(server, token=token) is CODES.INVALID_ARGUMENT
  assert server._authenticator.several()
  path.write_text('another-one-of-sixteen')
  assert _handshake_code(server, token=TOKEN) is CODES.UNAUTHENTICATED
  for change in (lambda: path.write_text('short'), path.unlink):
    change()
    assert _handshake_code(server, token='another-one-of-sixteen') is (
      CODES.INVALID_ARGUMENT
    )
    assert _handshake_code(server, token='short') is CODES.UNAUTHENTICATED
  warned = [r for r in caplog.records if 'stays in use' in r.getMessage()]
  assert len(warned) == 1


SECRET = 'the-secret-of-the-proxy'


def _proxied(client, secret=SECRET, certificate='', token=''):
  """Returns the headers that a proxy sends for a client."""
  headers = {
    'collab-jax-proxy': secret,
    'collab-jax-client': client,
    'collab-jax-certificate': certificate,
    'authorization': f'Bearer {token}' if token else '',
  }
  return [(name, value) for name, value in headers.items() if value]


@pytest.fixture
def secret_file(tmp_path):
  path = tmp_path / 'secrets'
  path.write_text(f'{SECRET}\nand-the-one-before-it\n')
  path.chmod(0o600)
  return str(path)


def test_server_behind_a_proxy_answers_no_other_call(cold, secret_file):
  server = cold(proxy_secret_file=secret_file)
  caller = harness.Caller(server.address)
  for headers in (
    [],
    _proxied('10.0.0.1:7', secret=''),
    _proxied('10.0.0.1:7', secret=SECRET[:-1]),
  ):
    caller.metadata = headers
    with harness.refused(CODES.UNAUTHENTICATED) as text:
      caller.handshake('', timeout=3)
    assert text == [
      'this server answers calls that come through its proxy; call that'
    ]
    with harness.refused(CODES.UNAUTHENTICATED):
      caller.caption(b'12345678', b'')
    with harness.refused(CODES.UNAUTHENTICATED):
      list(caller.stream(b'12345678', b''))
  for secret in (SECRET, 'and-the-one-before-it'):
    caller.metadata = _proxied('10.0.0.1:7', secret)
    with harness.refused(CODES.INVALID_ARGUMENT):
      caller.handshake('', timeout=3)
  # Probes of the server itself need no proxy.
  health = health_pb2_grpc.HealthStub(caller.channel)
  health.Check(health_pb2.HealthCheckRequest())


def test_token_is_required_behind_a_proxy(cold, secret_file, token_file):
  server = cold(proxy_secret_file=secret_file, token_file=token_file)
  caller = harness.Caller(server.address)
  for headers, code in (
    (_proxied('10.0.0.1:7', token=TOKEN), CODES.INVALID_ARGUMENT),
    (_proxied('10.0.0.1:7'), CODES.UNAUTHENTICATED),
    (_proxied('10.0.0.1:7', '', token=TOKEN), CODES.UNAUTHENTICATED),
  ):
    caller.metadata = headers
    with harness.refused(code):
      caller.handshake('', timeout=3)


def test_callers_behind_a_proxy_are_told_apart(secret_file, token_file):
  fields = {'proxy_secret_file': secret_file}
  plain = security.Authenticator(security.Security(**fields))
  assert plain.several()
  near = plain.forwarded_client(_proxied('10.0.0.1:7'))
  far = plain.forwarded_client(_proxied('2001:db8::1:7'))
  assert (near.identity, near.peer) == ('10.0.0.1', 'ipv4:10.0.0.1:7')
  assert (far.identity, far.peer) == ('2001:db8::1', 'ipv6:[2001:db8::1]:7')
  known = plain.forwarded_client(_proxied('10.0.0.1:8', certificate='AB' * 32))
  assert known.identity == 'ab' * 32
  # Headers without the secret are anybody's.
  assert plain.forwarded_client(_proxied('10.0.0.9:1', secret='')) is None
  assert plain.caller(_proxied('10.0.0.9:1', secret='')) is None
  assert plain.caller(_proxied('10.0.0.9:1')) == ''
  both = security.Authenticator(
    security.Security(**fields, token_file=token_file)
  )
  named = both.caller(_proxied('10.0.0.1:7', token=TOKEN))
  assert named == both.caller(_proxied('10.0.0.2:7', token=TOKEN)) != ''
  alone = security.Authenticator(security.Security())
  assert alone.forwarded_client(_proxied('10.0.0.9:1')) is None


def test_strangers_behind_a_proxy_leave_its_connection_open(
  cold, secret_file, token_file, monkeypatch
):
  """Others' calls are on it; each client's refusals are paced for itself."""
  monkeypatch.setattr(connections, '_REFUSALS', 5)
  monkeypatch.setattr(connections, '_PACE', 1000.0)
  server = cold(proxy_secret_file=secret_file, token_file=token_file)
  caller = harness.Caller(server.address)
  for _ in range(20):
    caller.metadata = _proxied('10.0.0.1:7')
    with harness.refused(CODES.UNAUTHENTICATED):
      caller.handshake('', timeout=3)
  assert set(server._connections._paced) == {'10.0.0.1'}
  time.sleep(1.5)  # Connections are counted each second.
  assert server.metrics.value('rejections_total', reason='connections') == 0
  caller.metadata = _proxied('10.0.0.2:7', token=TOKEN)
  with harness.refused(CODES.INVALID_ARGUMENT):
    caller.handshake('', timeout=3)


def test_secrets_of_the_proxy_are_read_anew(cold, secret_file, monkeypatch):
  monkeypatch.setattr(watched_files, '_PERIOD_SECONDS', 0.0)
  server = cold(proxy_secret_file=secret_file)
  caller = harness.Caller(server.address)
  caller.metadata = _proxied('10.0.0.1:7')
  with harness.refused(CODES.INVALID_ARGUMENT):
    caller.handshake('', timeout=3)
  pathlib.Path(secret_file).write_text('another-secret-of-a-proxy')
  with harness.refused(CODES.UNAUTHENTICATED):
    caller.handshake('', timeout=3)


def test_files_are_looked_at_once_a_second(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(watched_files.time, 'monotonic', lambda: now[0])
  path = tmp_path / 'file'
  path.write_text('a')
  watched = watched_files.WatchedFiles({'file': str(path)}, path.read_text)
  path.write_text('bb')
  assert not watched.refresh()
  now[0] += 1.1
  assert watched.refresh()
  assert watched.value == 'bb'
  now[0] += 1.1
  assert not watched.refresh()


def test_files_written_meanwhile_are_read_again(tmp_path, monkeypatch):
  """A value that was read while its files changed is not kept."""
  monkeypatch.setattr(watched_files, '_PERIOD_SECONDS', 0.0)
  path = tmp_path / 'file'
  path.write_text('a')
  texts = iter(['ccc'])

  def read():
    found = path.read_text()
    path.write_text(next(texts, path.read_text()))
    return found

  watched = watched_files.WatchedFiles({'file': str(path)}, path.read_text)
  monkeypatch.setattr(watched, '_read', read)
  path.write_text('bb')
  assert not watched.refresh()
  assert watched.value == 'a'
  monkeypatch.setattr(watched, '_read', path.read_text)
  assert watched.refresh()
  assert watched.value == 'ccc'


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
  for fields in ({}, {'token_file': 't'}, {'proxy_secret_file': 's'}, pair):
    with pytest.raises(ValueError, match=f'host: {host} is open to the net'):
      serving.ServerConfig(host=host, security=security.Security(**fields))
  for fields in (
    {'insecure': True},
    {**pair, 'token_file': 't'},
    {**pair, 'client_ca': 'c'},
    {**pair, 'proxy_secret_file': 's'},
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
    chosen = security.Security(proxy_secret_file=str(tmp_path / 'tokens'))
    with pytest.raises(ValueError, match=r'proxy_secret_file: .* at least 16'):
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
