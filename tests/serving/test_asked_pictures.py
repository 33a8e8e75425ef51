"""Cache of pictures, and several questions about one picture."""

import contextlib
import dataclasses
import hashlib
import types
import warnings

import grpc
import jax
import numpy as np
import pytest

from collab_jax import captioner as captioning
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


def test_messages_that_begin_alike_are_two_pictures():
  cache = request_cache.PictureCache(10_000)
  first, second = b'x' * 1000 + b'a', b'x' * 1000 + b'b'
  one, two = keep(cache, first), keep(cache, second)
  assert one is not two
  one.add_prefix(prefix_of(1))
  assert two.prefix is None
  assert cache.get(digest_of(second), SESSION, b'').message == second


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


def test_a_question_that_is_no_text(served, unchecked):
  server, codec = served
  picture = data.scenes('test')[2].image
  with (
    serving.EdgeClient(server.address, codec) as client,
    pytest.raises(ValueError, match=r'questions\[1\]: got 3, expected a'),
  ):
    client.ask(picture, ['caption en', 3])


def answers_of(server, codec, image, prompts=QUESTIONS):
  """Answers by requests of their own, each with the message."""
  with serving.EdgeClient(server.address, codec) as client:
    return [client.caption(image[None], p)[0].caption for p in prompts]


def test_pictures_that_take_turns_are_not_mixed_up():
  """The cache has room for one: each question finds it taken by the other."""
  model = standin.small()
  codec = codecs.FeatureCodec(model, 'kmeans(k=4)')
  images = [data.scenes('test')[i].image for i in (0, 1)]
  room = picture_bytes(codec, images[0])
  config = harness.make_config(quantizers='kmeans(k=4)', picture_bytes=room)
  with serving.Server(model, config) as server:
    want = [answers_of(server, codec, image) for image in images]
    assert want[0] != want[1]
    with serving.EdgeClient(server.address, codec) as client:
      for _ in range(3):
        for prompt, *expected in zip(QUESTIONS, *want, strict=True):
          got = [client.ask(image, [prompt])[0] for image in images]
          assert [one.caption for one in got] == expected
          assert server.metrics.value('picture_bytes') <= room
          assert server.metrics.value('pictures') <= 1
      packed = [client.pack(image) for image in images]
      for prompt, *expected in zip(QUESTIONS, *want, strict=True):
        for encoded, answer in zip(packed, expected, strict=True):
          result = [*client.stream_packed(encoded, prompt, is_kept=True)][-1]
          assert result.caption == answer
          # It was dropped for the other one, and is sent again.
          assert result.bytes == len(encoded.message)
        result = [*client.stream_packed(encoded, prompt, is_kept=True)][-1]
        assert (result.caption, result.bytes) == (expected[1], 0)


def picture_bytes(codec, image):
  """Bytes that a server keeps of one picture, and half as many more."""
  message = codec.encode(image[None], random_keys.make(0), [0])[0]
  prefix = codec.decode([message])
  arrays = (np.asarray(part[0]) for part in prefix[:3])
  return int(1.5 * (len(message) + sum(a.nbytes for a in arrays)))


def test_a_server_that_was_started_anew_is_sent_the_picture_again():
  """At the same port; first the same model, then one of other weights."""
  model = standin.small()
  codec = codecs.FeatureCodec(model, 'kmeans(k=4)')
  webp = codecs.parse('webp(quality=50)').bind(model)
  image = data.scenes('test')[4].image
  other = dataclasses.replace(
    model,
    params={
      **model.params,
      'llm': jax.tree.map(lambda x: x[::-1], model.params['llm']),
    },
  )
  config = harness.make_config(quantizers='kmeans(k=4)', images='any')
  wanted, port = [], 0
  with contextlib.ExitStack() as clients:
    for number, served_model in enumerate((model, model, other)):
      config = dataclasses.replace(config, port=port)
      with serving.Server(served_model, config) as server:
        port = int(server.address.rpartition(':')[2])
        wanted.append(answers_of(server, codec, image))
        if not number:
          edges = [
            clients.enter_context(serving.EdgeClient(server.address, c))
            for c in (codec, webp)
          ]
          packed = [edge.pack(image) for edge in edges]
          for edge, encoded in zip(edges, packed, strict=True):
            [*edge.stream_packed(encoded, 'on', is_kept=False)]
          continue
        for edge, encoded in zip(edges, packed, strict=True):
          results = [
            [*edge.stream_packed(encoded, prompt, is_kept=True)][-1]
            for prompt in QUESTIONS
          ]
          sent = [result.bytes for result in results]
          assert sent == [len(encoded.message), 0, 0, 0]
          if edge is edges[0]:
            assert [r.caption for r in results] == wanted[-1]
  assert wanted[0] == wanted[1] != wanted[2]


