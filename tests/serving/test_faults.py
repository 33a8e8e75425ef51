"""What goes wrong: too many, too late, errors within, an end in between."""

import os
import threading
import time

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
  decoders,
  run,
)
from tests.serving import calling

CODES = grpc.StatusCode
QUEUE = 3


@pytest.fixture(scope='module')
def server(model):
  chosen = calling.settings(queue=QUEUE, quantizers='any', max_sessions=3)
  with serving.Server(model, chosen) as run:
    yield run


@pytest.fixture(scope='module')
def caller(server):
  made = calling.Caller(server.address)
  yield made
  made.channel.close()


@pytest.fixture(scope='module')
def kmeans(caller, made):
  codec, packets = made['kmeans']
  caller.handshake(codec)
  return codec, packets


def _waiting(server):
  return server.metrics.value('queue')


def test_a_full_queue_says_so_at_once(server, caller, kmeans):
  codec, packets = kmeans
  with calling.held(server):
    asked = [caller.future(codec, packets[i]) for i in range(QUEUE)]
    calling.until(lambda: _waiting(server) == QUEUE)
    start = time.monotonic()
    with calling.refused(CODES.RESOURCE_EXHAUSTED) as text:
      caller.caption(codec, packets[0])
    assert time.monotonic() - start < 1
    assert text == ['the queue is full: 3 requests wait; try again later']
    # Whoever goes, leaves a place.
    asked[0].cancel()
    calling.until(lambda: _waiting(server) == QUEUE - 1)
    asked[0] = caller.future(codec, packets[0])
    late = caller.future(codec, packets[1], timeout=0.05)
    assert late.exception().code() in (
      CODES.RESOURCE_EXHAUSTED,
      CODES.DEADLINE_EXCEEDED,
    )
  assert all(call.result().tokens for call in asked)
  calling.until(lambda: _waiting(server) == 0)


def test_bad_bytes_do_not_take_places(server, caller, kmeans):
  codec, packets = kmeans
  for _ in range(2 * QUEUE):
    with calling.refused(CODES.INVALID_ARGUMENT):
      caller.caption(codec, packets[0][:-2])
  assert _waiting(server) == 0
  assert caller.caption(codec, packets[0]).tokens


