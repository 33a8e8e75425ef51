r"""Servers behind one address, by Ray Serve: equal captions, faults, speed.

python -m benchmarks.replicas --scenes=200 --edges=32

The plain server, one replica and two take turns. All scenes are sent to each,
and captions must be, letter for letter, those of `Captioner` without a network;
then edges in a process of their own, each with a message in flight, for the
throughput. Two replicas then lose one by `kill -9` while edges send, and are
restarted in turn; and send first layers, then the others. Losses are scenes
without their caption; doubles, requests that were delivered more than once.
Both must be 0, and no call of the rolling restart may be refused, else the exit
status is 1.
"""

import collections
from concurrent import futures
import os
from pathlib import Path
import signal
import threading
import time
from typing import Any, NamedTuple, cast

from absl import app, flags
import grpc
import jax
import numpy as np

from benchmarks import (
  edges,
  fault_injection,
  flag_names,
  processes,
  session_names,
)
from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, launcher
from collab_jax.evaluation.report import text
from collab_jax.serving.client import channel, rate_control, retry, rpc
from collab_jax.serving.client import client as clients

_CODEC = 'kmeans(k=8)'
_REPLICA = b'ray::ServeReplica:collab_jax:Captioner'
# Servers in the table, by the number of replicas; 0 for the plain one.
_NAMES = {0: 'plain server', 1: 'Ray, 1 replica', 2: 'Ray, 2 replicas'}
_START_SECONDS = 400.0


class Expected(NamedTuple):
  """Messages of scenes, and their captions without a network."""

  codec: codecs.FeatureCodec
  images: np.ndarray
  packets: list[bytes]
  captions: list[str]


class LoadResult(NamedTuple):
  """Outcome of a load.

  Attributes:
    requests: Number of requests.
    lost: Requests without their caption.
    doubled: Requests that were delivered more than once.
    statuses: Statuses of calls that were tried again, by their names.
    longest: Longest time of a request, in seconds.
  """

  requests: int
  lost: int
  doubled: int
  statuses: collections.Counter
  longest: float


class StatusCountingStub:
  """Forwards calls; counts statuses, and deliveries by request id.

  Without `affine` they lack the metadata that leads them to one replica.
  """

  def __init__(self, stub, affine: bool = True):
    self._stub = stub
    self._affine = affine
    self.statuses: collections.Counter[str] = collections.Counter()
    self.delivered: collections.Counter[bytes] = collections.Counter()
    self.calls = 0

  def Caption(self, request, **settings):
    """Forwards a request."""
    self.calls += 1
    if not self._affine:
      settings['metadata'] = ()
    try:
      reply = self._stub.Caption(request, **settings)
    except grpc.RpcError as error:
      self.statuses[retry.status(error)[0].name] += 1
      raise
    self.delivered[request.request_id] += 1
    return reply

  def __getattr__(self, name):
    return getattr(self._stub, name)


def expect(model, name: str) -> Expected:
  """Captions scenes by this process."""
  codec = codecs.FeatureCodec(model, name)
  reader = data.scenes('test', limit=flags.FLAGS.scenes)
  images = np.stack([reader[i].image for i in range(len(reader))])
  packets = codec.encode(images, jax.random.key(0))
  captions = captioning.Captioner(model)(codec.decode(packets))
  return Expected(codec, images, packets, captions)


def make_server(replicas: int) -> processes.ServerProcess:
  """Makes the process of a server; 0 replicas for the plain one."""
  settings: dict[str, Any] = {
    'quantizers': f'{_CODEC};{rate_control.PROGRESSIVE}'
  }
  if replicas:
    settings |= {'engine': 'ray', 'replicas': replicas}
  return processes.ServerProcess(**settings)


