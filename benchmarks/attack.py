r"""Attacks a server on loopback, and measures its owner beside the attack.

python -m benchmarks.attack --minutes=60 --out=attack.json
python -m benchmarks.attack --minutes=3 --phase_seconds=10
python -m benchmarks.attack --only=latency --out=latency.json
python -m benchmarks.attack --table=attack.json

A server of the tiny model with TLS and two tokens, in a process of its own. Its
owner captions scenes one after the other; two processes attack by tries drawn
from a seed. Four phases take turns: the owner alone, beside as many processes
that only compute (what any busy neighbour takes of the cores), beside strangers
without a token, and beside users with the other one. In the first
half of the time an event follows each turn: the server is killed, gets another
certificate, is asked to share its address or socket, or a client's disk is
full. Lost are captions that the owner did not get or that were wrong, answers
to strangers, and what one user got of another's; any makes the exit status 1.

--only=latency measures the owner's times alone: beside one kind of try after
the other, each in turns with the owner alone. The attackers and what computes
yield to others there (nice 19), as if they ran on machines of their own.
"""

import base64
import collections
from collections.abc import Sequence
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from absl import app, flags
import jax
import numpy as np

from benchmarks import attack_events, attackers, processes, session_names
from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, launcher
from collab_jax.serving import collab_pb2
from collab_jax.serving.client import client as clients
from tests.serving import certificates
from tools import markdown_table

_MINUTES = flags.DEFINE_float(
  'minutes', 60.0, 'Duration of the attack.', lower_bound=0.1
)
_PHASE = flags.DEFINE_float(
  'phase_seconds', 30.0, 'Duration of a phase.', lower_bound=1.0
)
# Other programs define --seed, and tests import them into one process.
_SEED = flags.DEFINE_integer('attack_seed', 0, 'Of the tries.')
_ONLY = flags.DEFINE_enum(
  'only', '', ['', 'latency'], 'Part of the attack; all of it by default.'
)
_KINDS = flags.DEFINE_multi_string(
  'kinds', [], 'Of --only=latency: a kind of tries, or more; all by default.'
)
_TURNS = flags.DEFINE_integer(
  'turns', 4, 'Of --only=latency: turns of each kind.', lower_bound=1
)
_ALLOWED = flags.DEFINE_string(
  'allowed', '', 'Quantizers of the server; those of the owner by default.'
)
_OUT = flags.DEFINE_string('out', '', 'JSON file of the results.')
_TABLE = flags.DEFINE_string(
  'table', '', 'Print the results of this file, and attack nobody.'
)
_EVENTS = flags.DEFINE_bool('events', True, 'Kill, rotate, fill and double.')

_ATTACKERS = 2
_SCENES = 32
_QUANTIZERS = 'kmeans(k=8)', 'merge(k=6,centroids=residual_vq)'
_TOKENS = {'owner': 'o' * 32, 'other': 'a' * 32}
_PHASES = 'alone', 'busy', 'strangers', 'users'
_COMPUTING = 'processes that only compute'
# Phases of --only=latency, each beside the owner alone.
_LATENCY = (
  _COMPUTING,
  'stranger: calls',
  'stranger: new connections',
  'stranger: health probes',
  'stranger: Watch streams',
  'stranger: floods of headers, pings, settings',
  'user: captions, many at once',
)
_LATENCY_SECONDS = 6.0
_BUSY = "print('ready', flush=True)\nwhile True:\n  sum(range(10_000))\n"


