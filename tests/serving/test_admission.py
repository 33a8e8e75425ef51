"""Limits on strangers and callers: docs/serving.md#threat-model."""

import asyncio
import collections
import gc
import os
import socket
import struct
import sys
import threading
import time
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
import pytest

from collab_jax import serving
from collab_jax.serving import collab_pb2, memory
from collab_jax.serving.engine import engine
from collab_jax.serving.server import (
  admission,
  connections,
  metrics,
  places,
  security,
)
from tests.serving import harness

CODES = grpc.StatusCode
TOKENS = {'a': 'a' * 32, 'b': 'b' * 32}
CAPTION = '/collab_jax.v1.Captioner/Caption'


@pytest.fixture(scope='module')
def token_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokens') / 'tokens'
  path.write_text('\n'.join(TOKENS.values()))
  path.chmod(0o600)
  return str(path)


@pytest.fixture
def cold(request, model, token_file, monkeypatch):
  """Server that compiles nothing, with two tokens.

  A test's parameter is the time of a message, by default short.
  """
  monkeypatch.setattr(engine.Engine, 'warm_up', lambda self: iter([]))
  config = harness.make_config(
    quantizers='',
    security=security.Security(token_file=token_file),
    message_seconds=getattr(request, 'param', 0.5),
  )
  with serving.Server(model, config) as server:
    yield server


@pytest.fixture(scope='module')
def guarded(model, token_file):
  """Server with two tokens."""
  config = harness.make_config(
    quantizers='any',
    queue=4,
    max_sessions=2,
    security=security.Security(token_file=token_file),
  )
  with serving.Server(model, config) as server:
    yield server


@pytest.fixture
def callers(guarded):
  """Callers with the two tokens."""
  made = [harness.Caller(guarded.address, token=t) for t in TOKENS.values()]
  yield made
  for caller in made:
    caller.channel.close()


def _handshake_code(server, token=TOKENS['a']):
  """Returns the status of an empty handshake: INVALID_ARGUMENT if let in."""
  caller = harness.Caller(server.address, token=token)
  with pytest.raises(grpc.RpcError) as raised:
    caller.handshake('', timeout=5)
  caller.channel.close()
  return raised.value.code()


def _probe(server):
  with grpc.insecure_channel(server.address) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
  return reply.status == health_pb2.HealthCheckResponse.SERVING


def _silent_call(channel, token='', method=CAPTION):
  """Begins a call whose message never comes; returns it and its end."""
  end = threading.Event()

  def messages():
    end.wait(30)
    yield from ()

  metadata = [('authorization', f'Bearer {token}')] if token else []
  call = channel.stream_unary(method).future(messages(), metadata=metadata)
  call.add_done_callback(lambda _: end.set())
  return call


class RawConnection:
  """HTTP/2 by hand: calls that no library would make."""

  def __init__(self, address):
    host, _, port = address.rpartition(':')
    self.socket = socket.create_connection((host, int(port)), timeout=5)
    self.socket.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + _frame(4, 0, 0))

  def begin(self, path, stream=1, **headers):
    """Sends the headers of a call."""
    headers = {
      ':method': 'POST',
      ':scheme': 'http',
      ':path': path,
      ':authority': 'localhost',
      'content-type': 'application/grpc',
      'te': 'trailers',
      **headers,
    }
    block = b''.join(
      b'\x00' + _text(k.encode()) + _text(v.encode())
      for k, v in headers.items()
    )
    self.socket.sendall(_frame(1, 4, stream, block))

  def send(self, data, stream=1):
    """Sends bytes of a call's message."""
    self.socket.sendall(_frame(0, 0, stream, data))

  def wait_for_end(self, stream=1):
    """Returns once the server has ended a call, or the connection."""
    received = self.socket.makefile('rb')
    while head := received.read(9):
      length = int.from_bytes(head[:3], 'big')
      kind, flags = head[3], head[4]
      received.read(length)
      is_ours = int.from_bytes(head[5:], 'big') == stream
      if is_ours and (kind == 3 or (kind in (0, 1) and flags & 1)):
        return


def _frame(kind, flags, stream, payload=b''):
  head = struct.pack('>I', len(payload))[1:] + bytes([kind, flags])
  return head + struct.pack('>I', stream) + payload


def _text(data):
  assert len(data) < 127
  return bytes([len(data)]) + data


