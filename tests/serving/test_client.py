"""Client of the edge against a server with scripted failures."""

import itertools
import threading
import time
import zlib

import grpc
import numpy as np
import pytest

from collab_jax import codecs
from collab_jax.models import paligemma
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import (
  encode,
  retry,
)
from tests import standin
from tests.serving import scripted

CODES = grpc.StatusCode
QUICK = retry.Backoff(first=0.01, most=0.02)


def _codec(quality=50):
  config = paligemma.Config.from_dict(standin.CONFIG)
  model = paligemma.Model(params={}, config=config, tokenizer=None)
  return codecs.ImageCodec(model, 'jpeg', quality)


@pytest.fixture
def servicer():
  return scripted.ScriptedServer()


@pytest.fixture
def target(servicer):
  with scripted.serving(servicer) as target:
    yield target


@pytest.fixture
def client(target):
  settings = {'timeout': 5.0, 'backoff': QUICK, 'window': 3}
  with clients.EdgeClient(target, _codec(), **settings) as client:
    yield client


IMAGES = np.zeros((1, 64, 64, 3), np.uint8)


def test_result_sums_bytes_and_stages(client, servicer):
  (answer,) = client.caption(IMAGES, 'caption en', max_tokens=5)
  (request,) = servicer.requests
  assert request.message == _codec().encode(IMAGES)[0]
  assert (request.prompt, request.max_tokens) == ('caption en', 5)
  assert len(request.request_id) == 16
  assert answer.caption == 'a red ball'
  assert answer.bytes == len(request.message) == sum(answer.sizes.values())
  assert answer.codec == 'jpeg(quality=50)'
  assert (answer.tokens, answer.batch, answer.tries) == (3, 3, 1)
  assert answer.milliseconds['queue'] == 2**-6
  assert answer.milliseconds['decode'] == 2**-5
  assert answer.milliseconds['network'] > 0
  assert 'first_token' not in answer.milliseconds


@pytest.mark.parametrize(
  ('code', 'text'),
  [
    (CODES.UNAVAILABLE, 'busy'),
    (CODES.RESOURCE_EXHAUSTED, 'busy'),
    # Of a proxy, whose server died.
    (
      CODES.UNKNOWN,
      'Stream removed (Data frame with END_STREAM flag received)',
    ),
  ],
)
def test_transient_errors_are_retried_with_the_same_id(
  client, servicer, code, text
):
  servicer.failures = [(code, text), (code, text)]
  (answer,) = client.caption(IMAGES)
  assert answer.tries == 3
  assert len({r.request_id for r in servicer.requests}) == 1
  assert len(servicer.requests) == 3
  client.caption(IMAGES)
  assert len({r.request_id for r in servicer.requests}) == 2


@pytest.mark.parametrize(
  ('code', 'text'),
  [
    (CODES.INVALID_ARGUMENT, 'a check fails'),
    (CODES.UNAUTHENTICATED, 'no token'),
    (CODES.INTERNAL, 'oh'),
    (CODES.UNKNOWN, 'a fault of the server'),
    (CODES.FAILED_PRECONDITION, 'the sessions differ: x'),
    (CODES.RESOURCE_EXHAUSTED, 'Received message larger than max (9 vs. 4)'),
  ],
)
def test_permanent_errors_are_raised_at_once(client, servicer, code, text):
  servicer.failures = [(code, text)]
  with pytest.raises(retry.RemoteError, match=code.name) as raised:
    client.caption(IMAGES)
  assert raised.value.code == code.name
  assert text in str(raised.value)
  assert len(servicer.requests) == 1


def test_retries_end_at_the_timeout(target, servicer):
  servicer.failures = [(CODES.UNAVAILABLE, 'away')] * 1000
  start = time.monotonic()
  with clients.EdgeClient(
    target, _codec(), timeout=0.3, backoff=QUICK
  ) as client:
    client.handshake()
    with pytest.raises(retry.RemoteError, match=r'within 0\.3 s') as raised:
      client.caption(IMAGES)
  assert time.monotonic() - start < 2
  assert 'away' in str(raised.value)
  assert len(servicer.requests) > 5


