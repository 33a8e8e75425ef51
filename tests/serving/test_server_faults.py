"""Server faults: overload, deadlines, internal errors, stops."""

import asyncio
import contextlib
import os
import socket
import threading
import time
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
import jax
import pytest

from collab_jax import codecs, serving
from collab_jax.serving.engine import (
  decode_state,
  engine,
)
from collab_jax.serving.server import (
  compiler,
  decoders,
  metrics,
  request_queue,
  run,
)
from tests import colours
from tests.serving import harness

CODES = grpc.StatusCode
QUEUE = 3


@pytest.fixture(scope='module')
def server(model):
  chosen = harness.make_config(queue=QUEUE, quantizers='any', max_sessions=3)
  with serving.Server(model, chosen) as run:
    yield run


@pytest.fixture(scope='module')
def caller(server):
  made = harness.Caller(server.address)
  yield made
  made.channel.close()


@pytest.fixture(scope='module')
def kmeans(caller, made):
  codec, packets = made['kmeans']
  caller.handshake(codec)
  return codec, packets


def _waiting(server):
  return server.metrics.value('queue')


def test_full_queue_refuses_at_once(server, caller, kmeans):
  codec, packets = kmeans
  with harness.held(server):
    asked = [caller.future(codec, packets[i]) for i in range(QUEUE)]
    harness.until(lambda: _waiting(server) == QUEUE)
    start = time.monotonic()
    with harness.refused(CODES.RESOURCE_EXHAUSTED) as text:
      caller.caption(codec, packets[0])
    assert time.monotonic() - start < 1
    assert text == ['the queue is full: 3 requests wait; try again later']
    # Whoever goes, leaves a place.
    asked[0].cancel()
    harness.until(lambda: _waiting(server) == QUEUE - 1)
    asked[0] = caller.future(codec, packets[0])
    late = caller.future(codec, packets[1], timeout=0.05)
    assert late.exception().code() in (
      CODES.RESOURCE_EXHAUSTED,
      CODES.DEADLINE_EXCEEDED,
    )
  assert all(call.result().tokens for call in asked)
  harness.until(lambda: _waiting(server) == 0)


def test_damaged_messages_take_no_place(server, caller, kmeans):
  codec, packets = kmeans
  for _ in range(2 * QUEUE):
    with harness.refused(CODES.INVALID_ARGUMENT):
      caller.caption(codec, packets[0][:-2])
  assert _waiting(server) == 0
  assert caller.caption(codec, packets[0]).tokens


@pytest.mark.parametrize('name', ['prefill', 'decode'])
def test_device_error_ends_its_own_requests(
  server, caller, kmeans, monkeypatch, name
):
  codec, packets = kmeans
  want = [caller.caption(codec, packets[i]).caption for i in range(2)]
  failures = []

  def fail(*_):
    failures.append(1)
    monkeypatch.undo()
    raise RuntimeError('out of memory')

  request_id = os.urandom(16)
  monkeypatch.setattr(decode_state, name, fail)
  with harness.refused(CODES.INTERNAL) as text:
    caller.caption(codec, packets[0], request_id=request_id)
  assert failures == [1]
  assert 'out of memory' not in text[0]
  # A failure is not remembered: the same request is tried again.
  again = caller.caption(codec, packets[0], request_id=request_id)
  assert (again.caption, again.repeated) == (want[0], False)
  assert caller.caption(codec, packets[1]).caption == want[1]


def test_error_of_one_codec_leaves_the_others(
  server, caller, kmeans, made, monkeypatch
):
  codec, packets = kmeans
  other, theirs = made['close']
  caller.handshake(other)
  rebuild = decoders.MessageDecoder.rebuild

  def fail(self, received, batch):
    if self.codec.name == other.name:
      raise RuntimeError('no')
    return rebuild(self, received, batch)

  monkeypatch.setattr(decoders.MessageDecoder, 'rebuild', fail)
  with harness.held(server):
    good = caller.future(codec, packets[0])
    bad = caller.future(other, theirs[0])
    harness.until(lambda: _waiting(server) == 2)
  assert good.result().tokens
  assert bad.exception().code() is CODES.INTERNAL


@pytest.mark.parametrize('name', ['unpack', 'rebuild'])
def test_no_message_ends_the_server(server, caller, kmeans, monkeypatch, name):
  codec, packets = kmeans

  def leave(*_):
    monkeypatch.undo()
    raise SystemExit(3)

  monkeypatch.setattr(decoders.MessageDecoder, name, leave)
  with harness.refused(CODES.INTERNAL) as text:
    caller.caption(codec, packets[0])
  assert 'its log says why' in text[0]
  assert caller.caption(codec, packets[0]).tokens