def test_a_strangers_message_is_not_awaited(cold):
  """A call without a token ends by its headers; so do 60 of 20 MB each."""
  raw = [RawConnection(cold.address) for _ in range(10)]
  for connection in raw:
    connection.begin(CAPTION)
    connection.send(b'\0' + struct.pack('>I', 20_000_000) + bytes(10_000))
  start = time.monotonic()
  for connection in raw:
    connection.wait_for_end()
    connection.socket.close()
  assert time.monotonic() - start < 3
  assert cold.metrics.value('calls') == 0
  assert _handshake_code(cold) is CODES.INVALID_ARGUMENT


def test_strangers_calls_take_no_places(cold):
  """More silent calls than there are places leave the owner all of them."""
  with grpc.insecure_channel(cold.address) as channel:
    calls = [_silent_call(channel) for _ in range(300)]
    codes = [call.exception(20).code() for call in calls]
    # A connection with a hundred of them is closed.
    assert set(codes) <= {CODES.UNAUTHENTICATED, CODES.UNAVAILABLE}
    assert codes[0] is CODES.UNAUTHENTICATED
    assert cold.metrics.value('calls') == 0
    assert _handshake_code(cold) is CODES.INVALID_ARGUMENT
    assert _probe(cold)


def test_messages_have_a_time_limit(cold):
  with grpc.insecure_channel(cold.address) as channel:
    start = time.monotonic()
    calls = [_silent_call(channel, TOKENS['a']) for _ in range(20)]
    harness.until(lambda: cold.metrics.value('calls') == 20)
    for call in calls:
      assert call.exception(10).code() is CODES.DEADLINE_EXCEEDED
    assert 0.4 < time.monotonic() - start < 5
  assert 'has not come within 0.5 s' in calls[0].details()
  assert cold.metrics.value('rejections_total', reason='late') == 20
  harness.until(lambda: cold.metrics.value('calls') == 0)


# The calls last until they are cancelled, however slow the machine.
@pytest.mark.parametrize('cold', [600.0], indirect=True)
def test_a_caller_has_but_a_share_of_the_places(cold):
  """Silent calls with one token leave room for the other token."""
  size = cold.config.queue + cold.config.engine.max_slots + 256
  with grpc.insecure_channel(cold.address) as channel:
    calls = [_silent_call(channel, TOKENS['a']) for _ in range(size)]
    # Half of them take all that one caller may hold.
    harness.until(lambda: sum(call.done() for call in calls) >= size // 2)
    for _ in range(5):
      assert _handshake_code(cold, TOKENS['b']) is CODES.INVALID_ARGUMENT
    codes = [call.code() for call in calls if call.done()]
    assert set(codes) == {CODES.RESOURCE_EXHAUSTED}
    assert len(codes) == pytest.approx(size / 2, abs=1)
    assert cold.metrics.value('rejections_total', reason='calls') == len(codes)
    for call in calls:
      call.cancel()
    harness.until(lambda: cold.metrics.value('calls') == 0)


def test_watch_streams_are_bounded(cold, monkeypatch):
  with grpc.insecure_channel(cold.address) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(450)]
    harness.until(lambda: sum(call.done() for call in watches) == 442)
    assert cold.metrics.value('watches') == 8
    codes = {call.code() for call in watches if call.done()}
    assert codes == {CODES.RESOURCE_EXHAUSTED}
    assert _handshake_code(cold) is CODES.INVALID_ARGUMENT
    assert _probe(cold)
    # A caller with a token has streams of its own.
    metadata = [('authorization', f'Bearer {TOKENS["a"]}')]
    mine = stub.Watch(health_pb2.HealthCheckRequest(), metadata=metadata)
    assert next(mine).status == health_pb2.HealthCheckResponse.SERVING
    for call in (*watches, mine):
      call.cancel()
    harness.until(lambda: cold.metrics.value('watches') == 0)
    monkeypatch.setattr(admission, '_WATCH_SECONDS', 0.1)
    late = stub.Watch(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.RpcError):
      list(late)
    assert late.code() is CODES.UNAVAILABLE


@pytest.mark.parametrize('method', ['Check', 'Watch'])
def test_the_probe_is_answered_beside_silent_probes(cold, method):
  with grpc.insecure_channel(cold.address) as channel:
    path = f'/grpc.health.v1.Health/{method}'
    calls = [_silent_call(channel, method=path) for _ in range(100)]
    for _ in range(20):
      assert _probe(cold)
    for call in calls:
      call.cancel()


def test_unknown_services_of_probes_are_named(cold):
  with grpc.insecure_channel(cold.address) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    with harness.refused(CODES.NOT_FOUND):
      stub.Check(health_pb2.HealthCheckRequest(service='nothing'))