def throughput(server, expected: Expected) -> list[float]:
  """Measures captions a second, and p50 and p99 in milliseconds.

  Raises:
    SystemExit: A caption is not as it is without a network.
  """
  name = session_names.for_codec(expected.codec)
  messages = [(name, packet) for packet in expected.packets]
  for seconds in (0.0, flags.FLAGS.seconds):  # First each message once.
    got = edges.run(
      server.address, [expected.codec], messages, flags.FLAGS.edges, seconds
    )
    pairs = zip(got['captions'], expected.captions, strict=True)
    wrong = sum(a not in ((b,) if not seconds else (b, None)) for a, b in pairs)
    if wrong:
      raise SystemExit(f'{wrong} captions differ from those without a network')
  half, most = np.quantile(got['seconds'], [0.5, 0.99])
  return [len(got['seconds']) / got['total'], 1000 * half, 1000 * most]


def load(server, expected: Expected, event) -> LoadResult:
  """Lets edges send scenes until an event is over, and a moment longer."""
  ended = threading.Event()
  count = len(expected.packets)
  stubs, lost, longest = [], [], []

  def edge(number: int) -> int:
    connection = channel.Connection(server.address, timeout=120.0)
    counting = StatusCountingStub(connection.stub)
    stubs.append(counting)
    connection.stub = cast(Any, counting)
    client = rpc.RpcClient(connection, [expected.codec])
    sent = 0
    while not ended.is_set():
      i = (number * 7 + sent) % count
      start = time.monotonic()
      try:
        answer = client.caption(0, expected.packets[i], rpc.GenerationOptions())
        caption = answer.reply.caption
      except retry.RemoteError as error:
        caption = str(error)
      longest.append(time.monotonic() - start)
      if caption != expected.captions[i]:
        lost.append(caption)
      sent += 1
    connection.close()
    return sent

  with futures.ThreadPoolExecutor(flags.FLAGS.edges) as pool:
    started = [pool.submit(edge, i) for i in range(flags.FLAGS.edges)]
    try:
      time.sleep(3)
      event()
      time.sleep(3)
    finally:
      ended.set()
    whole = sum(future.result() for future in started)
  statuses = sum((s.statuses for s in stubs), collections.Counter())
  delivered = sum((s.delivered for s in stubs), collections.Counter())
  doubled = sum(n - 1 for n in delivered.values())
  for caption in set(lost):
    print('lost:', caption)
  return LoadResult(whole, len(lost), doubled, statuses, max(longest))


def replica_pids(server: processes.ServerProcess) -> list[int]:
  """Lists the processes of a server's replicas."""
  parents, named = {}, []
  for folder in Path('/proc').iterdir():
    if folder.name.isdecimal():
      try:
        status = (folder / 'stat').read_text().rpartition(')')[2].split()
        command = (folder / 'cmdline').read_bytes()
      except OSError:  # It has ended.
        continue
      parents[int(folder.name)] = int(status[1])
      if command.startswith(_REPLICA):
        named.append(int(folder.name))

  def is_ours(pid: int) -> bool:
    while pid and pid != server.pid:
      pid = parents.get(pid, 0)
    return bool(pid)

  return sorted(filter(is_ours, named))


def wait_for_new(server, old: set[str], count: int) -> None:
  """Waits until so many replicas serve that were not there before.

  Raises:
    RuntimeError: They do not.
  """
  end = time.monotonic() + _START_SECONDS
  while time.monotonic() < end:
    if len(_replicas(server) - old) >= count and len(replica_pids(server)) == 2:
      return
    time.sleep(0.5)
  raise RuntimeError(f'{count} new replicas do not serve')


def _replicas(server) -> set[str]:
  """Returns the names of the replicas; none while nobody answers."""
  try:
    return set(server.values_by('serving', 'replica'))
  except OSError:
    return set()


def kill_one(server) -> None:
  """Kills a replica as `kill -9` does; waits for another one in its place."""
  old = _replicas(server)
  os.kill(replica_pids(server)[0], signal.SIGKILL)
  wait_for_new(server, old, 1)


def restart(server) -> None:
  """Restarts the replicas in turn; waits until all are new."""
  old = _replicas(server)
  os.kill(server.pid, signal.SIGHUP)
  wait_for_new(server, old, 2)


