"""Calls that a gateway has received: as those of a server's own port."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2
import pytest

from benchmarks import session_names
from collab_jax import serving
from collab_jax.serving import collab_pb2
from collab_jax.serving.server import calls
from tests.serving import harness

CODES = grpc.StatusCode
KMEANS = 'kmeans(k=4)'


class Received:
  """A gateway's context of a call."""

  def __init__(self, peer='ipv4:127.0.0.1:5', **metadata):
    self._peer = peer
    self._metadata = metadata

  def peer(self):
    return self._peer

  def auth_context(self):
    return {}

  def invocation_metadata(self):
    return list(self._metadata.items())


class Gateway:
  """Runs calls in the loop of a server without a port."""

  def __init__(self, model, **settings):
    self.server = serving.Server(model, harness.make_config(**settings))
    self._runner = asyncio.Runner()

  def __enter__(self):
    self._runner.run(self.server.start(listen=False))
    self.calls = calls.PortlessCalls(self.server)
    return self

  def __exit__(self, *_):
    self._runner.run(self.server.stop())
    self._runner.close()

  def run(self, work):
    return self._runner.run(work)

  def answer(self, method, request, **received):
    """Answers a call."""
    return self.run(self.calls.answer(method, request, Received(**received)))

  def refused(self, *args, **received):
    """Returns the status of a call that is refused."""
    with pytest.raises(calls.CallRefusedError) as raised:
      self.answer(*args, **received)
    return raised.value.code


@pytest.fixture(scope='module')
def gateway(model):
  with Gateway(model, quantizers=KMEANS) as gateway:
    yield gateway


def test_it_answers_as_a_port_does(gateway, shared, made):
  codec, messages = made['kmeans']
  request = harness.Caller.request(codec, messages[0])
  expected = harness.Caller(shared.address).caption(codec, messages[0])
  assert gateway.server.address == ''
  asked = collab_pb2.HandshakeRequest(session=codec.to_json())
  session = gateway.answer('Handshake', asked).session
  assert session == session_names.for_codec(codec)
  answer = gateway.answer('Caption', request)
  assert answer.caption == expected.caption
  assert not answer.repeated
  # An answer is remembered, as at any server.
  assert gateway.answer('Caption', request).repeated
  assert gateway.answer('Metadata', collab_pb2.MetadataRequest()).model
  probe = health_pb2.HealthCheckRequest()
  assert gateway.answer('Check', probe).status == 1


def test_a_stream_comes_in_pieces(gateway, made):
  codec, messages = made['kmeans']
  request = harness.Caller.request(codec, messages[1])

  async def chunks():
    received = Received()
    return [
      chunk
      async for chunk in gateway.calls.stream(
        'CaptionStream', request, received
      )
    ]

  *pieces, last = gateway.run(chunks())
  assert len(pieces) > 1
  assert ''.join(piece.text for piece in pieces) == last.reply.caption


def test_a_stream_that_nobody_reads_is_given_up(gateway, made):
  codec, messages = made['kmeans']
  request = harness.Caller.request(codec, messages[2])

  async def leave():
    stream = gateway.calls.stream('CaptionStream', request, Received())
    await anext(stream)
    await stream.aclose()
    await gateway.server.service.wait_until_idle()

  gateway.run(asyncio.wait_for(leave(), 20))
  assert gateway.calls._calls.taken == 0


def test_statuses_are_those_of_a_port(gateway, made):
  codec, messages = made['kmeans']
  unknown = harness.Caller.request(b'0' * 12, messages[0])
  damaged = harness.Caller.request(codec, messages[0][:-1])
  finer = harness.Caller.request(codec, messages[0], continues=b'1' * 16)
  assert gateway.refused('Caption', unknown) is CODES.FAILED_PRECONDITION
  assert gateway.refused('Caption', damaged) is CODES.INVALID_ARGUMENT
  assert gateway.refused('Caption', finer) is CODES.FAILED_PRECONDITION

  async def stream():
    async for _ in gateway.calls.stream('CaptionStream', damaged, Received()):
      pass

  with pytest.raises(calls.CallRefusedError) as raised:
    gateway.run(stream())
  assert raised.value.code is CODES.INVALID_ARGUMENT


def test_other_machines_are_refused(gateway):
  """The gateway listens at all addresses, whatever the operator wants."""
  request = collab_pb2.MetadataRequest()
  for peer in ('ipv4:192.0.2.7:5', 'ipv6:[2001:db8::1]:5'):
    code = gateway.refused('Metadata', request, peer=peer)
    assert code is CODES.PERMISSION_DENIED
  assert gateway.answer('Metadata', request, peer='ipv6:%5B::1%5D:5').model


def test_tokens_hold(model, tmp_path):
  tokens = tmp_path / 'tokens'
  tokens.write_text('0123456789abcdef\n')
  tokens.chmod(0o600)
  security = serving.Security(token_file=str(tokens), insecure=True)
  settings = {'quantizers': KMEANS, 'security': security, 'host': '0.0.0.0'}
  with Gateway(model, **settings) as gateway:
    request = collab_pb2.MetadataRequest()
    assert gateway.refused('Metadata', request) is CODES.UNAUTHENTICATED
    given = {'authorization': 'Bearer 0123456789abcdef'}
    assert gateway.answer('Metadata', request, **given).model
    # Probes need none.
    probe = health_pb2.HealthCheckRequest()
    assert gateway.answer('Check', probe, peer='ipv4:192.0.2.7:5').status == 1


def test_direct_calls_are_refused_behind_a_proxy(model, tmp_path):
  secret = tmp_path / 'secret'
  secret.write_text('fedcba9876543210\n')
  secret.chmod(0o600)
  security = serving.Security(proxy_secret_file=str(secret), insecure=True)
  settings = {'quantizers': KMEANS, 'security': security, 'host': '0.0.0.0'}
  with Gateway(model, **settings) as gateway:
    request = collab_pb2.MetadataRequest()
    assert gateway.refused('Metadata', request) is CODES.UNAUTHENTICATED
    given = {'collab-jax-proxy': 'fedcba9876543210'}
    given['collab-jax-client'] = '192.0.2.7:5'
    assert gateway.answer('Metadata', request, **given).model


def test_no_caller_takes_all_places(model, tmp_path):
  tokens = tmp_path / 'tokens'
  tokens.write_text('0123456789abcdef\nanother-token-of-16\n')
  tokens.chmod(0o600)
  security = serving.Security(token_file=str(tokens))
  with Gateway(model, quantizers=KMEANS, security=security) as gateway:
    given = {'authorization': 'Bearer 0123456789abcdef'}
    places = gateway.calls._calls
    name = gateway.server.authenticator.caller(given.items())
    while places.take(name):
      pass
    request = collab_pb2.MetadataRequest()
    code = gateway.refused('Metadata', request, **given)
    assert code is CODES.RESOURCE_EXHAUSTED
    other = {'authorization': 'Bearer another-token-of-16'}
    assert gateway.answer('Metadata', request, **other).model
