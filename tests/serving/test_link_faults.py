"""Links that break: no caption is lost or made twice."""

import collections
import os
import time

import grpc
import numpy as np
import pytest

from benchmarks import fault_injection
from collab_jax import codecs
from collab_jax.models import paligemma
from collab_jax.serving.client import channel, retry
from collab_jax.serving.client import client as clients
from tests import standin
from tests.serving import harness, scripted, shaper

CODES = grpc.StatusCode
QUICK = retry.Backoff(first=0.01, most=0.02)


@pytest.fixture
def server(shared):
  return shared


def _made(server):
  return server.metrics.value('stage_seconds_count', stage='decode')


def test_cut_links_lose_and_repeat_no_caption(server, made, images):
  codec, _ = made['kmeans']
  count = 60
  pictures = [(images[i % 6], i % 6) for i in range(count)]
  with shaper.Shaper(server.address) as link:
    target = channel.Connection(link.address, timeout=20.0, backoff=QUICK)
    target.stub = stub = fault_injection.CountingStub(target.stub)
    with clients.EdgeClient(target, codec, window=4) as client:
      first = client.captions(pictures[:6], batch_size=2)
      want = [answer.caption for answer in first]
      before, got = _made(server), []
      stub.sent, stub.answered = [], []
      for answer in client.captions(pictures, batch_size=2):
        got.append(answer)
        if len(got) % 20 == 10:
          link.cut()
    target.close()
    assert link.connections > 3
  assert [answer.caption for answer in got] == want * (count // 6)
  assert max(answer.tries for answer in got) > 1
  assert set(collections.Counter(stub.answered).values()) == {1}
  assert len(stub.answered) == len(set(stub.sent)) == count < len(stub.sent)
  # Whose answer was lost on the way got the same one again.
  assert _made(server) - before == count


def test_silent_link_is_detected_by_keepalive(monkeypatch):
  name = 'grpc.http2.ping_timeout_ms'
  options = dict(channel._OPTIONS)
  assert options[name] < 20_000
  monkeypatch.setattr(
    channel, '_OPTIONS', tuple({**options, name: 300}.items())
  )
  config = paligemma.Config.from_dict(standin.CONFIG)
  model = paligemma.Model(params={}, config=config, tokenizer=None)
  codec = codecs.ImageCodec(model, 'jpeg', 50)
  images = np.zeros((2, 64, 64, 3), np.uint8)
  with (
    scripted.serving(scripted.ScriptedServer()) as target,
    shaper.Shaper(target) as link,
    clients.EdgeClient(link.address, codec, timeout=30.0) as client,
  ):
    client.caption(images[:1])
    link.stall()
    start = time.monotonic()
    answers = client.caption(images)
    # gRPC sends its ping at once, or when nothing came for ten seconds.
    assert time.monotonic() - start < 20
    assert min(answer.tries for answer in answers) > 1
    assert link.connections > 1


def test_damaged_requests_leave_no_trace(server, made):
  codec, packets = made['kmeans']
  caller = harness.Caller(server.address)
  caller.handshake(codec)
  draws = np.random.default_rng(0)
  send = caller.channel.unary_unary('/collab_jax.v1.Captioner/Caption')
  whole = caller.request(codec, packets[0]).SerializeToString()
  calls = []
  for number in range(200):
    body = bytearray(whole if number % 2 else os.urandom(40))
    for place in draws.integers(0, len(body), 6).tolist():
      body[place] = int(draws.integers(256))
    calls.append(send.future(bytes(body), timeout=20))
  for other in range(8):
    first = packets[0][0] & 0x1F | other << 5
    message = bytes([first]) + packets[0][1:]
    if message != packets[0]:
      with harness.refused(CODES.INVALID_ARGUMENT) as text:
        caller.caption(codec, message)
      assert f'got version {other}, expected 1' in text[0]
  found = collections.Counter(
    call.exception() and call.code() for call in calls
  )
  assert set(found) <= {
    CODES.INVALID_ARGUMENT,
    CODES.FAILED_PRECONDITION,
    None,  # What was turned means nothing, such as the request's id.
  }
  with harness.refused(CODES.INVALID_ARGUMENT) as text:
    send(b'\xff' * 9, timeout=20)
  assert 'no request of this service' in text[0]
  assert found[CODES.INVALID_ARGUMENT] > 50 > found[None]
  assert caller.caption(codec, packets[0]).tokens
  assert server.metrics.value('queue') == 0
  caller.channel.close()