def test_names_of_methods_and_codes_bound_the_metrics(cold):
  """No text of a caller becomes a label."""
  with grpc.insecure_channel(cold.address) as channel:
    for i in range(20):
      call = channel.unary_unary(f'/collab_jax.v1.Captioner/M{i}')
      with harness.refused(CODES.UNIMPLEMENTED):
        call(b'', metadata=[('authorization', f'Bearer {i}')])
    _handshake_code(cold, 'x' * 32)
  labels = [
    sample.labels['method']
    for family in cold.metrics.registry.collect()
    for sample in family.samples
    if 'method' in sample.labels
  ]
  assert set(labels) <= {'Handshake', 'Caption', 'CaptionStream'}


def test_an_id_belongs_to_its_token(model, token_file, made):
  """Two tokens may make the same id; nothing is read across."""
  codec, packets = made['residual']
  first = codec.session.split(packets[0])[0]
  name = os.urandom(16)
  config = harness.make_config(
    quantizers=harness.QUANTIZERS[2],
    security=security.Security(token_file=token_file),
  )
  with serving.Server(model, config) as server:
    a, b = (harness.Caller(server.address, token=t) for t in TOKENS.values())
    mine = a.caption(codec, first, request_id=name)
    with harness.refused(CODES.FAILED_PRECONDITION) as text:
      b.caption(codec, b'', continues=name)
    assert 'not known here' in text[0]
    # The same id of another is neither an error nor a repetition.
    other = b.caption(codec, packets[1], request_id=name)
    assert not other.repeated
    again = a.caption(codec, first, request_id=name)
    assert (again.caption, again.repeated) == (mine.caption, True)
    assert a.caption(codec, b'', continues=name).caption == mine.caption


def test_a_session_belongs_to_its_token(callers, made, guarded):
  """Each agrees on a codec by itself, unless the operator has listed it."""
  codec, packets = made['kmeans']
  a, b = callers
  a.handshake(codec)
  assert a.caption(codec, packets[0]).tokens
  with harness.refused(CODES.FAILED_PRECONDITION) as text:
    b.caption(codec, packets[0])
  assert text[0].endswith('handshake first')
  b.handshake(codec)
  assert b.caption(codec, packets[0]).tokens


def test_a_callers_codecs_do_not_drop_anothers(callers, made, guarded):
  codec, packets = made['kmeans']
  a, b = callers
  a.handshake(codec)
  assert a.caption(codec, packets[0]).tokens
  made_here = harness.codec_of(codec.model)
  for k in (12, 13, 14):
    b.handshake(made_here(f'top_norm(k={k})'))
  assert a.caption(codec, packets[0]).tokens


def test_captions_go_on_beside_a_compilation(callers, made, guarded):
  """Codecs are compiled on threads of their own."""
  codec, packets = made['kmeans']
  a, b = callers
  a.handshake(codec)
  with harness.held(guarded, compiling=True):
    text = harness.codec_of(codec.model)('top_norm(k=20)').to_json()
    request = collab_pb2.HandshakeRequest(session=text)
    asked = b.stub.Handshake.future(request, metadata=b.metadata)
    for packet in packets:
      assert a.caption(codec, packet, timeout=5).tokens
    assert not asked.done()
  assert asked.result().session


def test_one_callers_handshakes_leave_anothers(callers, made, guarded):
  """Four of a caller wait; another caller's is taken, and not made last."""
  codec, _ = made['kmeans']
  a, b = callers
  codec_of = harness.codec_of(codec.model)

  def ask(caller, k):
    text = codec_of(f'top_norm(k={k})').to_json()
    request = collab_pb2.HandshakeRequest(session=text)
    return caller.stub.Handshake.future(request, metadata=caller.metadata)

  order = []
  with harness.held(guarded, compiling=True):
    many = [ask(a, k) for k in range(30, 38)]
    harness.until(lambda: sum(call.done() for call in many) == 4)
    asked = ask(b, 40)
    for call in (*many, asked):
      call.add_done_callback(order.append)
    time.sleep(0.2)
    assert not asked.done()
  assert asked.result().session
  accepted = [call for call in many if not call.exception()]
  assert len(accepted) == 4
  harness.until(lambda: len(order) == 9)
  assert order.index(asked) < order.index(accepted[-1])