def test_another_codec_of_the_same_picture_is_another(served):
  """A name that one session keeps means nothing in another."""
  server, codec = served
  caller = harness.Caller(server.address)
  image = data.scenes('test')[5].image
  webp = codecs.parse('webp(quality=50)').bind(codec.model)
  names = [caller.handshake(c).session for c in (codec, webp)]
  messages = [
    c.encode(image[None], random_keys.make(0), [0])[0] for c in (codec, webp)
  ]
  for name, message in zip(names, messages, strict=True):
    caller.caption(name, message, picture=digest_of(message))
  for name, message in zip(names, reversed(messages), strict=True):
    with harness.refused(grpc.StatusCode.FAILED_PRECONDITION):
      caller.caption(name, b'', picture=digest_of(message))
  with serving.EdgeClient(server.address, [codec, webp]) as client:
    results = [client.using(one).ask(image, QUESTIONS) for one in (codec, webp)]
  assert [[r.bytes > 0 for r in some] for some in results] == [
    [True, False, False, False]
  ] * 2
  for one, some in zip((codec, webp), results, strict=True):
    assert [r.caption for r in some] == answers_of(server, one, image)


def test_prompts_of_512_tokens():
  """Refused by one token more, at the handshake and with a picture."""
  model = standin.small()
  codec = codecs.FeatureCodec(model, 'kmeans(k=4)')
  sizes = dataclasses.replace(
    harness.SIZES, max_slots=2, max_prefill_batch=1, max_prompt=512
  )
  config = harness.make_config(quantizers='kmeans(k=4)', engine=sizes)
  words = ['is', 'the', 'a', 'red', 'ball', 'on']
  texts = {n: _text_of(model.tokenizer, n, words) for n in (3, 511, 512, 513)}
  image = data.scenes('test')[0].image
  prefix = codec.decode(codec.encode(image[None], random_keys.make(0), [0]))
  captioner = captioning.Captioner(model, sizes.max_tokens)
  with (
    serving.Server(model, config) as server,
    serving.EdgeClient(server.address, codec) as client,
  ):
    taken = [texts[n] for n in (3, 511, 512)]
    want = [captioner(prefix, prompt)[0] for prompt in taken]
    assert [r.caption for r in client.ask(image, taken)] == want
    assert client.caption(image[None], taken[2])[0].caption == want[2]
    assert [*client.stream(image, taken[1])][-1].caption == want[1]
    said = rf'prompt: got {len(texts[513])} letters, 513 tokens.*at most .* 512'
    for ask in (
      lambda: client.ask(image, ['a', texts[513]]),
      lambda: client.caption(image[None], texts[513]),
      lambda: [*client.stream(image, texts[513])],
      lambda: client.handshake(prompt=texts[513]),
    ):
      with pytest.raises(serving.RemoteError, match=said):
        ask()


def test_prompts_that_cannot_be_answered_are_warned_of_once(served, caplog):
  """The random model's vocabulary has no location tokens."""
  server, codec = served
  image = data.scenes('test')[0].image
  with serving.EdgeClient(server.address, codec) as client:
    client.ask(image, ['detect ring', 'segment ball', 'detect ball'])
  assert caplog.text.count('the vocabulary has no location tokens') == 1
  prefix = codec.decode(codec.encode(image[None], random_keys.make(0), [0]))
  captioner = captioning.Captioner(codec.model, max_tokens=2)
  with pytest.warns(UserWarning, match=r"got 'detect ring', but the vocab"):
    captioner(prefix, 'detect ring')
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    captioner(prefix, 'detect ball')


def _text_of(tokenizer, count, words):
  """A text whose prompt has so many tokens, <bos> and newline among them."""
  text = ''
  for i in range(2000):
    if len(tokenizer.prompt(text)) == count:
      return text
    longer = f'{text} {words[i % len(words)]}'.strip()
    if len(tokenizer.prompt(longer)) > count:
      longer = f'{text}?' if tokenizer.encode('?') else f'{text} a'
    text = longer
  raise AssertionError(count)


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