class Unreadable(colours.Colours):
  """Does not read what it writes."""

  def unpack(self, message):
    raise KeyError(len(message))


def test_a_codec_that_fails_at_the_start_is_named(model):
  name = f'{__name__}:Unreadable'
  chosen = harness.make_config(quantizers='', images=name)
  with pytest.raises(ValueError, match=r'Unreadable: got .*KeyError.* black'):
    run.serve_forever(serving.Server(model, chosen))


def test_scheduler_survives_errors(server, caller, kmeans, monkeypatch):
  codec, packets = kmeans

  def fail(*_):
    monkeypatch.undo()
    raise ZeroDivisionError

  monkeypatch.setattr(decoders.MessageDecoder, 'layers', fail, raising=True)
  with harness.held(server):
    # Unpacked already: the worker asks for the layers itself.
    monkeypatch.undo()
    call = caller.future(codec, packets[0])
    harness.until(lambda: _waiting(server) == 1)
    monkeypatch.setattr(decoders.MessageDecoder, 'layers', fail)
  assert call.exception().code() is CODES.INTERNAL
  assert caller.caption(codec, packets[0]).tokens


@pytest.mark.parametrize('what', ['waiting', 'working'])
def test_end_of_the_scheduler_ends_serving(model, made, monkeypatch, what):
  codec, packets = made['kmeans']

  def broken(*_):
    raise RuntimeError('lost') if what == 'waiting' else SystemExit

  chosen = harness.make_config(quantizers='kmeans(k=4)')
  with serving.Server(model, chosen) as server:
    caller = harness.Caller(server.address)
    caller.handshake(codec)
    worker = server._scheduler
    with harness.held(server):
      asked = caller.future(codec, packets[0])
      harness.until(lambda: server.metrics.value('queue') == 1)
      if what == 'waiting':
        monkeypatch.setattr(worker.queue, 'take', lambda choose: [])
        monkeypatch.setattr(worker.queue, 'wait', broken)
      else:
        monkeypatch.setattr(worker, '_step', broken)
    # Who waits is told, and nobody is let in any more.
    assert asked.exception(timeout=10).code() is CODES.UNAVAILABLE
    assert 'its log says why' in asked.details()
    with harness.refused(CODES.UNAVAILABLE):
      caller.caption(codec, packets[0])
    health = health_pb2_grpc.HealthStub(caller.channel)
    found = health.Check(health_pb2.HealthCheckRequest()).status
    assert found == health_pb2.HealthCheckResponse.NOT_SERVING
    assert server.failed.is_set()
    caller.channel.close()


def test_program_ends_when_the_scheduler_has_ended(model, monkeypatch, capsys):
  async def warm_up(self):
    self._on_failure()

  monkeypatch.setattr(serving.Server, '_warm_up', warm_up)
  with pytest.raises(OSError, match='the server has failed'):
    run.serve_forever(serving.Server(model, harness.make_config()))
  assert 'listening on' in capsys.readouterr().out


def test_any_admits_quantizers_of_the_package_only(caller, model):
  names = (
    'tests.standin:Nothing',
    'kmeans(k=4,centroids=os.path:join)',
    'shared_vq(book=/etc/passwd)',
    'kmeans(k=4)' + ' ' * 600,
  )
  text = codecs.FeatureCodec(model, 'kmeans(k=4)').to_json()
  for name in names:
    assert '"kmeans(k=4)"' in text
    with harness.refused(CODES.FAILED_PRECONDITION) as said:
      caller.handshake(text.replace('"kmeans(k=4)"', f'"{name}"'))
    assert "expected one of the package's own" in said[0]
  for name in ('kmeans(k=65)', 'kmeans(k=0)', 'nothing', 'kmeans(' * 60):
    with harness.refused(CODES.INVALID_ARGUMENT):
      caller.handshake(text.replace('"kmeans(k=4)"', f'"{name}"'))


