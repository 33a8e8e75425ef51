"""Edges at several servers behind one address: the client repairs misses."""

import collections

import numpy as np
import pytest

from collab_jax import serving
from collab_jax.serving import collab_pb2, protocol
from collab_jax.serving.client import channel
from collab_jax.serving.client import client as clients
from tests.serving import balanced, harness

UNLISTED = 'kmeans(k=3)'


@pytest.fixture(scope='module')
def pair(model):
  """Two equal servers, which admit codecs that are not listed."""
  config = harness.make_config(
    quantizers='residual_vq(book=random,stages=2,size=16);any'
  )
  with (
    serving.Server(model, config) as first,
    serving.Server(model, config) as second,
  ):
    yield first, second


@pytest.fixture
def stub(pair):
  """Calls shared between both."""
  stub = balanced.BalancedStub([server.address for server in pair])
  yield stub
  stub.close()


@pytest.fixture
def connection(stub):
  """Connection of an edge to both."""
  connection = channel.Connection('localhost:1', timeout=30.0)
  connection.stub = stub
  yield connection
  connection.close()


def test_all_calls_of_a_request_lead_to_one_server():
  first = collab_pb2.CaptionRequest(request_id=b'a' * 16, message=b'1')
  other = collab_pb2.CaptionRequest(request_id=b'b' * 16, message=b'1')
  finer = collab_pb2.CaptionRequest(request_id=b'c' * 16, continues=b'a' * 16)
  assert protocol.affinity(first) == protocol.affinity(finer)
  assert protocol.affinity(first) != protocol.affinity(other)
  assert protocol.affinity(first).isascii()


def test_captions_of_several_servers_equal_those_of_one(
  connection, stub, pair, model, images
):
  """The handshake of a codec is repeated at each server, unnoticed."""
  codec = harness.codec_of(model)(UNLISTED)
  with clients.EdgeClient(pair[0].address, codec) as client:
    expected = client.caption(images)
  many = np.concatenate([images] * 4)
  ids = list(range(len(images))) * 4
  with clients.EdgeClient(connection, codec, window=8) as client:
    results = client.caption(many, image_ids=ids)
  assert [r.caption for r in results] == [r.caption for r in expected] * 4
  assert all(r.tries == 1 for r in results)
  served = collections.Counter(a for m, a, _ in stub.calls if m == 'Caption')
  assert len(served) == 2


def test_finer_layers_follow_the_first(connection, stub, model, images):
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  with clients.EdgeClient(connection, codec, threshold=-1.0) as client:
    results = client.caption(images)
  assert all(result.layers == 2 for result in results)
  captions = [call for call in stub.calls if call[0] == 'Caption']
  # Two each: had the server not had the first layers, a third would follow.
  assert len(captions) == 2 * len(images)


def test_finer_layers_after_their_server_has_gone(
  connection, stub, pair, model, images
):
  """Another server has no first layers: it gets the whole message."""
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  with clients.EdgeClient(pair[0].address, codec) as client:
    expected = client.caption(images)
  leave = stub.addresses[0]

  def caption(request, **settings):
    if request.continues and leave in stub.addresses:
      stub.addresses.remove(leave)
    return stub.__getattr__('Caption')(request, **settings)

  stub.Caption = caption
  with clients.EdgeClient(
    connection, codec, threshold=-1.0, window=4
  ) as client:
    results = client.caption(images)
  assert [r.caption for r in results] == [r.caption for r in expected]
