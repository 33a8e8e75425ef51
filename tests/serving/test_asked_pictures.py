"""Cache of pictures, and several questions about one picture."""

import hashlib
import types

import grpc
import numpy as np
import pytest

from collab_jax import codecs, data, random_keys, serving
from collab_jax.serving.engine import engine
from collab_jax.serving.server import request_cache
from tests import standin
from tests.serving import harness

SESSION = b's' * 8


def digest_of(message):
  return hashlib.sha256(message).digest()


def keep(cache, message, caller='', session=SESSION):
  return cache.get(digest_of(message), session, message, caller)


def prefix_of(rows):
  return engine.HostPrefix(
    np.zeros((rows, 4), np.float32),
    np.ones(rows, bool),
    np.arange(rows, dtype=np.int32),
    rows,
  )


def test_a_picture_is_known_by_its_content():
  cache = request_cache.PictureCache(1000)
  first = keep(cache, b'first')
  assert cache.get(digest_of(b'first'), SESSION, b'') is first
  assert keep(cache, b'first') is first
  for digest, session, caller in (
    (digest_of(b'other'), SESSION, ''),
    (digest_of(b'first'), b't' * 8, ''),
    (digest_of(b'first'), SESSION, 'somebody else'),
    (b'first', SESSION, ''),
  ):
    with pytest.raises(
      request_cache.UnknownPictureError, match='send its message'
    ):
      cache.get(digest, session, b'', caller)


def test_a_message_of_another_digest_is_refused():
  cache = request_cache.PictureCache(1000)
  with pytest.raises(ValueError, match='expected the SHA-256 of the message'):
    cache.get(digest_of(b'first'), SESSION, b'other')
  assert len(cache) == 0


def test_all_bytes_are_counted_and_bounded():
  cache = request_cache.PictureCache(2 * prefix_of(10).x.nbytes)
  first, second = keep(cache, b'first'), keep(cache, b'second')
  assert cache.total_bytes == len(b'firstsecond')
  first.add_prefix(prefix_of(10))
  assert cache.total_bytes == first.size + second.size > 160
  # The second is the older one now, since the first grew last.
  second.add_prefix(prefix_of(10))
  assert cache.total_bytes <= 320
  assert len(cache) == 1
  with pytest.raises(request_cache.UnknownPictureError):
    cache.get(digest_of(b'first'), SESSION, b'')
  # A request that still has it may rebuild it, and adds nothing to the cache.
  first.prefix = None
  first.add_prefix(prefix_of(10))
  assert cache.total_bytes == second.size
  none = request_cache.PictureCache(0)
  keep(none, b'first')
  assert (len(none), none.total_bytes) == (0, 0)


def test_pictures_are_dropped_after_some_time(monkeypatch):
  now = [0.0]
  clock = types.SimpleNamespace(monotonic=lambda: now[0])
  monkeypatch.setattr(request_cache, 'time', clock)
  cache = request_cache.PictureCache(1000, seconds=60.0)
  keep(cache, b'first')
  now[0] = 50.0
  cache.get(digest_of(b'first'), SESSION, b'')  # Kept for longer.
  now[0] = 100.0
  cache.get(digest_of(b'first'), SESSION, b'')
  now[0] = 161.0
  with pytest.raises(request_cache.UnknownPictureError):
    cache.get(digest_of(b'first'), SESSION, b'')


@pytest.fixture(scope='module')
def served():
  model = standin.small()
  config = harness.make_config(quantizers='kmeans(k=4)', images='webp;any')
  with serving.Server(model, config) as server:
    yield server, codecs.FeatureCodec(model, 'kmeans(k=4)')


QUESTIONS = ('a large', 'is the', 'on', 'caption en')


def test_questions_send_a_picture_once(served, monkeypatch):
  server, codec = served
  picture = data.scenes('test')[0].image
  encoded, rebuilt = [], []
  encode = type(codec).encode_batch

  def count(self, images, *arguments):
    encoded.append(len(images))
    return encode(self, images, *arguments)

  monkeypatch.setattr(type(codec), 'encode_batch', count)
  decode = type(codec).decode_unpacked

  def count_rebuilt(self, messages):
    rebuilt.append(len(messages))
    return decode(self, messages)

  monkeypatch.setattr(type(codec), 'decode_unpacked', count_rebuilt)
  before = server.metrics.value('received_bytes_total')
  with serving.EdgeClient(server.address, codec) as client:
    answers = client.ask(picture, QUESTIONS)
    message = client.pack(picture).message
    encoded.pop()
    received = server.metrics.value('received_bytes_total') - before
    assert encoded == [1]
    assert len(rebuilt) == 1
    assert received == len(message)
    assert [a.bytes for a in answers] == [len(message), 0, 0, 0]
    assert [a.sizes == {} for a in answers] == [False, True, True, True]
    alone = [
      client.caption(picture[None], prompt)[0].caption for prompt in QUESTIONS
    ]
    assert [a.caption for a in answers] == alone
    assert len({*alone}) > 1
    # Another picture is not answered from this one.
    other = data.scenes('test')[1].image
    assert [a.caption for a in client.ask(other, QUESTIONS)] == [
      client.caption(other[None], prompt, [0])[0].caption
      for prompt in QUESTIONS
    ]
  assert server.metrics.value('pictures') >= 2
  assert server.metrics.value('picture_bytes') > 2 * len(message)
  assert server.metrics.value('asked_pictures_total', picture='known') >= 6


def test_a_server_that_forgot_gets_the_message_again(served):
  server, codec = served
  picture = data.scenes('test')[2].image
  with serving.EdgeClient(server.address, codec) as client:
    asked = client._ask

    def forget(encoded, sent, digest, options):
      answer = asked(encoded, sent, digest, options)
      server.service._pictures.clear()
      return answer

    client._ask = forget
    answers = client.ask(picture, QUESTIONS[:2])
    assert answers[0].bytes == answers[1].bytes > 0
    with pytest.raises(ValueError, match=r'questions: got .*expected one or'):
      client.ask(picture, [])
    with pytest.raises(ValueError, match=r'questions: got .*expected one or'):
      client.ask(picture, 'caption en')


def test_pictures_of_others_are_refused(served):
  server, codec = served
  caller = harness.Caller(server.address)
  name = caller.handshake(codec).session
  message = codec.encode(
    data.scenes('test')[3].image[None], random_keys.make(0), [3]
  )[0]
  known = {'picture': digest_of(message)}
  with harness.refused(grpc.StatusCode.FAILED_PRECONDITION) as text:
    caller.caption(name, b'', **known)
  assert 'send its message' in text[0]
  with harness.refused(grpc.StatusCode.INVALID_ARGUMENT) as text:
    caller.caption(name, message, picture=digest_of(b'else'))
  assert 'expected the SHA-256 of the message' in text[0]
  first = caller.caption(name, message, **known)
  again = caller.caption(name, b'', **known)
  assert (first.known_picture, again.known_picture) == (False, True)
  assert first.caption == again.caption
  # Without a name, an empty message is damaged, as ever.
  with harness.refused(grpc.StatusCode.INVALID_ARGUMENT):
    caller.caption(name, b'')


def test_damaged_messages_are_not_answered(served):
  server, codec = served
  caller = harness.Caller(server.address)
  name = caller.handshake(codec).session
  for _ in range(2):
    with harness.refused(grpc.StatusCode.INVALID_ARGUMENT):
      caller.caption(name, b'damaged', picture=digest_of(b'damaged'))
  with harness.refused(grpc.StatusCode.INVALID_ARGUMENT):
    caller.caption(name, b'', picture=digest_of(b'damaged'))