def test_least_recently_used_session_is_dropped(
  server, caller, made, model, images
):
  codec, packets = made['kmeans']
  caller.handshake(codec)
  others = [codecs.FeatureCodec(model, f'top_norm(k={k})') for k in (4, 5, 6)]
  for other in others[:2]:
    caller.handshake(other)
  assert caller.caption(codec, packets[0]).tokens
  caller.handshake(others[2])
  assert server.metrics.value('sessions') == 3
  assert caller.caption(codec, packets[0]).tokens
  message = others[0].encode(images[:1], jax.random.key(0))[0]
  with harness.refused(CODES.FAILED_PRECONDITION) as text:
    caller.caption(others[0], message)
  assert 'handshake first' in text[0]
  caller.handshake(others[0])
  assert caller.caption(others[0], message).tokens


def test_programs_of_dropped_codecs_are_freed(
  server, caller, made, model, monkeypatch
):
  freed = []
  forget = codecs.forget_programs
  monkeypatch.setattr(codecs, 'forget_programs', lambda: freed.append(forget()))
  # As many as fill the places, and as many again, which drop those.
  for k in range(7, 40):
    if freed:
      break
    caller.handshake(codecs.FeatureCodec(model, f'top_norm(k={k})'))
  harness.until(lambda: freed)
  codec, packets = made['kmeans']
  caller.handshake(codec)
  assert caller.caption(codec, packets[0]).tokens


def test_concurrent_handshakes_share_work_and_are_bounded(
  server, caller, model
):
  """Equal handshakes share the work; too many different ones are refused."""
  every = [codecs.FeatureCodec(model, f'kmeans(k={k})') for k in range(10, 15)]
  with harness.held(server, compiling=True):
    asked = []
    for codec in every:
      text = codec.to_json()
      request = harness.collab_pb2.HandshakeRequest(session=text)
      asked += [caller.stub.Handshake.future(request) for _ in range(4)]
    harness.until(lambda: sum(call.done() for call in asked) == 4)
    early = [call for call in asked if call.done()]
    assert {call.exception().code() for call in early} == {
      CODES.RESOURCE_EXHAUSTED
    }
    asked[0].cancel()  # Its three others still wait.
  for call in asked[1:16]:
    assert call.result().session


def test_nothing_is_served_before_the_warm_up(model, made, monkeypatch):
  codec, packets = made['kmeans']
  release = threading.Event()
  monkeypatch.setattr(
    engine.Engine, 'warm_up', lambda self: iter([release.wait, self.reset])
  )
  server = _background(model)
  caller = harness.Caller(server.address)
  health = health_pb2_grpc.HealthStub(caller.channel)

  def status():
    reply = health.Check(health_pb2.HealthCheckRequest())
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

  assert status() == 'NOT_SERVING'
  assert server.metrics.value('serving') == 0
  with harness.refused(CODES.UNAVAILABLE) as text:
    caller.handshake(codec)
  assert text == ['the server is warming up']
  release.set()
  harness.until(lambda: status() == 'SERVING')
  assert server.metrics.value('serving') == 1
  server.__exit__()
  with harness.refused(CODES.UNAVAILABLE):
    caller.caption(codec, packets[0])


def test_stop_during_warm_up(model):
  server = _background(model)
  start = time.monotonic()
  server.__exit__()
  assert time.monotonic() - start < 8
  assert not server._scheduler._thread.is_alive()


def _background(model, **changes):
  """Starts a server that may still be warming up."""
  server = serving.Server(model, harness.make_config(**changes))
  return server.in_thread(warm=False)


def test_stop_finishes_accepted_requests(model, made):
  codec, packets = made['kmeans']
  server = _background(model, quantizers='kmeans(k=4)')
  server.wait(_await(server.warming))
  caller = harness.Caller(server.address)
  caller.handshake(codec)
  with harness.held(server):
    asked = [caller.future(codec, packets[i]) for i in range(6)]
    chunks = caller.stream(codec, packets[0])
    harness.until(lambda: _waiting(server) == 7)
    ending = threading.Thread(target=server.__exit__)
    ending.start()
    harness.until(lambda: server._service.closed)
    with harness.refused(CODES.UNAVAILABLE) as text:
      caller.caption(codec, packets[0])
    assert text == ['the server is being stopped']
  assert all(call.result().tokens for call in asked)
  assert list(chunks)[-1].reply.tokens
  ending.join(20)
  assert not ending.is_alive()


