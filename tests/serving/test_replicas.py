"""Replicas by Ray Serve itself, as a program: needs the extra `ray`."""

import os
import signal
import subprocess
import sys
from typing import Any, cast
import urllib.request

import grpc
import jax
import numpy as np
import pytest

from benchmarks import processes, replicas
from collab_jax import serving
from collab_jax.serving import collab_pb2, protocol
from collab_jax.serving.client import channel, server_state
from tests import launching, standin
from tests.serving import harness

pytest.importorskip('ray', reason="the extra 'ray' is not installed")

SIZES = {'rows': 4, 'batch': 2, 'steps': 2, 'max_tokens': 12, 'max_prompt': 24}


TOKEN = '0123456789abcdef'


@pytest.fixture(scope='module')
def process(tmp_path_factory):
  """Two replicas of the small model, with a token."""
  tokens = tmp_path_factory.mktemp('tokens') / 'tokens'
  tokens.write_text(TOKEN)
  tokens.chmod(0o600)
  server = processes.ServerProcess(
    engine='ray',
    replicas=2,
    model=standin.folder(),
    quantizers=f'{harness.QUANTIZERS[2]};any',
    replica_resources='CPU=0.5',
    token_file=tokens,
    **SIZES,
  )
  with server:
    yield server


@pytest.fixture
def link(process):
  """Connection of an edge."""
  link = channel.Connection(process.address, token=TOKEN, timeout=120.0)
  yield link
  link.close()


def _captions(server, codec, images, **settings):
  with serving.EdgeClient(server, codec, window=8, **settings) as client:
    return client.caption(images)


def test_captions_equal_those_of_one_server(
  process, link, shared, model, images
):
  many = np.concatenate([images] * 4)
  for name in (harness.QUANTIZERS[2], 'kmeans(k=4)'):  # Listed, and not.
    codec = harness.codec_of(model)(name)
    expected = _captions(shared.address, codec, many)
    got = _captions(link, codec, many)
    assert [a.caption for a in got] == [b.caption for b in expected]
  served = process.values_by('tokens_total', 'replica')
  assert len(served) == 2


def test_finer_layers_follow_the_first(link, model, images):
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  link.stub = counting = cast(Any, replicas.StatusCountingStub(link.stub))
  answers = _captions(link, codec, images, threshold=-1.0)
  assert {a.layers for a in answers} == {2}
  assert counting.calls == 2 * len(images)


def test_streams_probes_and_pages(process, link, model, images):
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  with serving.EdgeClient(link, codec) as client:
    answer: Any = list(client.stream(images[0]))
    *pieces, last = answer
    assert ''.join(pieces) == last.caption
    assert server_state.check_health(client.connection, 10.0) == ''
    facts = server_state.metadata(client.connection, 10.0)
    assert facts is not None
    assert 'any' in facts.quantizers
  base = f'http://127.0.0.1:{process.metrics_port}'
  for page in ('live', 'ready', 'metrics'):
    with urllib.request.urlopen(f'{base}/{page}', timeout=10) as answer:
      assert answer.status == 200


def _read_stream(stub):
  return lambda *args, **settings: list(stub.CaptionStream(*args, **settings))


def test_tokens_hold(process):
  link = channel.Connection(process.address, token='another-token-of-16')
  stub = link.stub
  for method in (stub.Caption, _read_stream(stub)):
    with harness.refused(grpc.StatusCode.UNAUTHENTICATED):
      method(collab_pb2.CaptionRequest(), metadata=link.metadata)
  assert server_state.check_health(link, 10.0) == ''  # Probes need none.
  link.close()


def test_statuses_reach_the_edge(link):
  stub = link.stub
  request = collab_pb2.CaptionRequest(session=b'0' * 12)
  for method in (stub.Caption, _read_stream(stub)):
    with harness.refused(grpc.StatusCode.FAILED_PRECONDITION) as text:
      method(request, metadata=link.metadata)
    assert 'handshake first' in text[0]


def test_a_retry_gets_the_answer_of_its_first_try(link, model, images):
  """Both lead to the same replica, which remembers it."""
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  (message,) = codec.encode(images[:1], jax.random.key(0))
  stub = link.stub
  described = collab_pb2.HandshakeRequest(session=codec.to_json())
  stub.Handshake(described, metadata=link.metadata)
  for _ in range(4):
    request = harness.Caller.request(codec, message)
    key = protocol.AFFINITY, protocol.affinity(request)
    metadata = (*link.metadata, key)
    answers = [stub.Caption(request, metadata=metadata) for _ in range(2)]
    assert [a.repeated for a in answers] == [False, True]


def test_questions_go_where_their_picture_is(link, shared, model, images):
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  questions = ('caption en', 'a ring', 'a box', 'a ball')
  link.stub = counting = cast(Any, replicas.StatusCountingStub(link.stub))
  for image in images:
    with serving.EdgeClient(shared.address, codec) as client:
      expected = client.ask(image, questions)
    with serving.EdgeClient(link, codec) as client:
      answers = client.ask(image, questions)
    assert [a.caption for a in answers] == [a.caption for a in expected]
    assert [a.bytes > 0 for a in answers] == [True, False, False, False]
  # None was sent twice: the replica that has the picture is asked.
  assert counting.calls == len(questions) * len(images)
  assert not counting.statuses


def test_a_killed_replica_is_not_noticed(process, link, shared, model, images):
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  many = np.concatenate([images] * 8)
  expected = _captions(shared.address, codec, many)
  with serving.EdgeClient(link, codec, window=4) as client:
    got = []
    for answer in client.captions(zip(many, range(len(many)), strict=True)):
      got.append(answer)
      if len(got) == 8:
        os.kill(replicas.replica_pids(process)[0], signal.SIGKILL)
  assert [a.caption for a in got] == [b.caption for b in expected]


def test_a_configuration_of_ray_serve_has_the_same_flags():
  code = (
    'from collab_jax.commands import serve;'
    'made = serve.application({"model": "tiny", "replicas": 3, "host":'
    ' "0.0.0.0", "insecure": True});'
    'print(made._bound_deployment.num_replicas)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=launching.ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.stdout.split() == ['3'], done.stderr


def test_it_ends_by_sigterm(process):
  """Last of all."""
  process.stop()
  assert process.returncode == 0