def test_silent_server_ends_with_a_deadline_error(servicer):
  stop = threading.Event()
  servicer._caption = lambda request: stop.wait(5)
  with scripted.serving(servicer) as target:
    with (
      clients.EdgeClient(target, _codec(), timeout=0.3) as client,
      pytest.raises(retry.RemoteError, match='DEADLINE_EXCEEDED'),
    ):
      client.caption(IMAGES)
    stop.set()


def test_expired_session_is_renewed(client, servicer):
  client.caption(IMAGES)
  unknown = 'session 3132 is not known here (any more): handshake first'
  servicer.failures = [(CODES.FAILED_PRECONDITION, unknown)]
  (answer,) = client.caption(IMAGES)
  assert answer.caption == 'a red ball'
  assert len(servicer.handshakes) == 2
  assert len({r.request_id for r in servicer.requests}) == 2


def test_sessions_that_always_expire_are_an_error(client, servicer):
  servicer.failures = [(CODES.FAILED_PRECONDITION, 'handshake first')] * 100
  with pytest.raises(retry.RemoteError, match='handshake first'):
    client.caption(IMAGES)
  assert len(servicer.handshakes) <= 5


def test_handshakes_are_retried(client, servicer):
  servicer.failures = [(CODES.UNAVAILABLE, 'handshake later')]
  assert client.caption(IMAGES)[0].caption == 'a red ball'
  assert len(servicer.handshakes) == 2


def test_window_limits_requests_in_flight_and_keeps_order():
  gate = threading.Barrier(3)
  numbers = itertools.count()

  def slow(request):
    if next(numbers) < 9:
      gate.wait(5)  # Only if three are in flight.
    return scripted.reply(str(zlib.crc32(request.message)))

  servicer = scripted.ScriptedServer(slow)
  shades = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(10)]
  taken = []

  def counted():
    for i, shade in enumerate(shades):
      taken.append(i)
      yield shade, i

  with (
    scripted.serving(servicer) as target,
    clients.EdgeClient(target, _codec(), window=3) as client,
  ):
    seen = client.captions(counted(), batch_size=1)
    first = next(seen)
    assert len(taken) <= 5
    captions = [first.caption, *(a.caption for a in seen)]
  messages = _codec().encode(np.stack(shades))
  assert captions == [str(zlib.crc32(message)) for message in messages]
  assert len(set(captions)) == 10
  assert servicer.max_in_flight == 3


def test_error_of_one_picture_leaves_the_others(client, servicer):
  servicer.failures = [(CODES.INVALID_ARGUMENT, 'no')]
  pictures = [(IMAGES[0], 0)] * 3
  found = list(client.captions(pictures))
  assert sorted(type(f).__name__ for f in found) == [
    'CaptionResult',
    'CaptionResult',
    'RemoteError',
  ]


def test_a_stream_comes_in_pieces(client):
  *pieces, answer = client.stream(IMAGES[0])
  assert pieces == ['a', ' red', ' ball']
  assert answer.caption == 'a red ball'
  assert answer.tries == 1


def test_broken_stream_resumes_after_its_last_piece(client, servicer):
  servicer.failures = [(CODES.OK, 'after two pieces')]
  *pieces, answer = client.stream(IMAGES[0])
  assert pieces == ['a', ' red', ' ball']
  assert answer.tries == 2
  assert len({r.request_id for r in servicer.requests}) == 1


