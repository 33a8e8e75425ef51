"""Proxy in front of servers: TLS of edges, callers, affinity, ends, limits."""

import contextlib
import json
import os
import socket
import ssl
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
import numpy as np
import pytest

from benchmarks import processes
from benchmarks import proxy as benchmark
from collab_jax import serving
from collab_jax.serving.client import channel, retry
from collab_jax.serving.client import client as clients
from collab_jax.serving.server import security
from tests import standin
from tests.serving import certificates, haproxy, harness

pytestmark = pytest.mark.skipif(haproxy.BINARY is None, reason=haproxy.MISSING)
CODES = grpc.StatusCode
SECRET = 'the-secret-of-the-proxy'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('proxy')


@pytest.fixture(scope='module')
def authority(folder):
  return certificates.Authority(folder, 'ca')


@pytest.fixture(scope='module')
def settings(folder, authority):
  """Flags of the servers' security."""
  cert, key = authority.issue('server')
  path = folder / 'secret'
  path.write_text(SECRET)
  path.chmod(0o600)
  return {'cert': str(cert), 'key': str(key), 'proxy_secret_file': str(path)}


@pytest.fixture(scope='module')
def servers(model, settings, folder):
  """Two servers behind the proxy, and their logs of requests."""
  with (
    serving.Server(model, _config(settings, folder / '1.jsonl')) as first,
    serving.Server(model, _config(settings, folder / '2.jsonl')) as second,
  ):
    yield first, second


def _config(settings, log):
  return harness.make_config(
    quantizers=f'{harness.QUANTIZERS[0]};{harness.QUANTIZERS[2]};any',
    metrics_port=0,
    log_requests=str(log),
    security=security.Security(**settings),
  )


@pytest.fixture(scope='module')
def proxy(folder, authority, servers):
  addresses = [(s.address, s.metrics_address) for s in servers]
  started = haproxy.Proxy(
    folder,
    authority,
    SECRET,
    addresses,
    MAX_CONNECTIONS_OF_AN_ADDRESS=40,
  )
  started.until(lambda: started.is_up(1) and started.is_up(2))
  yield started
  started.stop()


@pytest.fixture(scope='module')
def edge(authority):
  """Certificate and key of an edge."""
  return authority.issue('edge')


def _connect(proxy, authority, pair, **settings):
  """Returns a connection of an edge to the proxy."""
  cert, key = pair or (None, None)
  settings = {'timeout': 30.0, **settings}
  return channel.Connection(
    proxy.address, ca=authority.path, cert=cert, key=key, **settings
  )


def _credentials(authority, pair=None):
  cert, key = (path.read_bytes() for path in pair) if pair else (None, None)
  return grpc.ssl_channel_credentials(authority.path.read_bytes(), key, cert)


def _lines(folder):
  """Returns the lines of both logs."""
  return [
    [json.loads(line) for line in (folder / name).read_text().splitlines()]
    for name in ('1.jsonl', '2.jsonl')
  ]


def test_captions_are_those_of_a_server(
  proxy, authority, edge, model, images, folder
):
  """Both servers answer; the log has the edge's own address."""
  codec = harness.codec_of(model)(harness.QUANTIZERS[0])
  with (
    serving.Server(model, harness.make_config()) as alone,
    clients.EdgeClient(alone.address, codec) as client,
  ):
    want = [result.caption for result in client.caption(images)]
  many = np.concatenate([images] * 6)
  ids = [*range(len(images))] * 6
  with clients.EdgeClient(
    _connect(proxy, authority, edge), codec, window=8
  ) as client:
    results = client.caption(many, image_ids=ids)
    assert [r.caption for r in results] == want * 6
  logs = _lines(folder)
  assert all(any(r['method'] == 'Caption' for r in log) for log in logs)
  peers = {r['peer'] for log in logs for r in log}
  assert len(peers) == 1
  assert next(iter(peers)).startswith('ipv4:127.0.0.1:')


