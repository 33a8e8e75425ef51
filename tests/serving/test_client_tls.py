"""TLS and tokens at the client's end."""

import time

from cryptography.hazmat.primitives import serialization
import grpc
import numpy as np
import pytest

from collab_jax.serving.client import channel, retry
from collab_jax.serving.client import client as clients
from tests.serving import certificates, scripted
from tests.serving.test_client import _codec

IMAGES = np.zeros((1, 64, 64, 3), np.uint8)


@pytest.fixture(scope='module')
def authority(tmp_path_factory):
  return certificates.Authority(tmp_path_factory.mktemp('ca'), 'ca')


@pytest.fixture(scope='module')
def other(tmp_path_factory):
  return certificates.Authority(tmp_path_factory.mktemp('other'), 'other')


def _credentials(pair, ca=None):
  cert, key = (path.read_bytes() for path in pair)
  root = ca.path.read_bytes() if ca else None
  return grpc.ssl_server_credentials([(key, cert)], root, ca is not None)


def _caption(target, **settings):
  with clients.EdgeClient(target, _codec(), **settings) as client:
    return client.caption(IMAGES)[0].caption


def test_tls_and_a_token(authority):
  servicer = scripted.ScriptedServer()
  credentials = _credentials(authority.issue('server'))
  with scripted.serving(servicer, credentials) as target:
    assert _caption(target, ca=authority.path, token='secret') == 'a red ball'
  assert servicer.metadata[0]['authorization'] == 'Bearer secret'


@pytest.mark.parametrize('wrong', ['authority', 'expired', 'name'])
def test_untrusted_server_is_an_error_at_once(authority, other, wrong):
  days = -1 if wrong == 'expired' else 1
  settings = {'ca': (other if wrong == 'authority' else authority).path}
  if wrong == 'name':
    settings['server_name'] = 'example.org'
  credentials = _credentials(authority.issue('server', days))
  start = time.monotonic()
  with (
    scripted.serving(scripted.ScriptedServer(), credentials) as target,
    pytest.raises(retry.RemoteError) as raised,
  ):
    _caption(target, token='secret', **settings)
  assert time.monotonic() - start < 10  # Of the 30 s that it may take.
  assert 'verif' in str(raised.value).lower()


def test_mtls(authority):
  credentials = _credentials(authority.issue('server'), authority)
  cert, key = authority.issue('edge')
  servicer = scripted.ScriptedServer()
  with scripted.serving(servicer, credentials) as target:
    trusted = {'ca': authority.path, 'timeout': 1.0}
    assert _caption(target, cert=cert, key=key, **trusted) == 'a red ball'
    with pytest.raises(retry.RemoteError, match='UNAVAILABLE'):
      _caption(target, **trusted)
  assert len(servicer.requests) == 1


def test_bad_certificate_files_are_refused(authority, other):
  cert, key = authority.issue('edge')
  stray, damaged = other.issue('edge')[1], cert.with_name('damaged.pem')
  damaged.write_bytes(cert.read_bytes()[:99])
  for pair in ((key, cert), (damaged, key)):
    given = dict(zip(('cert', 'key'), pair, strict=True))
    said = f'cert, key: got {pair[0]}, expected certificates in PEM'
    with pytest.raises(ValueError, match=said):
      channel.Connection('localhost:1', ca=authority.path, **given)
  for wrong in (stray, damaged):
    said = f'cert, key: got {wrong}, expected the private key of {cert}'
    with pytest.raises(ValueError, match=said):
      channel.Connection('localhost:1', ca=authority.path, cert=cert, key=wrong)
  for ca in (key, damaged):
    with pytest.raises(ValueError, match=f'ca: got {ca}, expected certificat'):
      channel.Connection('localhost:1', ca=ca)
  with pytest.raises(FileNotFoundError, match='nowhere'):
    channel.Connection('localhost:1', ca=cert.with_name('nowhere'))


def test_certificates_that_grpc_cannot_use_are_refused(authority):
  path = authority.path.with_name('revoked.pem')
  path.write_bytes(authority.revoked())
  with pytest.raises(ValueError, match='holds no certificate'):
    channel.Connection('localhost:1', ca=path)
  path.write_bytes(authority.edwards())
  with pytest.raises(ValueError, match='expected RSA or ECDSA'):
    channel.Connection('localhost:1', ca=path)
  path.write_bytes(authority.path.read_bytes() * 2)
  channel.Connection('localhost:1', ca=path).close()


def test_key_with_a_password_is_refused(authority):
  cert, path = authority.issue('locked')
  key = serialization.load_pem_private_key(path.read_bytes(), None)
  path.write_bytes(
    key.private_bytes(
      serialization.Encoding.PEM,
      serialization.PrivateFormat.PKCS8,
      serialization.BestAvailableEncryption(b'secret'),
    )
  )
  with pytest.raises(ValueError, match=r'private key of .* without a pass'):
    channel.Connection('localhost:1', ca=authority.path, cert=cert, key=path)


@pytest.mark.parametrize('text', ['', ' \n', 'a b', 'ä' * 20])
def test_token_file_must_hold_one_token(tmp_path, text):
  path = tmp_path / 'token'
  path.write_text(text)
  with pytest.raises(ValueError, match=f'{path}.* ASCII|expected one: the'):
    channel.read_token(path)
  path.write_text('abc\n')
  assert channel.read_token(path) == 'abc'
  assert channel.read_token(None) is None
