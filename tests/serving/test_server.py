"""Server in this process, called as an edge calls it."""

from concurrent import futures
import json
import os
import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
  ProtoReflectionDescriptorDatabase,
)
import jax
import numpy as np
import pytest

from benchmarks import session_names
from collab_jax import captioner as captioning
from collab_jax import codecs
from collab_jax.serving import (
  collab_pb2,
)
from tests.serving import harness

CODES = grpc.StatusCode
SIZES = harness.SIZES


@pytest.fixture
def server(shared):
  return shared


@pytest.fixture(scope='module')
def caller(shared):
  made = harness.Caller(shared.address)
  yield made
  made.channel.close()


@pytest.fixture(scope='module')
def captioner(model):
  return captioning.Captioner(model, SIZES.max_tokens)


def test_captions_equal_those_of_this_process(
  server, caller, captioner, everything
):
  made = everything
  for codec, _ in made.values():
    caller.handshake(codec)
  with harness.held(server):
    asked = [
      (name, i, caller.future(codec, packets[i]))
      for i in range(6)
      for name, (codec, packets) in made.items()
    ]
    harness.until(lambda: server.metrics.value('queue') == len(asked))
  got = {(name, i): future.result() for name, i, future in asked}
  for name, (codec, packets) in made.items():
    want = captioner(codec.decode(packets))
    assert [got[name, i].caption for i in range(6)] == want
  assert max(reply.stages.batch for reply in got.values()) > 1
  assert server.metrics.value('compilations_total', when='serving') == 0
  for reply in got.values():
    assert 0 < reply.tokens <= SIZES.max_tokens
    stages = reply.stages
    assert min(stages.prefill, stages.rebuild, stages.unpack) > 0
    assert stages.first_token >= stages.prefill + stages.rebuild
    assert stages.decode > 0
    assert reply.min_entropy > 0


def test_handshake_reply(caller, made):
  codec, _ = made['kmeans']
  reply = caller.handshake(codec)
  assert reply.session[:8] == bytes.fromhex(codec.session.digest)[:8]
  assert reply.session == session_names.for_codec(codec)
  assert reply.model == 'stand-in'
  assert reply.max_tokens == SIZES.max_tokens
  assert reply.prompt == 'caption en'
  assert reply.max_message_bytes >= 64 * 24 * 4
  assert reply.encoder == codecs.encoder_fingerprint(codec.model)
  assert len(reply.decoder) == 16


def test_prompts_of_many_lengths_in_one_batch(caller, captioner, made):
  codec, packets = made['kmeans']
  prompts = ['caption en', 'a', 'where is the red ball?', ' x' * 9]
  asked = [
    caller.future(codec, packets[0], prompt=prompt) for prompt in prompts
  ]
  got = [future.result().caption for future in asked]
  assert got == captioner(codec.decode(packets[:1] * 4), prompts)
  with harness.refused(CODES.INVALID_ARGUMENT) as text:
    caller.caption(codec, packets[0], prompt='ball ' * 40)
  assert 'expected at most 4096 and 24' in text[0]


def test_stream_pieces_join_to_the_caption(caller, made):
  codec, packets = made['best']
  want = caller.caption(codec, packets[2])
  pieces = 0
  # A piece is what is new when the connection is free: where other processes
  # keep it from running, several come as one.
  for _ in range(20):
    chunks = list(caller.stream(codec, packets[2]))
    kinds = [chunk.WhichOneof('kind') for chunk in chunks]
    assert kinds == ['text'] * (len(kinds) - 1) + ['reply']
    assert ''.join(chunk.text for chunk in chunks) == want.caption
    assert chunks[-1].reply.caption == want.caption
    assert chunks[-1].reply.tokens == want.tokens
    pieces = max(pieces, len(kinds) - 1)
  assert pieces > 2


def test_max_tokens_is_bounded_by_the_server(caller, made):
  codec, packets = made['kmeans']
  assert caller.caption(codec, packets[0], max_tokens=3).tokens <= 3
  with harness.refused(CODES.INVALID_ARGUMENT) as text:
    caller.caption(codec, packets[0], max_tokens=SIZES.max_tokens + 1)
  assert text == ['max_tokens: got 13, expected at most 12']


