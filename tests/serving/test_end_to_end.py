"""Client and server: same bytes and captions as without a network."""

import grpc
import jax
import numpy as np
from PIL import Image
import pytest

import collab_jax as cj
from collab_jax import checkpoints, codecs, serving
from collab_jax.serving.client import retry
from collab_jax.serving.web import backend
from tests import launching, standin
from tests.serving import harness

KMEANS = 'kmeans(k=4,init=++)'
LAYERED = 'merge(k=3,centroids=residual_vq(stages=2,size=16,book=random))'
OWN = 'tests.colours:Colours(side=4)'
TOKENS = harness.SIZES.max_tokens


@pytest.fixture(scope='module')
def edge():
  """Model with its edge part only."""
  return checkpoints.load(standin.folder(), part='edge')


@pytest.fixture(scope='module')
def server():
  settings = harness.make_config(
    quantizers=f'{KMEANS};{LAYERED}', images=f'webp(quality=30);{OWN}'
  )
  with serving.Server(standin.small(), settings) as server:
    yield server


def _codec(model, text, coding='best'):
  return codecs.FeatureCodec(model, text, coding=coding)


@pytest.fixture(scope='module')
def coder(edge):
  return _codec(edge, KMEANS)


@pytest.fixture(scope='module')
def layered(edge):
  return _codec(edge, LAYERED)


@pytest.fixture(scope='module')
def client(server, coder):
  with cj.EdgeClient(server.address, coder, window=3) as client:
    yield client


@pytest.fixture(scope='module')
def caption():
  """Captioner without a network."""
  return cj.Captioner(standin.small(), TOKENS)


def test_bytes_and_captions_equal_those_without_a_network(
  client, coder, images, caption, edge
):
  assert set(edge.params) == {'img'}
  answers = client.caption(images, image_ids=range(7, 13))
  packets = coder.encode(images, jax.random.key(0), range(7, 13))
  assert [a.bytes for a in answers] == [len(p) for p in packets]
  packed = [
    client.pack(i, n) for i, n in zip(images, range(7, 13), strict=True)
  ]
  assert [p.message for p in packed] == packets
  whole = _codec(standin.small(), KMEANS)
  assert [a.caption for a in answers] == caption(whole.decode(packets))
  for answer in answers:
    assert answer.sizes.keys() == {'header', 'assignments', 'centroids/x'}
    assert sum(answer.sizes.values()) == answer.bytes
    assert answer.min_entropy > 0
    assert all(ms >= 0 for ms in answer.milliseconds.values())


def test_stream_equals_caption(client, images):
  whole = client.caption(images[:1])[0]
  *pieces, answer = client.stream(images[0])
  assert ''.join(pieces) == answer.caption == whole.caption
  assert (answer.bytes, answer.tokens) == (whole.bytes, whole.tokens)
  assert answer.first_token > 0


def test_image_codec_needs_no_weights_on_the_edge(
  client, edge, images, caption
):
  # Of the model an image codec needs nothing.
  bare = type(edge)(params={}, config=edge.config, tokenizer=None)
  codec = codecs.ImageCodec(bare, 'webp', 30)
  answers = client.using(codec).caption(images[:2])
  whole = codecs.ImageCodec(standin.small(), 'webp', 30)
  packets = whole.encode(images[:2])
  assert [a.bytes for a in answers] == [len(p) for p in packets]
  assert [a.caption for a in answers] == caption(whole.decode(packets))


def test_a_codec_of_one_s_own_is_served(server, client, images, caption):
  whole = codecs.parse(OWN).bind(standin.small())
  packets = whole.encode(images)
  results = client.using(whole).caption(images)
  assert [r.codec for r in results] == [OWN] * len(images)
  assert [r.bytes for r in results] == [len(p) for p in packets]
  assert [r.caption for r in results] == caption(whole.decode(packets))
  caller = harness.Caller(server.address)
  session = caller.handshake(whole).session
  with harness.refused(grpc.StatusCode.INVALID_ARGUMENT) as text:
    caller.caption(session, packets[0][:-1])
  assert text == ['got 47 bytes']
  caller.channel.close()