class Scene:
  """Server, certificates, messages and the captions that are right.

  Attributes:
    folder: Folder of certificates and tokens.
    authority: Signs the server's certificate.
    flags: Flags of the server.
    images: Scenes.
    server: The server's process.
    ca: File of the authority.
    owner: The owner's client.
    ready: The owner's messages.
    want: Their captions.
  """

  def __init__(self, folder: Path):
    """Captions scenes here, and starts the server."""
    self.folder = folder
    self.authority = certificates.Authority(folder, 'ca')
    self.ca = self.authority.path
    cert, key = self.authority.issue('server')
    tokens = folder / 'tokens'
    tokens.write_text('\n'.join(_TOKENS.values()))
    tokens.chmod(0o600)
    (folder / 'owner').write_text(_TOKENS['owner'])
    self.flags = {'tls_cert': cert, 'tls_key': key, 'token_file': tokens}
    self.flags['quantizers'] = _ALLOWED.value or ';'.join(_QUANTIZERS)
    self.server = processes.ServerProcess(**self.flags)
    self.server.start()
    model = checkpoints.load('tiny')
    reader = data.scenes('test', limit=_SCENES)
    self.images = np.stack([reader[i].image for i in range(_SCENES)])
    caption = captioning.Captioner(model)
    bound = [codecs.FeatureCodec(model, q, coding='best') for q in _QUANTIZERS]
    self._codecs, self._messages = bound, []
    for codec in bound:
      packets = codec.encode(self.images, jax.random.key(0))
      name = session_names.for_codec(codec)
      for packet, right in zip(
        packets, caption(codec.decode(packets)), strict=True
      ):
        self._messages.append((name, packet, right.encode()))
    self.want = [caption_.decode() for *_, caption_ in self._messages[:_SCENES]]
    self.owner = self.client(bound[0])
    ids = range(_SCENES)
    self.ready = [
      self.owner.pack(image, i)
      for image, i in zip(self.images, ids, strict=True)
    ]
    self.owned = self._own(bound[1])

  def client(self, codec: codecs.Codec) -> clients.EdgeClient:
    """Returns a client with the owner's token."""
    token = _TOKENS['owner']
    return clients.EdgeClient(
      self.server.address, codec, ca=self.ca, token=token, timeout=120.0
    )

  def _own(self, codec) -> list[bytes]:
    """Makes requests of first layers; returns their ids, which are secret."""
    ids = []
    with self.client(codec) as client:
      session, connection = client.handshake(), client.connection
      for _, packet, _ in self._messages[_SCENES : _SCENES + 8]:
        first = codec.split_layers(packet)[0]
        ids.append(os.urandom(16))
        request = collab_pb2.CaptionRequest(
          session=session.session, message=first, request_id=ids[-1]
        )
        connection.stub.Caption(request, metadata=connection.metadata)
    return ids

  def order(self, who: str, seed: int, seconds: float) -> str:
    """Returns the order of an attacker, 'stranger' or 'user'."""
    encode = lambda part: base64.b64encode(part).decode()  # noqa: E731
    order = {
      'to': self.server.address,
      'ca': str(self.ca),
      'token': _TOKENS['other'],
      'seed': seed,
      'seconds': seconds,
      'who': who,
      'sessions': [codec.to_json() for codec in self._codecs],
      'messages': [[*map(encode, m)] for m in self._messages],
      'owned': [*map(encode, self.owned)],
    }
    return json.dumps(order) + '\n'


class Owner:
  """Captions scenes one after the other, on a thread.

  Attributes:
    phase: Name under which the times are kept.
    seconds: Times of captions by phase.
    lost: Captions that were wrong, or did not come.
  """

  def __init__(self, scene: Scene):
    """Begins."""
    self.phase, self.lost = '', 0
    self.seconds: dict[str, list[float]] = collections.defaultdict(list)
    self._scene, self._ended = scene, False
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def _run(self) -> None:
    number = 0
    while not self._ended:
      index = number % _SCENES
      number += 1
      start, phase = time.perf_counter(), self.phase
      try:
        *_, result = self._scene.owner.stream_packed(self._scene.ready[index])
        right = getattr(result, 'caption', '') == self._scene.want[index]
      except (OSError, ValueError) as error:
        print(f'the owner lost a caption: {error}', file=sys.stderr, flush=True)
        right = False
      self.lost += not right
      if phase == self.phase:
        self.seconds[phase].append(time.perf_counter() - start)

  def measure(self, phase: str, seconds: float) -> None:
    """Keeps the times of some seconds under a phase's name."""
    self.phase = phase
    time.sleep(seconds)
    self.phase = ''

  def summary(self) -> dict[str, Any]:
    """Returns what was lost, and by phase number, p50 and p99 in ms."""
    phases = {name: _quantiles(self.seconds[name]) for name in _PHASES}
    return {'lost': self.lost, 'phases': phases}

  def end(self) -> None:
    """Waits for the caption in flight."""
    self._ended = True
    self._thread.join(150)
    self.lost += self._thread.is_alive()


def storm(
  scene: Scene,
  owner: Owner,
  who: str,
  seed: int,
  seconds: float,
  phase: str,
  prefix: Sequence[str] = (),
) -> list[Any]:
  """Runs attackers for some seconds; returns their counts.

  Args:
    scene: The server to attack.
    owner: Its times are kept meanwhile.
    who: Start of the names of the tries.
    seed: Of the tries.
    seconds: Duration.
    phase: Name of the owner's times.
    prefix: Start of the command, such as `nice`.
  """
  command = [*prefix, sys.executable, '-m', 'benchmarks.attackers']
  pipes: dict[str, Any] = {'stdin': subprocess.PIPE, 'text': True}
  started = [
    subprocess.Popen(
      command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **pipes
    )
    for _ in range(_ATTACKERS)
  ]
  for number, process in enumerate(started):
    assert process.stdin is not None
    process.stdin.write(scene.order(who, seed * _ATTACKERS + number, seconds))
    process.stdin.flush()
  for process in started:
    assert process.stdout is not None
    process.stdout.readline()
  owner.measure(phase, seconds)
  counts = []
  for process in started:
    try:
      lines, _ = process.communicate(timeout=60)
      counts.append(json.loads(lines.splitlines()[-1]))
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
      process.kill()
      print(f'an attacker ended by itself: {error}', file=sys.stderr)
  return counts