def test_handshake_refuses_options_that_cannot_be_met(caller, made):
  text = made['kmeans'][0].to_json()
  for wanted, said in (
    ({'prompt': 'a ' * 40}, 'prompt: got 80 letters'),
    ({'max_tokens': SIZES.max_tokens + 1}, 'max_tokens: got 13'),
  ):
    with harness.refused(CODES.INVALID_ARGUMENT) as got:
      caller.stub.Handshake(collab_pb2.HandshakeRequest(session=text, **wanted))
    assert said in got[0]


def test_first_layers_alone_are_captioned(caller, captioner, made):
  codec, packets = made['residual']
  first = codec.session.split(packets[0])[0]
  want = captioner(codec.decode([first]))
  assert [caller.caption(codec, first).caption] == want


def test_damaged_messages_are_refused(caller, made):
  codec, packets = made['kmeans']
  bad = [b'', packets[0][:-1], packets[0] + b'\0', os.urandom(len(packets[0]))]
  bad.append(bytes([packets[0][0], packets[0][1] ^ 1]) + packets[0][2:])
  for message in bad:
    with harness.refused(CODES.INVALID_ARGUMENT) as text:
      caller.caption(codec, message)
    assert 'message 0' in text[0]
  picture, files = made['webp']
  with harness.refused(CODES.INVALID_ARGUMENT):
    caller.caption(picture, files[0][:-20])
  # Nothing of it stays.
  assert caller.caption(codec, packets[0]).tokens > 0


def test_unknown_session_needs_a_handshake(caller, made):
  _, packets = made['kmeans']
  known = session_names.for_codec(made['kmeans'][0])
  assert caller.caption(known, packets[0]).tokens
  # The last one is that of a server with other weights.
  other = known[:-1] + bytes([known[-1] ^ 1])
  for name in (b'', b'12345678', b'123456789' * 9, known[:8], other):
    with harness.refused(CODES.FAILED_PRECONDITION) as text:
      caller.caption(name, packets[0])
    assert text[0].endswith('handshake first')


def test_differing_sessions_are_refused_with_the_difference(
  caller, model, made
):
  other = codecs.FeatureCodec(
    model.replace(params={**model.params, 'img': _scaled(model)}), 'kmeans(k=4)'
  )
  with harness.refused(CODES.FAILED_PRECONDITION) as text:
    caller.handshake(other)
  assert text[0].startswith('the sessions differ: spec.head: here')
  assert text[0].count(';') == 0
  drawn = codecs.FeatureCodec(
    model,
    'residual_vq(book=random,stages=2,size=16)',
    key=jax.random.key(7),
  )
  with harness.refused(CODES.FAILED_PRECONDITION) as text:
    caller.handshake(drawn)
  assert 'spec.params' in text[0]
  with harness.refused(CODES.FAILED_PRECONDITION) as text:
    caller.handshake(codecs.FeatureCodec(model, 'kmeans(k=5)'))
  assert "got 'kmeans(k=5)', the server takes kmeans(k=4), random" in text[0]
  with harness.refused(CODES.FAILED_PRECONDITION) as text:
    caller.handshake(codecs.ImageCodec(model, 'webp', quality=41))
  assert 'the server takes webp(quality=40)' in text[0]


def _scaled(model):
  img = model.params['img']
  head = jax.tree.map(lambda x: np.asarray(x) * 1.5, img['head'])
  return {**img, 'head': head}


def _json(codec, **changes):
  plain = json.loads(codec.to_json())
  return json.dumps({**plain, **changes})


def test_bad_descriptions_are_refused(caller, made):
  codec, _ = made['kmeans']
  spec = json.loads(codec.to_json())['spec']
  picture, _ = made['webp']
  texts = [
    '',
    'x',
    '[]',
    '7',
    '[' * 60_000,
    '{"format": "collab_jax.wire"}',
    _json(codec, version=2),
    _json(codec, fields=[]),
    _json(codec, fields={'a': 3}),
    _json(codec, priors=[1]),
    _json(codec, priors={'a': 1}),
    _json(codec, priors={'assignments': {'table': 'x', 'rows': 1}}),
    _json(codec, spec={}),
    _json(codec, spec=None),
    _json(codec, spec={**spec, 'quantizer': 3}),
    _json(codec, spec={**spec, 'split': 'middle'}),
    _json(codec, coding='none'),
    _json(picture, spec={'name': 3}),
    _json(picture, version='1'),
    ' ' * 70_000,
  ]
  for text in texts:
    with harness.refused(CODES.INVALID_ARGUMENT):
      caller.handshake(text)