def test_edges_need_a_certificate(proxy, authority, tmp_path, model):
  codec = harness.codec_of(model)(harness.QUANTIZERS[0])
  stranger = certificates.Authority(tmp_path, 'stranger')
  for pair, said in (
    (None, 'without a certificate of the edge'),
    (stranger.issue('spy'), "not accept the edge's certificate"),
    (authority.issue('late', days=-1), "not accept the edge's certificate"),
  ):
    connection = _connect(proxy, authority, pair, timeout=10.0)
    with (
      contextlib.closing(connection),
      pytest.raises(retry.RemoteError, match=said),
    ):
      clients.EdgeClient(connection, codec).handshake()


def test_the_proxy_has_its_own_certificate(proxy, authority, edge, tmp_path):
  host, _, port = proxy.address.rpartition(':')
  context = ssl.create_default_context(cafile=authority.path)
  context.load_cert_chain(*edge)
  context.set_alpn_protocols(['h2'])
  with (
    socket.create_connection((host, int(port)), timeout=5) as raw,
    context.wrap_socket(raw, server_hostname=host) as secured,
  ):
    names = dict(pair for (pair,) in secured.getpeercert()['subject'])
    assert names['commonName'] == 'proxy'
    assert secured.selected_alpn_protocol() == 'h2'
  # An edge that trusts another authority does not go on.
  other = certificates.Authority(tmp_path, 'other')
  caller = harness.Caller(proxy.address, _credentials(other, edge))
  with harness.refused(CODES.UNAVAILABLE):
    caller.handshake('', timeout=3)


def test_servers_refuse_what_has_not_come_through(servers, authority, edge):
  for server in servers:
    port = server.address.rpartition(':')[2]
    for pair in (None, edge):
      caller = harness.Caller(
        f'localhost:{port}', _credentials(authority, pair)
      )
      caller.metadata = [('collab-jax-client', '127.0.0.1:5')]
      with harness.refused(CODES.UNAUTHENTICATED) as text:
        caller.handshake('', timeout=3)
      assert 'through its proxy' in text[0]
    plain = harness.Caller(f'localhost:{port}')
    with harness.refused(CODES.UNAVAILABLE):
      plain.handshake('', timeout=3)


def test_an_edge_cannot_name_itself(
  proxy, authority, edge, folder, made, model
):
  """Headers of the proxy that an edge sends are replaced."""
  codec, packets = made['kmeans']
  caller = harness.Caller(proxy.address, _credentials(authority, edge))
  caller.metadata = [
    ('collab-jax-client', '10.9.8.7:1'),
    ('collab-jax-certificate', 'ab' * 32),
    ('collab-jax-proxy', 'a-wrong-one-of-the-edge'),
  ]
  caller.handshake(codec)
  assert caller.caption(codec, packets[0]).tokens > 0
  peers = {r['peer'] for log in _lines(folder) for r in log}
  assert not any('10.9.8.7' in peer for peer in peers)


def test_edges_are_told_apart_by_their_certificates(
  proxy, authority, edge, made, model
):
  """An answer of one edge's request id is not another's."""
  codec, packets = made['kmeans']
  other = authority.issue('edge-2')
  request_id = os.urandom(16)
  answers = []
  for pair in (edge, edge, other):
    caller = harness.Caller(proxy.address, _credentials(authority, pair))
    caller.metadata = [('session_id', request_id.hex())]
    caller.handshake(codec)
    reply = caller.caption(codec, packets[0], request_id=request_id)
    answers.append(reply)
  assert [reply.repeated for reply in answers] == [False, True, False]
  assert len({reply.caption for reply in answers}) == 1


def _has_ipv6():
  try:
    with socket.create_server(('::1', 0), family=socket.AF_INET6):
      return True
  except OSError:
    return False