def busy(
  owner: Owner, seconds: float, phase: str, prefix: Sequence[str] = ()
) -> None:
  """Runs as many processes that only compute, and touch no server."""
  command = [*prefix, sys.executable, '-c', _BUSY]
  started = [
    subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(_ATTACKERS)
  ]
  for process in started:
    assert process.stdout is not None
    process.stdout.readline()
  owner.measure(phase, seconds)
  for process in started:
    process.kill()
    process.wait()


def run(scene: Scene, minutes: float, phase: float) -> dict[str, Any]:
  """Lets the phases take turns, with events in the first half.

  Args:
    scene: The scene.
    minutes: Duration.
    phase: Seconds of a phase.

  Returns:
    Counts of the tries by kind, of the events and what they lost, the owner's
    times by phase, and the server's megabytes at the end of each storm since it
    started last.
  """
  start, turn = time.monotonic(), 0
  counts: dict[str, Any] = {}
  events = {name: [0, 0] for name in attack_events.EVENTS}
  owner, memory = Owner(scene), [scene.server.megabytes()]
  result: dict[str, Any] = {}
  while time.monotonic() - start < 60 * minutes:
    owner.measure('alone', phase)
    busy(owner, phase, 'busy')
    seed = _SEED.value * 100_000 + turn
    for who in ('stranger', 'user'):
      for found in storm(scene, owner, who, seed, phase, f'{who}s'):
        for kind, outcomes in found.items():
          total = counts.setdefault(kind, collections.Counter())
          total.update(outcomes)
    memory.append(scene.server.megabytes())
    if _EVENTS.value and time.monotonic() - start < 30 * minutes:
      name = [*events][turn % len(events)]
      before = scene.server.pid
      lost = attack_events.EVENTS[name](scene)
      events[name][0] += 1
      events[name][1] += lost
      if scene.server.pid != before:
        memory = [scene.server.megabytes()]
    turn += 1
    result = {'kinds': counts, 'events': events, 'memory': memory}
    result |= {'minutes': (time.monotonic() - start) / 60}
    _say({**result, 'owner': owner.summary()}, turn)
  owner.end()
  return {**result, 'owner': owner.summary()}


def _say(result: dict[str, Any], turn: int) -> None:
  """Prints a line, and keeps what there is so far."""
  tries = sum(sum(c.values()) for c in result['kinds'].values())
  print(
    f'turn {turn}: {tries:,} tries, {lost_of(result)} lost,'
    f' {result["memory"][-1]:.0f} MB',
    file=sys.stderr,
    flush=True,
  )
  _keep(result)


def _keep(result: dict[str, Any]) -> None:
  if _OUT.value:
    text = json.dumps({**result, 'load': os.getloadavg()}, indent=1)
    Path(_OUT.value).write_text(text + '\n')


def lost_of(result: dict[str, Any]) -> int:
  """Returns what must not be: taken, wrong, lost by events or the owner."""
  kinds = sum(c['taken'] + c['wrong'] for c in result['kinds'].values())
  events = sum(lost for _, lost in result['events'].values())
  return kinds + events + result['owner']['lost']


def measure_latency(
  scene: Scene, kinds: Sequence[str], turns: int, seconds: float
) -> dict[str, Any]:
  """Measures the owner beside each kind of try, in turns with it alone.

  Args:
    scene: The scene.
    kinds: Names of tries, or processes that only compute.
    turns: Number of turns of each.
    seconds: Duration of each half of a turn.

  Returns:
    By kind, for each turn the owner's times alone and beside, and the tries.
  """
  owner, times = Owner(scene), {}
  tries = collections.Counter()
  yielding = 'nice', '-n', '19'
  for turn in range(turns):
    for kind in kinds:
      alone, beside = f'alone {kind} {turn}', f'{kind} {turn}'
      owner.measure(alone, seconds)
      if kind == _COMPUTING:
        busy(owner, seconds, beside, yielding)
      else:
        found = storm(scene, owner, kind, turn, seconds, beside, yielding)
        tries[kind] += sum(sum(c.values()) for f in found for c in f.values())
      halves = [_quantiles(owner.seconds[phase]) for phase in (alone, beside)]
      times.setdefault(kind, []).append(halves)
      print(f'turn {turn}, {kind}: {halves}', file=sys.stderr, flush=True)
  owner.end()
  lost = owner.summary()['lost']
  return {'latency': times, 'tries': tries, 'lost': lost, 'seconds': seconds}