def test_remembered_ids_keep_no_codec_alive(callers, made, guarded):
  codec, packets = made['kmeans']
  callers[0].handshake(codec)
  callers[0].caption(codec, packets[0])
  entries = guarded._service._idempotency._entries._entries.values()
  kept = [value.request for value, _, _ in entries]
  assert kept
  assert {(state.decoder, state.message) for state in kept} == {(None, None)}


def test_requests_that_have_ended_are_forgotten(callers, made, guarded):
  """However many are refused or given up, none is kept."""
  codec, packets = made['kmeans']
  caller = callers[0]
  caller.handshake(codec)
  damaged = bytes([*packets[0][:-1], packets[0][-1] ^ 1])

  def storm():
    for _ in range(50):
      with harness.refused(CODES.INVALID_ARGUMENT):
        caller.caption(codec, damaged)
      caller.future(codec, packets[0]).cancel()

  def kept():
    gc.collect()
    kinds = collections.Counter(type(o).__name__ for o in gc.get_objects())
    answers = len(guarded._service._idempotency)
    return kinds['RequestState'] - answers, kinds['AbortError']

  # gRPC leaves them in cycles, some of which a second collection frees; threads
  # and the loop may still hold the last few.
  for _ in range(2):
    storm()
    harness.until(lambda: max(kept()) < 20)


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
def test_free_memory_is_given_back(cold, monkeypatch):
  """Trimming begins with the server, and ends with it."""
  assert memory._find_trim() is not None
  trimmed = []
  monkeypatch.setattr(memory, '_PERIOD_SECONDS', 0.01)
  monkeypatch.setattr(memory, '_find_trim', lambda: trimmed.append)
  task = asyncio.run_coroutine_threadsafe(memory.trim_regularly(), cold._loop)
  harness.until(lambda: len(trimmed) > 2)
  assert set(trimmed) == {0}
  task.cancel()
  names = [t.get_coro().__name__ for t in asyncio.all_tasks(cold._loop)]
  assert 'trim_regularly' in names


def test_places_are_forgotten_with_their_callers():
  some = places.Places(4, fair=lambda: True)
  for i in range(1000):
    assert some.take(str(i))
    some.release(str(i))
  assert not some._held


def test_oldest_connections_of_a_stranger_are_closed():
  """Connections whose calls were let in stay."""
  counters = metrics.Metrics()
  limiter = connections.ConnectionLimiter(counters)
  crowd = [f'10.0.0.1:{port}' for port in range(1000, 1070)]
  for peer in crowd:
    limiter.surplus({peer, *crowd[: crowd.index(peer)]})
  limiter.admit('ipv4:10.0.0.1:1000', 'a')
  peers = {*crowd, '10.0.0.2:1', '[::1]:2'}
  assert limiter.surplus(peers) == set(crowd[1:6])
  for _ in range(101):
    limiter.count_refusal('ipv4:10.0.0.2:1')
  assert '10.0.0.2:1' in limiter.surplus(peers)
  assert limiter.surplus({crowd[0]}) == set()
  assert set(limiter._since) == {crowd[0]}
  assert not limiter._refusals


def test_answers_to_strangers_are_paced(monkeypatch):
  """Fifty are at once, then fifty a second, each address for itself."""
  now = [100.0]
  monkeypatch.setattr(connections.time, 'monotonic', lambda: now[0])
  limiter = connections.ConnectionLimiter(metrics.Metrics())
  waits = [limiter.wait_seconds('ipv4:10.0.0.1:1') for _ in range(1000)]
  assert max(waits[:50]) < 1e-6
  assert waits[99] == pytest.approx(1.0)
  assert max(waits) < 5.1
  assert limiter.wait_seconds('ipv4:10.0.0.2:1') == 0
  now[0] += 10
  assert limiter.wait_seconds('ipv4:10.0.0.1:9') == 0
  now[0] += 10
  limiter.surplus(set())
  assert not limiter._paced


def test_probes_of_one_connection_wait_for_each_other(monkeypatch):
  """Others wait 0.8 s at most; a connection of too many is closed."""
  monkeypatch.setattr(connections.time, 'monotonic', lambda: 100.0)
  limiter = connections.ConnectionLimiter(metrics.Metrics())
  flood, probe = 'ipv4:10.0.0.1:1000', 'ipv4:10.0.0.1:2000'
  waits = [limiter.probe_seconds(flood) for _ in range(300)]
  assert max(waits[:4]) < 1e-6
  assert waits[9] == pytest.approx(1.5)
  assert max(waits) < 2.8
  assert waits[200] >= 2.5
  assert limiter.probe_seconds(probe) <= 0.8
  assert limiter.surplus({'10.0.0.1:1000', '10.0.0.1:2000'}) == {
    '10.0.0.1:1000'
  }
  # At a socket file all are one: none waits for another's flood.
  assert max(limiter.probe_seconds('unix:') for _ in range(300)) <= 0.8