def test_requests_are_taken_while_probes_are_told_of_the_end(model, made):
  """A proxy has some seconds to send them elsewhere."""
  server = _background(
    model, quantizers='kmeans(k=4)', lame_duck_seconds=2.0, metrics_port=0
  )
  server.wait(_await(server.warming))
  codec, packets = made['kmeans']
  caller = harness.Caller(server.address)
  caller.handshake(codec)
  ending = threading.Thread(target=server.__exit__)
  ending.start()
  harness.until(lambda: server.metrics.value('serving') == 0)
  ready = f'http://{server.metrics_address}/ready'
  with pytest.raises(urllib.error.HTTPError, match='503'):
    urllib.request.urlopen(ready)
  assert caller.caption(codec, packets[0]).tokens > 0
  harness.until(lambda: server._service.closed)
  with harness.refused(CODES.UNAVAILABLE):
    caller.caption(codec, packets[0])
  ending.join(20)
  assert not ending.is_alive()


def test_stop_is_bounded_by_drain_seconds(model, made, monkeypatch):
  codec, packets = made['kmeans']
  server = _background(model, quantizers='kmeans(k=4)', drain_seconds=0.2)
  server.wait(_await(server.warming))
  caller = harness.Caller(server.address)
  caller.handshake(codec)
  release = threading.Event()
  monkeypatch.setattr(decode_state, 'decode', lambda *_: release.wait(10))
  call = caller.future(codec, packets[0])
  harness.until(lambda: server.metrics.value('batch_sum') == 1)
  start = time.monotonic()
  server.__exit__()
  assert time.monotonic() - start < 5
  assert call.exception().code() in (CODES.UNAVAILABLE, CODES.CANCELLED)
  release.set()


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost', '0.0.0.0'])
def test_port_in_use_is_an_error(model, server, capfd, host):
  port = int(server.address.rpartition(':')[2])
  security = serving.Security(insecure=True)
  config = harness.make_config(host=host, port=port, security=security)
  with contextlib.ExitStack() as stack:
    if host == 'localhost':  # With its other address, if there is one.
      with contextlib.suppress(OSError):
        place = '::1', port
        taken = socket.create_server(place, family=socket.AF_INET6)
        stack.enter_context(taken)
    _refuses(model, config, f'^port: got {port}, at which another program')
  assert capfd.readouterr().err == ''


def _refuses(model, config, said):
  other = serving.Server(model, config)
  with pytest.raises(OSError, match=said), other:
    pass


def test_an_address_of_another_machine_is_an_error(model, capfd):
  security = serving.Security(insecure=True)
  config = harness.make_config(host='192.0.2.1', port=0, security=security)
  _refuses(model, config, '^host: got 192.0.2.1, expected an address of this')
  assert capfd.readouterr().err == ''


@pytest.fixture
def on_a_socket(model, tmp_path):
  """Starts servers on one Unix socket, and stops them."""
  servers = []

  def start():
    config = harness.make_config(host=f'unix:{tmp_path}/s')
    servers.append(serving.Server(model, config).in_thread(warm=False))

  yield start
  for server in servers:
    server.__exit__()


def test_the_socket_of_a_running_server_is_not_taken(on_a_socket, tmp_path):
  on_a_socket()
  owned = os.stat(f'{tmp_path}/s').st_ino
  with pytest.raises(OSError, match='another server listens, expected'):
    on_a_socket()
  assert os.stat(f'{tmp_path}/s').st_ino == owned


def test_the_socket_of_a_killed_server_is_taken(on_a_socket, tmp_path):
  with socket.socket(socket.AF_UNIX) as left_behind:
    left_behind.bind(f'{tmp_path}/s')
  on_a_socket()
  with socket.socket(socket.AF_UNIX) as caller:
    caller.connect(f'{tmp_path}/s')


def test_stop_while_codecs_compile():
  """Callers that had gone away, and callers that still waited."""
  held = threading.Event()

  async def stop():
    loop = asyncio.get_running_loop()
    threads = compiler.CompileThreads(loop, metrics.Metrics())
    calls = [loop.create_task(threads.call(held.wait)) for _ in range(4)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[3].cancel()
    threads.stop('the server is being stopped')
    try:
      return await asyncio.gather(*calls, return_exceptions=True)
    finally:
      held.set()

  gone, *waiting, gone_in_queue = asyncio.run(stop())
  assert isinstance(gone, asyncio.CancelledError)
  assert isinstance(gone_in_queue, asyncio.CancelledError)
  assert [str(error) for error in waiting] == [
    'the server is being stopped'
  ] * 2
  assert all(
    isinstance(error, request_queue.ServerStoppedError) for error in waiting
  )


async def _await(task):
  return await task
