r"""Two servers behind HAProxy: equal captions, faults, restarts, time added.

python -m benchmarks.proxy --scenes=60 --edges=8

The configuration is that of deploy/haproxy, with TLS on both ways, certificates
of the edges and the servers' secret. Edges, each with a connection of its own,
send scenes while a server is killed and started, while both are restarted in
turn, and while the proxy is reloaded: half of them wait for the caption, half
read it as a stream, and one sends first layers, then the others. Losses are
scenes without the caption that they have without a network; doubles, requests
that were delivered more than once; refused, calls that were sent again because
a server was away; misses, those whose first layers another server had, so that
the whole message was sent. The exit status is 1 unless losses and doubles are
0, and refused calls where servers end in order.
"""

import collections
from collections.abc import Callable
from concurrent import futures
import os
import pathlib
import tempfile
import threading
import time
from typing import Any, NamedTuple, cast

from absl import app, flags
import grpc
import jax
import numpy as np

from benchmarks import processes
from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, launcher
from collab_jax.evaluation.report import text
from collab_jax.serving.client import channel, rate_control, retry
from collab_jax.serving.client import client as clients
from tests.serving import certificates, haproxy

CODEC = 'kmeans(k=8)'
SECRET = 'a-secret-of-the-proxy-and-its-servers'
# Of the servers: a proxy needs two checks, a second apart, to notice.
LAME_DUCK_SECONDS = 4


class ProxyLoad(NamedTuple):
  """Outcome of a load.

  Attributes:
    requests: Number of scenes that were sent.
    lost: Scenes without their caption.
    doubled: Requests that were delivered more than once.
    refused: Calls that were sent again, by the status that they had.
    misses: Calls whose first layers were at another server.
    longest: Longest time of a scene, in seconds.
  """

  requests: int
  lost: int
  doubled: int
  refused: collections.Counter
  misses: int
  longest: float


class CountingCalls:
  """Forwards calls; counts statuses, and deliveries by request id."""

  def __init__(self, stub: Any):
    self._stub = stub
    self.refused: collections.Counter[str] = collections.Counter()
    self.misses = 0
    self.delivered: collections.Counter[bytes] = collections.Counter()

  def Caption(self, request, **settings):
    """Forwards a request."""
    with _Statuses(self):
      reply = self._stub.Caption(request, **settings)
    self.delivered[request.request_id] += 1
    return reply

  def CaptionStream(self, request, **settings):
    """Forwards a request; returns its stream."""
    return _CountedStream(
      self._stub.CaptionStream(request, **settings), self, request.request_id
    )

  def __getattr__(self, name):
    return getattr(self._stub, name)


class _Statuses:
  """Counts the status with which a block ends."""

  def __init__(self, counting):
    self._counting = counting

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    if isinstance(error, grpc.RpcError):
      code, said = retry.status(error)
      if code is grpc.StatusCode.FAILED_PRECONDITION:
        self._counting.misses += 1
      else:
        self._counting.refused[f'{code.name}: {said[:60]}'] += 1


class _CountedStream:
  """Stream of a caption, whose end is counted."""

  def __init__(self, call, counting, request_id):
    self._call, self._counting, self._id = call, counting, request_id

  def __iter__(self):
    with _Statuses(self._counting):
      for chunk in self._call:
        if chunk.WhichOneof('kind') == 'reply':
          self._counting.delivered[self._id] += 1
        yield chunk

  def cancel(self):
    """Ends the call."""
    self._call.cancel()