def progressive(
  server, expected: Expected, affine: bool = True
) -> tuple[int, int]:
  """Sends first layers and then the others.

  Args:
    server: The server.
    expected: Messages with layers, and their captions.
    affine: Whether both lead to one replica; else to any.

  Returns:
    Number of captions that differ from those of whole messages, and of calls
    more than two for each scene.
  """
  link = channel.Connection(server.address)
  counting = StatusCountingStub(link.stub, affine)
  link.stub = cast(Any, counting)
  with clients.EdgeClient(
    link, expected.codec, threshold=-1.0, coarse=rate_control.COARSE
  ) as client:
    answers = client.caption(expected.images)
  link.close()
  pairs = zip(answers, expected.captions, strict=True)
  wrong = sum(a.caption != b for a, b in pairs)
  return wrong, counting.calls - 2 * len(answers)


def faults(server, expected: Expected, layered: Expected) -> bool:
  """Prints a line for each fault; returns whether something was lost."""
  rows, failed = (
    [['', 'requests', 'lost', 'doubled', 'tried again', 's']],
    False,
  )
  for name, event in (
    ('a replica killed (kill -9)', lambda: kill_one(server)),
    ('rolling restart', lambda: restart(server)),
  ):
    got = load(server, expected, event)
    again = fault_injection.harness.format_counts(got.statuses) or '0'
    rows.append(
      [name, f'{got.requests:,}', str(got.lost), str(got.doubled), again,
       f'{got.longest:.1f}']
    )  # fmt: skip
    refused = got.statuses if name == 'rolling restart' else 0
    failed = failed or bool(got.lost or got.doubled or refused)
  print(text.align(rows))
  for affine in (True, False):
    wrong, more = progressive(server, layered, affine)
    where = 'led to the replica of the first ones' if affine else 'sent to any'
    print(
      f'progressive, finer layers {where}: {len(layered.captions)} scenes,'
      f' {wrong} captions differ, {more} whole messages sent again'
    )
    failed = failed or bool(wrong)
  return failed


def main(argv):
  """Prints a table of throughputs, and a line for each fault."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  flag_names.choices('replicas', flags.FLAGS.replicas, [*map(str, _NAMES)])
  with launcher.runtime():
    model = checkpoints.load('tiny')
    expected = expect(model, _CODEC)
    layered = expect(model, rate_control.PROGRESSIVE)
    table = [['', 'start s', 'captions/s', 'p50 ms', 'p99 ms']]
    failed = False
    for replicas in map(int, flags.FLAGS.replicas):
      name = _NAMES[replicas]
      server = make_server(replicas)
      try:
        started = server.start()
        rounds = [
          throughput(server, expected) for _ in range(flags.FLAGS.rounds)
        ]
        figures = [
          ', '.join(f'{figure:.0f}' for figure in column)
          for column in zip(*rounds, strict=True)
        ]
        table.append([name, f'{started:.0f}', *figures])
        if replicas == max(_NAMES):
          failed = faults(server, expected, layered)
      finally:
        server.stop()
  print(text.align(table))
  load_average = ' '.join(f'{value:.1f}' for value in os.getloadavg())
  print(f'{os.cpu_count()} cores, load average at the end: {load_average}')
  if failed:
    raise SystemExit(1)


def _define_flags() -> None:
  # Not on import: tests import several programs.
  flags.DEFINE_integer('scenes', 200, 'Test scenes.', lower_bound=1)
  flags.DEFINE_integer('edges', 32, 'Edges at once.', lower_bound=1)
  flags.DEFINE_float('seconds', 10.0, 'Of each throughput.')
  flags.DEFINE_integer('rounds', 3, 'Throughputs of each server.')
  flags.DEFINE_list(
    'replicas', ['0', '1', '2'], 'Servers to measure; 0 is the plain one.'
  )


if __name__ == '__main__':
  _define_flags()
  app.run(main)
