"""Log of requests, metrics, probes and headline of a server."""

import json
import os
import time
import urllib.error
import urllib.request

import pytest

import collab_jax as cj
from collab_jax.serving.server import headline, request_log
from tests.serving import harness

FIELDS = {
  'time',
  'method',
  'id',
  'peer',
  'status',
  'codec',
  'bytes',
  'tokens',
  'batch',
  'repeated',
  'milliseconds',
}


def _served(model, tmp_path, **changes):
  path = tmp_path / 'requests.jsonl'
  config = harness.make_config(
    quantizers='kmeans(k=4)', log_requests=str(path), **changes
  )
  return path, cj.serving.Server(model, config)


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_call_has_a_line(model, made, tmp_path):
  codec, messages = made['kmeans']
  path, server = _served(model, tmp_path)
  with server:
    caller = harness.Caller(server.address)
    caller.handshake(codec)
    ids = [os.urandom(16) for _ in range(2)]
    first = caller.caption(codec, messages[0], request_id=ids[0])
    caller.caption(codec, messages[0], request_id=ids[0])
    list(caller.stream(codec, messages[1], request_id=ids[1]))
    with harness.refused(harness.grpc.StatusCode.INVALID_ARGUMENT):
      caller.caption(codec, messages[0][:-1])
  hello, *captions, refused = _lines(path)
  assert set(hello) == FIELDS
  assert (hello['method'], hello['codec']) == ('Handshake', 'kmeans(k=4)')
  assert [line['id'] for line in captions] == [
    ids[0].hex(),
    ids[0].hex(),
    ids[1].hex(),
  ]
  assert [line['repeated'] for line in captions] == [False, True, False]
  for line, message in zip(
    captions, [messages[0], messages[0], messages[1]], strict=True
  ):
    assert set(line) == FIELDS
    assert line['status'] == 'OK'
    assert line['bytes'] == len(message)
    assert line['peer'].startswith('ipv4:127.0.0.1:')
    stages = line['milliseconds']
    assert {'unpack', 'queue', 'rebuild', 'prefill', 'decode', 'all'} <= set(
      stages
    )
  assert captions[0]['tokens'] == first.tokens > 0
  assert set(refused) == FIELDS | {'error'}
  assert refused['status'] == 'INVALID_ARGUMENT'
  text = path.read_text()
  assert first.caption not in text


def test_captions_are_logged_if_asked_for(model, made, tmp_path):
  codec, messages = made['kmeans']
  path, server = _served(model, tmp_path, log_captions=True)
  with server:
    caller = harness.Caller(server.address)
    caller.handshake(codec)
    reply = caller.caption(codec, messages[0], prompt='a\n"b')
  line = _lines(path)[-1]
  assert (line['prompt'], line['caption']) == ('a\n"b', reply.caption)


def test_log_survives_rotation_and_a_full_disk(tmp_path, caplog):
  path = tmp_path / 'log'
  log = request_log.RequestLog(str(path))
  log.write({'n': 1})
  while not path.read_text():
    time.sleep(0.01)
  path.rename(tmp_path / 'old')
  log.write({'n': 2})
  log.close()
  assert [line['n'] for line in _lines(path)] == [2]
  full = request_log.RequestLog('/dev/full')
  for i in range(3):
    full.write({'n': i})
  full.close()
  assert full.dropped == 3
  assert caplog.text.count('a line of the log of requests is lost') == 1
  with pytest.raises(OSError, match=r'log_requests: .* cannot be written'):
    request_log.RequestLog(str(tmp_path))


def test_captions_need_a_log():
  with pytest.raises(ValueError, match='log_captions: got True without'):
    harness.make_config(log_captions=True)


@pytest.fixture(scope='module')
def watched(model, made):
  """A server with metrics that has captioned three pictures."""
  config = harness.make_config(quantizers='kmeans(k=4)', metrics_port=0)
  codec, messages = made['kmeans']
  with cj.serving.Server(model, config) as server:
    caller = harness.Caller(server.address)
    caller.handshake(codec)
    for message in messages[:3]:
      caller.caption(codec, message)
    yield server


def _get(server, path):
  url = f'http://{server.metrics_address}{path}'
  try:
    with urllib.request.urlopen(url, timeout=10) as reply:
      return reply.status, reply.read().decode()
  except urllib.error.HTTPError as error:
    return error.code, error.read().decode()


def test_build_and_times_are_metrics(watched):
  _, text = _get(watched, '/metrics')
  (build,) = (x for x in text.splitlines() if 'build_info{' in x)
  assert f'version="{cj.__version__}"' in build
  assert 'model="stand-in"' in build
  assert 'device="cpu: ' in build
  value = watched.metrics.value
  assert value('request_seconds_count', method='Caption') == 3
  assert value('queue_length_count') == 3
  assert value('program_seconds_count', program='prefill') == 3
  assert value('program_seconds_count', program='decode') >= 3
  assert value('stage_seconds_count', stage='queue') == 3


def test_probes_beside_the_metrics(watched):
  assert _get(watched, '/live') == (200, 'ok\n')
  assert _get(watched, '/ready') == (200, 'ok\n')
  watched.metrics.set_serving(False)
  assert _get(watched, '/live') == (200, 'ok\n')
  assert _get(watched, '/ready') == (503, 'not serving\n')
  watched.metrics.set_serving(True)


def test_headline_says_what_is_served(watched):
  text = headline.describe(watched)
  assert list(text) == [
    'version',
    'model',
    'device',
    'memory',
    'quantizers',
    'images',
    'address',
  ]
  assert text['model'].startswith('stand-in, ')
  assert text['device'].startswith('cpu: ')
  assert 'of weights, ' in text['memory']
  assert text['quantizers'] == 'kmeans(k=4)'
  assert text['images'] == 'none'
  assert text['address'] == (
    f'{watched.address}, this machine only, no TLS, no tokens'
  )
  assert headline._listed('kmeans(k=8);any') == (
    'kmeans(k=8); all others on demand'
  )


def test_sizes_of_a_headline():
  assert [headline._size(n) for n in (9, 4_560_000, 825_000_000)] == [
    '9 B',
    '4.56 MB',
    '825 MB',
  ]