def test_only_the_operator_names_modules(server):
  codec = codecs.parse(OWN).bind(standin.small())
  for name in ('tests.colours:Colours', 'os.path:join', 'no.such:Module'):
    text = codec.to_json().replace(OWN, name)
    caller = harness.Caller(server.address)
    with harness.refused(grpc.StatusCode.FAILED_PRECONDITION) as said:
      caller.handshake(text)
    assert said == [f"codec: got '{name}', the server takes {OWN}"]
    caller.channel.close()


def test_the_command_sends_a_codec_of_one_s_own(server, images, tmp_path):
  path = tmp_path / 'scene.png'
  Image.fromarray(images[0]).save(path)
  done = launching.run(
    *('-m', 'collab_jax', 'caption', f'--model={standin.folder()}'),
    *(f'--server={server.address}', f'--codec={OWN}', str(path)),
  )
  assert done.returncode == 0, done.stderr
  assert f'codec  {OWN}' in done.stderr
  assert 'bytes  48 (message 48)' in done.stderr


def test_unlisted_codec_is_refused(client, edge, images):
  other = client.using(_codec(edge, 'kmeans(k=5)'))
  with pytest.raises(retry.RemoteError, match=r'takes kmeans\(k=4'):
    other.caption(images[:1])


def test_other_weights_are_refused(client, images):
  model = standin.small()
  params = jax.tree.map(np.array, model.params)
  params['img']['head']['bias'][0] += 1
  other = type(model)(params, model.config, model.tokenizer)
  with pytest.raises(retry.RemoteError, match='image encoder: got the fi'):
    client.using(_codec(other, KMEANS)).caption(images[:1])


def test_fine_layers_are_sent_where_the_server_is_unsure(
  server, client, layered, images
):
  whole = client.using(layered).caption(images)
  coarse = client.using(layered, threshold=float('inf')).caption(images)
  for a, b in zip(coarse, whole, strict=True):
    assert (a.layers, b.layers) == (1, 2)
    assert a.bytes < b.bytes == sum(b.sizes.values())
    assert sum(a.sizes.values()) == a.bytes
  bits = sorted(a.min_entropy for a in coarse)
  assert bits[0] < bits[-1]
  middle = (bits[1] + bits[2]) / 2
  received = server.metrics.registry.get_sample_value
  before = received('collab_jax_received_bytes_total')
  some = client.using(layered, threshold=middle).caption(images)
  for a, b, c in zip(some, coarse, whole, strict=True):
    expected = c if b.min_entropy > middle else b
    assert a.layers == expected.layers
    assert a.caption == expected.caption
    assert a.bytes == expected.bytes
  # What was sent already is not sent again.
  sent = received('collab_jax_received_bytes_total') - before
  assert sent == sum(a.bytes for a in some)


def test_first_layers_that_expired_are_sent_again(
  server, client, layered, images
):
  whole = client.using(layered).caption(images[:1])[0]
  progressive = client.using(layered, threshold=-1.0)
  ask = progressive._rpc.caption

  def forget(*args):
    server._service._partial_messages.clear()
    return ask(*args)

  progressive._rpc.caption = forget
  answer = progressive.caption(images[:1])[0]
  assert (answer.caption, answer.layers) == (whole.caption, 2)


def test_page_encodes_and_streams(client, edge, images):
  demo = backend.DemoBackend(client, lambda text: _codec(edge, text), 64)
  image = demo.read(images[0]).image
  own, ready = demo.client(KMEANS)
  assert not ready
  own.handshake()
  demo.prepare(KMEANS, own, image)
  assert demo.client(KMEANS) == (own, True)
  packed = demo.encode(KMEANS, own, image)
  shown, message = packed.description, packed.encoded.message
  assert shown['bytes'] == len(message)
  groups, colours = shown['map']['group'], shown['map']['colour']
  assignments = own.codecs[0].session.unpack(message)['assignments']
  same = np.equal.outer(assignments, assignments)
  np.testing.assert_array_equal(np.equal.outer(groups, groups), same)
  assert len(set(zip(groups, colours, strict=True))) == len(set(groups)) == 4
  events = list(backend.stream_events(own, packed, ''))
  kinds = [event['kind'] for event in events]
  assert kinds == ['text'] * (len(events) - 1) + ['answer']
  text = ''.join(event['text'] for event in events[:-1])
  assert text == events[-1]['caption']