def test_connections_of_strangers_are_bounded_in_all():
  limiter = connections.ConnectionLimiter(metrics.Metrics())
  peers = {f'10.0.{i}.1:{port}' for i in range(20) for port in range(60)}
  closed = limiter.surplus({*peers, '10.1.0.1:1'})
  assert len(peers) + 1 - len(closed) == 512
  assert '10.1.0.1:1' not in closed


def test_idle_connections_leave_the_owner_room(cold):
  """An open connection of a stranger costs nothing for long."""
  host, _, port = cold.address.rpartition(':')
  idle = [socket.create_connection((host, int(port))) for _ in range(200)]
  assert _handshake_code(cold) is CODES.INVALID_ARGUMENT
  harness.until(
    lambda: cold.metrics.value('rejections_total', reason='connections') >= 130
  )
  assert _handshake_code(cold) is CODES.INVALID_ARGUMENT
  assert _probe(cold)
  for connection in idle:
    connection.close()


def test_two_servers_on_one_socket_file(model, monkeypatch, tmp_path):
  """A second server is refused; a file that is left over is not."""
  monkeypatch.setattr(engine.Engine, 'warm_up', lambda self: iter([]))
  path = tmp_path / 'socket'
  with socket.socket(socket.AF_UNIX) as crashed:
    crashed.bind(str(path))
  config = harness.make_config(quantizers='', host=f'unix:{path}')
  with serving.Server(model, config) as server:
    other = serving.Server(model, config)
    with pytest.raises(OSError, match=r'another server listens'), other:
      pass
    assert _probe(server)


def test_readers_of_metrics_are_bounded(model, monkeypatch):
  monkeypatch.setattr(engine.Engine, 'warm_up', lambda self: iter([]))
  monkeypatch.setattr(metrics, '_READER_SECONDS', 0.5)
  config = harness.make_config(quantizers='', metrics_port=0)
  with serving.Server(model, config) as server:
    host, _, port = server.metrics_address.rpartition(':')

    def readers():
      names = [thread.name for thread in threading.enumerate()]
      return sum('process_request' in name for name in names)

    idle = [socket.create_connection((host, int(port))) for _ in range(40)]
    for _ in range(10):
      time.sleep(0.02)
      assert readers() <= 8
    harness.until(lambda: not readers(), 5)
    with urllib.request.urlopen(f'http://{host}:{port}/metrics') as reply:
      assert b'collab_jax_rejections_total' in reply.read()
    for connection in idle:
      connection.close()


@pytest.mark.parametrize(
  ('peer', 'plain'),
  [
    ('ipv4:127.0.0.1:80', '127.0.0.1:80'),
    ('ipv6:%5B::1%5D:80', '::1:80'),
    ('ipv6:[::ffff:10.0.0.1]:80', '10.0.0.1:80'),
    ('unix:', 'unix:'),
    ('unix:/tmp/s', 'unix:'),
  ],
)
def test_peers_are_read_as_grpc_writes_them(peer, plain):
  assert security.plain_peer(peer) == plain


def test_callers_are_told_apart(tmp_path):
  """By token, else by certificate, else by address."""

  class Context:
    def __init__(self, peer, **identity):
      self.peer, self.auth_context = lambda: peer, lambda: identity

  near = Context('ipv4:10.0.0.1:1000')
  assert security.peer_identity(near) == '10.0.0.1'
  one = Context('ipv4:10.0.0.1:1', x509_pem_cert=[b'one'])
  moved = Context('ipv4:10.0.0.9:2', x509_pem_cert=[b'one'])
  two = Context('ipv4:10.0.0.1:1', x509_pem_cert=[b'two'])
  assert security.peer_identity(one) == security.peer_identity(moved)
  assert security.peer_identity(one) != security.peer_identity(two)
  (tmp_path / 'tokens').write_text('a' * 16)
  single = security.Security(token_file=str(tmp_path / 'tokens'))
  assert not security.Authenticator(single, '0.0.0.0').several()
  assert not security.Authenticator(security.Security()).several()
  assert security.Authenticator(security.Security(), '0.0.0.0').several()
  name = security.Authenticator(single).caller(
    [('authorization', 'Bearer ' + 'a' * 16)]
  )
  assert name
  assert 'aaaa' not in name