@pytest.mark.parametrize('name', ['prefill', 'decode'])
def test_an_error_on_the_device_ends_what_it_concerns(
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
  with calling.refused(CODES.INTERNAL) as text:
    caller.caption(codec, packets[0], request_id=request_id)
  assert failures == [1]
  assert 'out of memory' not in text[0]
  # A failure is not remembered: the same request is tried again.
  again = caller.caption(codec, packets[0], request_id=request_id)
  assert (again.caption, again.repeated) == (want[0], False)
  assert caller.caption(codec, packets[1]).caption == want[1]


def test_an_error_of_one_codec_is_not_the_others(
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
  with calling.held(server):
    good = caller.future(codec, packets[0])
    bad = caller.future(other, theirs[0])
    calling.until(lambda: _waiting(server) == 2)
  assert good.result().tokens
  assert bad.exception().code() is CODES.INTERNAL


def test_the_worker_outlives_its_own_errors(
  server, caller, kmeans, monkeypatch
):
  codec, packets = kmeans

  def fail(*_):
    monkeypatch.undo()
    raise ZeroDivisionError

  monkeypatch.setattr(decoders.MessageDecoder, 'layers', fail, raising=True)
  with calling.held(server):
    # Unpacked already: the worker asks for the layers itself.
    monkeypatch.undo()
    call = caller.future(codec, packets[0])
    calling.until(lambda: _waiting(server) == 1)
    monkeypatch.setattr(decoders.MessageDecoder, 'layers', fail)
  assert call.exception().code() is CODES.INTERNAL
  assert caller.caption(codec, packets[0]).tokens


@pytest.mark.parametrize('what', ['waits', 'works'])
def test_the_end_of_the_worker_is_the_end_of_serving(
  model, made, monkeypatch, what
):
  codec, packets = made['kmeans']

  def broken(*_):
    raise RuntimeError('lost') if what == 'waits' else SystemExit

  chosen = calling.settings(quantizers='kmeans(k=4)')
  with serving.Server(model, chosen) as server:
    caller = calling.Caller(server.address)
    caller.handshake(codec)
    worker = server._scheduler
    with calling.held(server):
      asked = caller.future(codec, packets[0])
      calling.until(lambda: server.metrics.value('queue') == 1)
      if what == 'waits':
        monkeypatch.setattr(worker.queue, 'take', lambda choose: [])
        monkeypatch.setattr(worker.queue, 'wait', broken)
      else:
        monkeypatch.setattr(worker, '_step', broken)
    # Who waits is told, and nobody is let in any more.
    assert asked.exception(timeout=10).code() is CODES.UNAVAILABLE
    assert 'its log says why' in asked.details()
    with calling.refused(CODES.UNAVAILABLE):
      caller.caption(codec, packets[0])
    health = health_pb2_grpc.HealthStub(caller.channel)
    found = health.Check(health_pb2.HealthCheckRequest()).status
    assert found == health_pb2.HealthCheckResponse.NOT_SERVING
    assert server.failed.is_set()
    caller.channel.close()


def test_a_program_whose_worker_has_ended_ends(model, monkeypatch, capsys):
  async def warm_up(self):
    self._on_failure()

  monkeypatch.setattr(serving.Server, '_warm_up', warm_up)
  with pytest.raises(OSError, match='the server has failed'):
    run.serve_forever(serving.Server(model, calling.settings()))
  assert 'listening on' in capsys.readouterr().out


def test_any_quantizer_is_the_package_s_own(caller, model):
  names = (
    'tests.standin:Nothing',
    'kmeans(k=4,centroids=os.path:join)',
    'shared_vq(book=/etc/passwd)',
    'kmeans(k=4)' + ' ' * 600,
  )
  text = codecs.FeatureCodec(model, 'kmeans(k=4)').to_json()
  for name in names:
    assert '"kmeans(k=4)"' in text
    with calling.refused(CODES.FAILED_PRECONDITION) as said:
      caller.handshake(text.replace('"kmeans(k=4)"', f'"{name}"'))
    assert "expected one of the package's own" in said[0]
  for name in ('kmeans(k=65)', 'kmeans(k=0)', 'nothing', 'kmeans(' * 60):
    with calling.refused(CODES.INVALID_ARGUMENT):
      caller.handshake(text.replace('"kmeans(k=4)"', f'"{name}"'))


def test_the_least_recently_used_session_goes(
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
  with calling.refused(CODES.FAILED_PRECONDITION) as text:
    caller.caption(others[0], message)
  assert 'handshake first' in text[0]
  caller.handshake(others[0])
  assert caller.caption(others[0], message).tokens


def test_memory_does_not_grow_with_codecs_that_have_gone(
  server, caller, made, model, monkeypatch
):
  freed = []
  forget = codecs.forget_programs
  monkeypatch.setattr(codecs, 'forget_programs', lambda: freed.append(forget()))
  for k in range(7, 11):
    caller.handshake(codecs.FeatureCodec(model, f'top_norm(k={k})'))
  calling.until(lambda: freed)
  codec, packets = made['kmeans']
  caller.handshake(codec)
  assert caller.caption(codec, packets[0]).tokens


def test_a_storm_of_handshakes(server, caller, model):
  """The same ones share the work; too many different ones are told so."""
  every = [codecs.FeatureCodec(model, f'kmeans(k={k})') for k in range(10, 15)]
  with calling.held(server):
    asked = []
    for codec in every:
      text = codec.to_json()
      request = calling.collab_pb2.HandshakeRequest(session=text)
      asked += [caller.stub.Handshake.future(request) for _ in range(4)]
    calling.until(lambda: sum(call.done() for call in asked) == 4)
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
  caller = calling.Caller(server.address)
  health = health_pb2_grpc.HealthStub(caller.channel)

  def status():
    reply = health.Check(health_pb2.HealthCheckRequest())
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

  assert status() == 'NOT_SERVING'
  assert server.metrics.value('serving') == 0
  with calling.refused(CODES.UNAVAILABLE) as text:
    caller.handshake(codec)
  assert text == ['the server is warming up']
  release.set()
  calling.until(lambda: status() == 'SERVING')
  assert server.metrics.value('serving') == 1
  server.__exit__()
  with calling.refused(CODES.UNAVAILABLE):
    caller.caption(codec, packets[0])


def test_a_stop_in_the_warm_up(model):
  server = _background(model)
  start = time.monotonic()
  server.__exit__()
  assert time.monotonic() - start < 8
  assert not server._scheduler._thread.is_alive()


def _background(model, **changes):
  """A server that may still be warming up."""
  server = serving.Server(model, calling.settings(**changes))
  return server.in_thread(warm=False)


def test_a_stop_ends_what_was_taken(model, made):
  codec, packets = made['kmeans']
  server = _background(model, quantizers='kmeans(k=4)')
  server.wait(_await(server.warming))
  caller = calling.Caller(server.address)
  caller.handshake(codec)
  with calling.held(server):
    asked = [caller.future(codec, packets[i]) for i in range(6)]
    chunks = caller.stream(codec, packets[0])
    calling.until(lambda: _waiting(server) == 7)
    ending = threading.Thread(target=server.__exit__)
    ending.start()
    calling.until(lambda: server._service.closed)
    with calling.refused(CODES.UNAVAILABLE) as text:
      caller.caption(codec, packets[0])
    assert text == ['the server is being stopped']
  assert all(call.result().tokens for call in asked)
  assert list(chunks)[-1].reply.tokens
  ending.join(20)
  assert not ending.is_alive()


def test_a_stop_has_a_limit(model, made, monkeypatch):
  codec, packets = made['kmeans']
  server = _background(model, quantizers='kmeans(k=4)', drain_seconds=0.2)
  server.wait(_await(server.warming))
  caller = calling.Caller(server.address)
  caller.handshake(codec)
  release = threading.Event()
  monkeypatch.setattr(decode_state, 'decode', lambda *_: release.wait(10))
  call = caller.future(codec, packets[0])
  calling.until(lambda: server.metrics.value('batch_sum') == 1)
  start = time.monotonic()
  server.__exit__()
  assert time.monotonic() - start < 5
  assert call.exception().code() in (CODES.UNAVAILABLE, CODES.CANCELLED)
  release.set()


def test_a_port_in_use_is_told(model, server):
  port = int(server.address.rpartition(':')[2])
  other = serving.Server(model, calling.settings(port=port))
  with pytest.raises(OSError, match='cannot listen on 127'), other:
    pass


async def _await(task):
  return await task