@pytest.mark.skipif(not _has_ipv6(), reason='this machine has no IPv6')
def test_edges_of_both_kinds_of_addresses_are_named(
  tmp_path, folder, authority, servers, made
):
  codec, packets = made['kmeans']
  (port,) = haproxy.free_ports(1)
  addresses = [(s.address, s.metrics_address) for s in servers]
  both = haproxy.Proxy(
    tmp_path,
    authority,
    SECRET,
    addresses,
    BIND=f'[::]:{port}',
    CLIENT_CERTIFICATES='optional',
  )
  try:
    for host in ('127.0.0.1', '[::1]'):
      caller = harness.Caller(f'{host}:{port}', _credentials(authority))
      caller.handshake(codec)
      assert caller.caption(codec, packets[0]).tokens > 0
  finally:
    both.stop()
  peers = [r['peer'].rpartition(':')[0] for log in _lines(folder) for r in log]
  assert 'ipv6:[::1]' in peers
  assert {security.address(f'{peer}:1') for peer in peers} <= {
    '127.0.0.1',
    '::1',
  }


def test_streams_come_piece_by_piece(proxy, servers, authority, edge, made):
  """The first pieces are there while the caption is still being made."""
  codec, packets = made['kmeans']
  caller = harness.Caller(proxy.address, _credentials(authority, edge))
  caller.metadata = [('session_id', os.urandom(16).hex())]
  caller.handshake(codec)
  whole = caller.caption(codec, packets[0]).caption
  release = threading.Event()

  def wait_before_decoding(engine):
    decode = engine.decode

    def run():
      assert release.wait(20)
      return decode()

    engine.decode = run

  engines = [server._engine for server in servers]
  for engine in engines:
    wait_before_decoding(engine)
  try:
    chunks = caller.stream(codec, packets[0])
    pieces = [next(chunks).text]  # Of the prefill; steps wait.
    assert not release.is_set()
    release.set()
    *rest, last = chunks
  finally:
    release.set()
    for engine in engines:
      del engine.decode
  pieces += [chunk.text for chunk in rest]
  assert ''.join(pieces) == whole == last.reply.caption


def test_progressive_messages_find_their_first_layers(
  proxy, authority, edge, model, images, servers
):
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  with clients.EdgeClient(
    _connect(proxy, authority, edge), codec, threshold=-1.0
  ) as client:
    results = client.caption(images)
  assert all(result.layers == 2 for result in results)


def test_too_long_messages_are_refused(proxy, servers, authority, edge):
  """Its status comes through, though the message is not read to its end."""
  caller = harness.Caller(proxy.address, _credentials(authority, edge))
  longest = servers[0].max_message_bytes
  for size in (longest + 100_000, 20_000_000):
    with pytest.raises(grpc.RpcError) as raised:
      caller.caption(b'12345678', b'x' * size)
    # A stream that ends before its request is reset, with or without a status.
    codes = CODES.RESOURCE_EXHAUSTED, CODES.CANCELLED
    assert raised.value.code() in codes, raised.value
  # The second one has not reached a server.
  proxy.until(lambda: 'edges/<NOSRV>' in proxy.log.read_text())
  with harness.refused(CODES.FAILED_PRECONDITION):
    caller.caption(b'12345678', b'x' * longest)


def test_health_and_its_streams_are_forwarded(proxy, authority, edge):
  caller = harness.Caller(proxy.address, _credentials(authority, edge))
  stub = health_pb2_grpc.HealthStub(caller.channel)
  request = health_pb2.HealthCheckRequest()
  serving_status = health_pb2.HealthCheckResponse.SERVING
  assert stub.Check(request).status == serving_status
  stream = stub.Watch(request)
  assert next(stream).status == serving_status
  stream.cancel()


def test_connections_of_an_address_are_bounded(proxy, authority, edge):
  host, _, port = proxy.address.rpartition(':')
  held = [socket.create_connection((host, int(port))) for _ in range(60)]
  time.sleep(0.5)
  closed = 0
  for raw in held:
    raw.setblocking(False)
    try:
      closed += raw.recv(1) == b''
    except ConnectionError:
      closed += 1
    except BlockingIOError:
      pass
    raw.close()
  assert 15 < closed < 60
  proxy.until(lambda: _reaches(proxy, authority, edge))