def test_repeated_request_gets_the_same_answer(server, caller, made):
  codec, packets = made['kmeans']
  name = os.urandom(16)
  before = server.metrics.value('tokens_total')
  first = [caller.future(codec, packets[3], request_id=name) for _ in range(5)]
  captions = {future.result().caption for future in first}
  again = caller.caption(codec, packets[3], request_id=name)
  streamed = list(caller.stream(codec, packets[3], request_id=name))
  assert captions == {again.caption}
  assert again.repeated
  assert streamed[-1].reply.repeated
  assert streamed[0].text == again.caption
  assert {f.result().repeated for f in first} <= {False, True}
  spent = server.metrics.value('batch_sum')
  caller.caption(codec, packets[3], request_id=name)
  assert server.metrics.value('batch_sum') == spent
  assert server.metrics.value('tokens_total') >= before + again.tokens
  with harness.refused(CODES.INVALID_ARGUMENT) as text:
    caller.caption(codec, packets[4], request_id=name)
  assert 'another request has the same' in text[0]
  with harness.refused(CODES.INVALID_ARGUMENT):
    caller.caption(codec, packets[4], request_id=b'short')
  assert not caller.caption(codec, packets[4], request_id=b'').repeated


def test_cancelled_requests_free_their_places(server, caller, made):
  codec, packets = made['kmeans']
  before = server.metrics.value('batch_sum')
  asked = [caller.future(codec, packets[i % 6]) for i in range(12)]
  asked += [caller.stream(codec, packets[i % 6]) for i in range(12)]
  for call in asked:
    call.cancel()
  late = [caller.future(codec, packets[0], timeout=1e-4) for _ in range(4)]
  for call in late:
    assert call.exception().code() is CODES.DEADLINE_EXCEEDED
  harness.until(lambda: server.metrics.value('queue') == 0)
  harness.until(lambda: server.metrics.value('rows') == 0)
  assert caller.caption(codec, packets[0]).tokens > 0
  assert server.metrics.value('batch_sum') <= before + 25
  harness.until(lambda: server._service.open == 0)


def test_one_waiting_call_keeps_the_request(caller, made):
  codec, packets = made['kmeans']
  name = os.urandom(16)
  asked = [caller.future(codec, packets[5], request_id=name) for _ in range(6)]
  for call in asked[:-1]:
    call.cancel()
  want = caller.caption(codec, packets[5]).caption
  assert asked[-1].result().caption == want


def test_health_and_reflection_services(caller):
  stub = health_pb2_grpc.HealthStub(caller.channel)
  for name in ('', 'collab_jax.v1.Captioner'):
    reply = stub.Check(health_pb2.HealthCheckRequest(service=name))
    assert reply.status is health_pb2.HealthCheckResponse.SERVING
  database = ProtoReflectionDescriptorDatabase(caller.channel)
  assert 'collab_jax.v1.Captioner' in database.get_services()
  found = database.FindFileContainingSymbol('collab_jax.v1.Captioner')
  assert found.name == collab_pb2.DESCRIPTOR.name


def test_too_large_message_is_refused(server, caller, made):
  codec, _ = made['kmeans']
  limit = server.max_message_bytes
  for size in (limit + 1, limit + 1_000_000):
    with harness.refused(CODES.RESOURCE_EXHAUSTED):
      caller.caption(codec, bytes(size))
  # What is small on the wire only is not unpacked.
  request = caller.request(codec, bytes(5_000_000))
  with harness.refused(CODES.RESOURCE_EXHAUSTED):
    caller.stub.Caption(request, compression=grpc.Compression.Gzip)


def test_many_edges_at_once(server, everything):
  """Ten threads with channels of their own use all codecs."""
  made, names = everything, list(everything)
  wrong = []

  def edge(number):
    caller = harness.Caller(server.address)
    codec, packets = made[names[number % len(names)]]
    caller.handshake(codec)
    got = [caller.caption(codec, m).caption for m in packets]
    caller.channel.close()
    return number, got

  with futures.ThreadPoolExecutor(10) as pool:
    every = list(pool.map(edge, range(10)))
  for number, got in every:
    same = every[number % len(names)][1]
    if got != same:
      wrong.append(number)
  assert wrong == []
  assert server.metrics.value('compilations_total', when='serving') == 0
  assert server.metrics.value('requests_total', method='Caption', code='OK') > 0
  assert threading.active_count() < 60