def _quantiles(seconds: Sequence[float]) -> list[float]:
  """Returns the number of times, their median and 99th percentile in ms."""
  if not seconds:
    return [0, float('nan'), float('nan')]
  half, most = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99))
  return [len(seconds), half, most]


def show_latency(result: dict[str, Any]) -> int:
  """Prints the owner's times beside each kind; returns what was lost."""
  head = ['the owner beside', 'tries/s', 'p50 ms', 'p99 ms', 'p99 alone']
  head += ['p99 beside / alone', 'each turn']
  rows = []
  for kind, turns in result['latency'].items():
    # Medians of turns: one that another program disturbs does not decide.
    alone, beside = (
      np.median([turn[half] for turn in turns], axis=0) for half in (0, 1)
    )
    ratios = [beside_[2] / alone_[2] for alone_, beside_ in turns]
    tries = result['tries'].get(kind, 0) / (len(turns) * result['seconds'])
    cells = [f'{tries:,.0f}', f'{beside[1]:.1f}', f'{beside[2]:.1f}']
    cells += [f'{alone[2]:.1f}', f'{np.median(ratios):.2f}']
    rows.append([kind, *cells, ' '.join(f'{r:.1f}' for r in ratios)])
  print(markdown_table.render(head, rows))
  print(f'\nthe owner lost {result["lost"]} captions{_load(result)}')
  return result['lost']


def show(result: dict[str, Any]) -> int:
  """Prints the tables in Markdown; returns what was lost."""
  rows = []
  kinds = sorted(result['kinds'].items())
  for kind, counts in kinds:
    cells = [f'{counts[name]:,}' for name in attackers.OUTCOMES]
    rows.append([kind, f'{sum(counts.values()):,}', *cells])
  sums = [sum(c[name] for _, c in kinds) for name in attackers.OUTCOMES]
  rows.append(['all', *(f'{n:,}' for n in (sum(sums), *sums))])
  head = ['kind of try', 'tries', *attackers.OUTCOMES]
  print(markdown_table.render(head, rows))
  rows = [[name, *map(str, found)] for name, found in result['events'].items()]
  print('', markdown_table.render(['event', 'times', 'lost'], rows), sep='\n')
  rows = []
  phases = result['owner']['phases']
  for phase, (count, half, most) in phases.items():
    times = f'{most / phases["alone"][2]:.2f}'
    rows.append([phase, f'{count:,}', f'{half:.1f}', f'{most:.1f}', times])
  head = ['the owner', 'captions', 'p50 ms', 'p99 ms', 'p99 / alone']
  print('', markdown_table.render(head, rows), sep='\n')
  lost, memory = lost_of(result), result['memory']
  print(
    f'\n{result["minutes"]:.0f} minutes: the owner lost'
    f' {result["owner"]["lost"]} captions; in all {lost} lost; memory since'
    f' the last start {memory[0]:.0f} MB, after each storm'
    f' {" ".join(f"{mb:.0f}" for mb in memory[1:])}{_load(result)}'
  )
  return lost


def _load(result: dict[str, Any]) -> str:
  load = result.get('load') or os.getloadavg()
  return f'; load average {" ".join(f"{value:.1f}" for value in load)}'


def _attack() -> dict[str, Any]:
  """Starts a server, and attacks it as the flags say."""
  with launcher.runtime(), tempfile.TemporaryDirectory() as name:
    scene = Scene(Path(name))
    try:
      if not _ONLY.value:
        return run(scene, _MINUTES.value, _PHASE.value)
      kinds = _KINDS.value or _LATENCY
      return measure_latency(scene, kinds, _TURNS.value, _LATENCY_SECONDS)
    finally:
      scene.owner.close()
      scene.server.kill()


def main(argv):
  """Attacks, and prints the tables."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if _TABLE.value:
    result = json.loads(Path(_TABLE.value).read_text())
  else:
    result = _attack()
    _keep(result)
  if show_latency(result) if 'latency' in result else show(result):
    raise SystemExit(1)


if __name__ == '__main__':
  app.run(main)