def _reaches(proxy, authority, edge):
  caller = harness.Caller(proxy.address, _credentials(authority, edge))
  stub = health_pb2_grpc.HealthStub(caller.channel)
  try:
    stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
  except grpc.RpcError:
    return False
  finally:
    caller.channel.close()
  return True


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """Two processes of servers, and a proxy in front of them."""
  made = benchmark.Site(
    tmp_path_factory.mktemp('site'),
    str(standin.folder()),
    6,
    (harness.QUANTIZERS[0], harness.QUANTIZERS[2]),
    rows=4,
    batch=2,
    steps=2,
    max_tokens=12,
    max_prompt=24,
  )
  yield made
  made.close()


def test_a_killed_server_costs_no_caption(site):
  def event():
    site.servers[0].kill()
    time.sleep(3)

  got = benchmark.load(site, 3, event)
  assert (got.lost, got.doubled) == (0, 0)
  assert got.requests > 20


def test_ends_in_order_and_reloads_refuse_nothing(site):
  if not site.servers[0].alive:
    site.servers[0].start()
  site.wait_until_up()

  def event():
    site.servers[1].stop()
    site.reload()

  got = benchmark.load(site, 3, event)
  assert (got.lost, got.doubled) == (0, 0)
  assert got.refused == {}
  assert got.requests > 20


def test_a_proxy_without_the_secret_does_not_start():
  said, status = haproxy.check({})
  assert status == 1
  assert 'PROXY_SECRET is not set' in said


def test_servers_without_tls_behind_the_proxy(
  settings, authority, edge, model, images, tmp_path
):
  """On one machine the secret needs no TLS; Ray's ingress has none."""
  plain = {'proxy_secret_file': settings['proxy_secret_file']}
  codec = harness.codec_of(model)(harness.QUANTIZERS[0])
  with serving.Server(model, _config(plain, tmp_path / 'log')) as server:
    addresses = [(server.address, server.metrics_address)] * 2
    proxy = haproxy.Proxy(
      tmp_path, authority, SECRET, addresses, SERVER_TLS='proto h2'
    )
    try:
      proxy.until(lambda: proxy.is_up(1) and proxy.is_up(2))
      with clients.EdgeClient(
        _connect(proxy, authority, edge), codec
      ) as client:
        assert len(client.caption(images)) == len(images)
      time.sleep(2)  # Checks go on.
      assert proxy.ready == 200
      caller = harness.Caller(server.address)
      with harness.refused(CODES.UNAUTHENTICATED):
        caller.handshake(codec)
    finally:
      proxy.stop()


def test_replicas_of_ray_behind_the_proxy(
  folder, authority, edge, model, images, tmp_path
):
  """Their ingress has no TLS: the proxy ends it, and replicas ask for it."""
  pytest.importorskip('ray', reason="the extra 'ray' is not installed")
  codec = harness.codec_of(model)(harness.QUANTIZERS[2])
  secret = tmp_path / 'secret'
  secret.write_text(SECRET)
  secret.chmod(0o600)
  server = processes.ServerProcess(
    engine='ray',
    replicas=2,
    model=standin.folder(),
    quantizers=harness.QUANTIZERS[2],
    replica_resources='CPU=0.5',
    proxy_secret_file=secret,
    rows=4,
    batch=2,
    steps=2,
    max_tokens=12,
    max_prompt=24,
  )
  with server:
    addresses = [(server.address, f'127.0.0.1:{server.metrics_port}')] * 2
    proxy = haproxy.Proxy(
      tmp_path, authority, SECRET, addresses, SERVER_TLS='proto h2'
    )
    try:
      with clients.EdgeClient(
        _connect(proxy, authority, edge, timeout=90.0), codec
      ) as client:
        through = [r.caption for r in client.caption(images)]
        streamed = [*client.stream(images[0])]
      with (
        serving.Server(model, harness.make_config()) as alone,
        clients.EdgeClient(alone.address, codec) as client,
      ):
        assert through == [r.caption for r in client.caption(images)]
      assert streamed[-1].caption == through[0]
      caller = harness.Caller(server.address)
      with harness.refused(CODES.UNAUTHENTICATED) as text:
        caller.handshake(codec, timeout=10)
      assert 'through its proxy' in text[0]
    finally:
      proxy.stop()