class Site:
  """Two servers and the proxy in front, on this machine.

  Attributes:
    servers: Processes of the servers.
    proxy: The proxy.
    model: The edges' model.
    images: Scenes.
    want: Their captions without a network, by name of the codec.
    codecs: Names of a codec, and of one whose messages have layers.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    model: str,
    scenes: int,
    names: tuple[str, str] = (CODEC, rate_control.PROGRESSIVE),
    **flags_: Any,
  ):
    """Starts servers and proxy, and captions scenes without them.

    Args:
      folder: Folder for certificates and logs.
      model: Name, or a model's folder.
      scenes: Number of scenes.
      names: The codecs.
      **flags_: Other flags of the servers.
    """
    self.codecs = names
    self.authority = certificates.Authority(folder, 'ca')
    cert, key = self.authority.issue('server')
    secret = folder / 'secret'
    secret.write_text(SECRET)
    for path in (key, secret):
      path.chmod(0o600)
    settings = {
      'model': model,
      'quantizers': ';'.join(names),
      'tls_cert': cert,
      'tls_key': key,
      'proxy_secret_file': secret,
      'lame_duck_seconds': LAME_DUCK_SECONDS,
      **flags_,
    }
    self.servers = [processes.ServerProcess(**settings) for _ in range(2)]
    with futures.ThreadPoolExecutor(2) as pool:
      list(pool.map(lambda server: server.start(), self.servers))
    self._folder = folder
    self.start_proxy(*self.servers)
    self.model = checkpoints.load(model)
    reader = data.scenes('test', limit=scenes)
    self.images = np.stack([reader[i].image for i in range(scenes)])
    write = captioning.Captioner(self.model, flags_.get('max_tokens', 32))
    self.want = {}
    for name in names:
      codec = codecs.FeatureCodec(self.model, name)
      packets = codec.encode(self.images, jax.random.key(0))
      self.want[name] = write(codec.decode(packets))

  def start_proxy(self, *servers: processes.ServerProcess) -> None:
    """Starts a proxy in front of two servers."""
    addresses = [(s.address, f'127.0.0.1:{s.metrics_port}') for s in servers]
    self.proxy = haproxy.Proxy(self._folder, self.authority, SECRET, addresses)
    self.wait_until_up()

  def wait_until_up(self) -> None:
    """Waits until the proxy sends calls to both servers."""
    self.proxy.until(lambda: self.proxy.is_up(1) and self.proxy.is_up(2), 120)

  def connect(self, name: str, direct: bool = False) -> channel.Connection:
    """Returns a connection with a certificate of its own.

    Args:
      name: Name in the certificate.
      direct: Go to the first server, with the proxy's secret.
    """
    cert, key = self.authority.issue(name)
    key.chmod(0o600)
    target = self.servers[0].address if direct else self.proxy.address
    connection = channel.Connection(
      target, ca=self.authority.path, cert=cert, key=key, timeout=90.0
    )
    if direct:
      secret = (('collab-jax-proxy', SECRET),)
      cast(Any, connection).metadata = secret
    return connection

  def kill(self) -> None:
    """Kills a server, and starts it again."""
    self.servers[0].kill()
    time.sleep(3)
    self.servers[0].start()
    self.wait_until_up()

  def restart(self) -> None:
    """Restarts both servers, one after the other, by SIGTERM."""
    for server in self.servers:
      server.stop()
      server.start()
      self.wait_until_up()

  def reload(self) -> None:
    """Has the proxy read its configuration anew, three times."""
    for _ in range(3):
      self.proxy.reload()
      time.sleep(1)

  def close(self) -> None:
    """Ends all processes."""
    self.proxy.stop()
    for server in self.servers:
      server.kill()


def load(site: Site, edges: int, event: Callable[[], object]) -> ProxyLoad:
  """Lets edges send scenes until an event is over, and a moment longer."""
  ended = threading.Event()
  stubs: list[CountingCalls] = []
  lost, seconds = [], []

  def edge(number: int) -> None:
    connection = site.connect(f'edge-{number}')
    counting = CountingCalls(connection.stub)
    connection.stub = cast(Any, counting)
    stubs.append(counting)
    last = number == edges - 1
    name = site.codecs[1] if last else site.codecs[0]
    codec = codecs.FeatureCodec(site.model, name)
    threshold = -1.0 if last else None
    with clients.EdgeClient(connection, codec, threshold=threshold) as client:
      send = _stream if number % 2 == 0 and not last else _caption
      _caption(client, site.images[0], 0)  # Compiles.
      at = number
      while not ended.is_set():
        at = (at + 1) % len(site.images)
        start = time.monotonic()
        try:
          caption = send(client, site.images[at], at)
        except retry.RemoteError as error:
          caption = f'error: {error}'
        seconds.append(time.monotonic() - start)
        if caption != site.want[name][at]:
          lost.append((at, caption))
    connection.close()

  with futures.ThreadPoolExecutor(edges) as pool:
    started = [pool.submit(edge, number) for number in range(edges)]
    time.sleep(2)
    try:
      event()
      time.sleep(2)
    finally:
      ended.set()
    for future in started:
      future.result()
  refused = sum((stub.refused for stub in stubs), collections.Counter())
  times = [n for stub in stubs for n in stub.delivered.values()]
  for at, caption in lost[:3]:
    print(f'scene {at}: {caption}', flush=True)
  doubled = sum(n > 1 for n in times)
  misses = sum(stub.misses for stub in stubs)
  return ProxyLoad(
    len(seconds), len(lost), doubled, refused, misses, max(seconds)
  )


def _caption(client, image, at) -> str:
  return client.caption(image[None], image_ids=[at])[0].caption


def _stream(client, image, at) -> str:
  *pieces, result = client.stream(image, image_id=at)
  whole = ''.join(pieces)
  return result.caption if whole == result.caption else f'pieces: {whole}'


def speed(site: Site) -> list[list[str]]:
  """Measures one server directly and through the proxy, in turn.

  Returns:
    Rows of a table.
  """
  site.proxy.stop()
  site.servers[1].kill()
  site.start_proxy(site.servers[0], site.servers[0])
  rows = []
  for edges in (1, flags.FLAGS.edges):
    taken: dict[str, list[list[float]]] = {'directly': [], 'proxy': []}
    for _ in range(flags.FLAGS.rounds):
      for way in taken:
        taken[way].append(_seconds(site, way, edges))
    for way, turns in taken.items():
      halves = [1000 * float(np.median(turn)) for turn in turns]
      tails = [1000 * float(np.quantile(turn, 0.99)) for turn in turns]
      rates = [len(turn) / flags.FLAGS.seconds for turn in turns]
      cells = [rates, halves, tails]
      texts = [', '.join(f'{x:.3g}' for x in values) for values in cells]
      rows.append([f'{edges}', way, *texts])
  return rows


def _seconds(site: Site, way: str, edges: int) -> list[float]:
  """Returns the seconds of each caption of a turn."""
  ready = threading.Barrier(edges)
  taken: list[float] = []

  def edge(number: int) -> None:
    connection = site.connect(f'speed-{number}', way == 'directly')
    codec = codecs.FeatureCodec(site.model, CODEC)
    with clients.EdgeClient(connection, codec) as client:
      _caption(client, site.images[0], 0)
      at = 0
      ready.wait(60)
      end = time.monotonic() + flags.FLAGS.seconds
      while time.monotonic() < end:
        at = (at + 1) % len(site.images)
        start = time.perf_counter()
        _caption(client, site.images[at], at)
        taken.append(time.perf_counter() - start)
    connection.close()

  with futures.ThreadPoolExecutor(edges) as pool:
    for future in [pool.submit(edge, number) for number in range(edges)]:
      future.result()
  return taken


def main(argv):
  """Prints a table of faults, and one of times."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  failed = False
  with launcher.runtime(), tempfile.TemporaryDirectory() as name:
    site = Site(pathlib.Path(name), flags.FLAGS.model, flags.FLAGS.scenes)
    try:
      head = ['event', 'scenes', 'lost', 'doubled', 'refused', 'misses']
      rows = [[*head, 'longest s']]
      for event in (site.kill, site.restart, site.reload):
        got = load(site, flags.FLAGS.edges, event)
        refused = sum(got.refused.values())
        failed |= bool(got.lost or got.doubled)
        failed |= bool(refused) and event != site.kill
        rows.append(
          [
            event.__name__,
            f'{got.requests:,}',
            f'{got.lost}',
            f'{got.doubled}',
            f'{refused}',
            f'{got.misses}',
            f'{got.longest:.1f}',
          ]
        )
        print(event.__name__, dict(got.refused), flush=True)
      print(text.align(rows))
      head = ['edges', 'way', 'captions/s', 'p50 ms', 'p99 ms']
      print(text.align([head, *speed(site)]))
    finally:
      site.close()
  loads = ' '.join(f'{value:.1f}' for value in os.getloadavg())
  print(f'load average at the end: {loads}')
  if failed:
    raise SystemExit(1)


def _define_flags() -> None:
  # Not on import: tests import several programs.
  flags.DEFINE_integer('scenes', 60, 'Test scenes.', lower_bound=1)
  flags.DEFINE_integer('edges', 8, 'Edges at once.', lower_bound=2)
  flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
  flags.DEFINE_integer('rounds', 3, 'Turns of each way to the server.')
  flags.DEFINE_float('seconds', 8.0, 'Of each turn.')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