def test_first_codec_within_max_bytes_is_used(target, servicer):
  noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
  noise[1] = 0
  best, small = _codec(90), _codec(1)
  limit = len(small.encode(noise)[0])
  assert len(best.encode(noise)[0]) > limit > len(best.encode(noise)[1])
  with clients.EdgeClient(target, [best, small], max_bytes=limit) as client:
    found = client.caption(noise)
  assert [a.codec for a in found] == [small.name, best.name]
  with (
    clients.EdgeClient(target, [best], max_bytes=limit) as client,
    pytest.raises(encode.TooLargeError, match=f'{limit} bytes'),
  ):
    client.caption(noise)


def test_too_long_message_is_not_sent(client, servicer):
  agreed = client.handshake()
  client._rpc._sessions[0] = agreed._replace(max_message_bytes=10)
  with pytest.raises(ValueError, match='the server takes 10'):
    client.caption(IMAGES)
  assert servicer.requests == []


@pytest.mark.parametrize(
  ('target', 'settings', 'said'),
  [
    ('localhost', {}, "expected HOST:PORT, as in 'localhost:50051'"),
    ('localhost:0', {}, 'expected HOST:PORT'),
    ('http://localhost:1', {}, 'expected HOST:PORT'),
    ('localhost:٣', {}, 'expected HOST:PORT'),
    ('example.org:1', {}, 'give ca for TLS, or insecure'),
    ('10.0.0.1:1', {'token': 'x'}, 'give ca for TLS, or insecure'),
    ('localhost:1', {'cert': 'a', 'ca': 'b'}, 'one is missing'),
    ('localhost:1', {'cert': 'a', 'key': 'b'}, 'given without ca'),
    ('localhost:1', {'timeout': 0.0}, 'expected more than 0'),
    ('localhost:1', {'timeout': float('inf')}, 'and no endless time'),
    ('localhost:1', {'timeout': float('nan')}, 'expected more than 0'),
    ('localhost:1', {'window': 0}, 'expected at least 1'),
    ('localhost:1', {'max_bytes': 0}, 'expected at least 1'),
    ('localhost:1', {'threshold': 1.0}, 'have one layer'),
    ('localhost:1', {'threshold': float('nan')}, 'expected a number of bits'),
  ],
)
def test_settings_are_checked(target, settings, said):
  with pytest.raises(ValueError, match=said):
    clients.EdgeClient(target, _codec(), **settings)


@pytest.mark.parametrize(
  'target',
  [
    *('localhost:1', '127.0.0.3:1', '[::1]:1', 'unix:/tmp/x'),
    *('dns:localhost:1', 'dns:///localhost:1', 'ipv4:127.0.0.1:1'),
  ],
)
def test_loopback_needs_no_tls(target):
  clients.EdgeClient(target, _codec()).close()


def test_backoff_grows_with_jitter():
  backoff = retry.Backoff(first=0.1, most=1.0)
  longest = [backoff.wait(n, 0.0) for n in range(1, 8)]
  assert longest == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
  assert backoff.wait(3, 0.999) == pytest.approx(0.2, abs=1e-3)
  assert backoff.wait(10**6, 0.5) == 0.75
  with pytest.raises(ValueError, match='0 < first <= most'):
    retry.Backoff(first=2.0, most=1.0)


def test_absent_server_is_an_error_within_the_timeout():
  with (
    clients.EdgeClient('127.0.0.1:1', _codec(), timeout=0.5) as client,
    pytest.raises(retry.RemoteError, match=r'127\.0\.0\.1:1: no answer'),
  ):
    client.caption(IMAGES)


@pytest.mark.parametrize('seconds', [0.3, 1.0])
def test_it_does_not_give_up_before_its_time(target, servicer, seconds):
  """The last wait is shorter, so that the time is used to its end."""
  servicer.failures = [(CODES.UNAVAILABLE, 'handshake is away')] * 1000
  with clients.EdgeClient(target, _codec(), timeout=seconds) as client:
    start = time.monotonic()
    with pytest.raises(retry.RemoteError, match='no answer within'):
      client.handshake()
    assert time.monotonic() - start > seconds - 0.1
