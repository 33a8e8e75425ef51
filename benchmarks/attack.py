r"""Attacks a server on loopback, and measures its owner beside the attack.

python -m benchmarks.attack --minutes=60
python -m benchmarks.attack --minutes=3 --phase_seconds=10

A server of the tiny model with TLS and two tokens, in a process of its own. Its
owner captions scenes one after the other; two processes attack by tries drawn
from a seed. Four phases take turns: the owner alone, beside as many processes
that only compute (what any busy neighbour takes of the cores), beside strangers
without a token, and beside users with the other one. In the first
half of the time an event follows each turn: the server is killed, stopped for
another certificate, asked to share its address or socket, or a client's disk is
full. Lost are captions that the owner did not get or that were wrong, answers
to strangers, and what one user got of another's; any makes the exit status 1.
"""

import base64
import collections
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
from PIL import Image

from benchmarks import attackers, processes, session_names
from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, launcher
from collab_jax.evaluation.report import text
from collab_jax.serving import collab_pb2
from collab_jax.serving.client import client as clients
from tests.serving import certificates

_MINUTES = flags.DEFINE_float(
  'minutes', 60.0, 'Duration of the attack.', lower_bound=0.1
)
_PHASE = flags.DEFINE_float(
  'phase_seconds', 30.0, 'Duration of a phase.', lower_bound=1.0
)
# Other programs define --seed, and tests import them into one process.
_SEED = flags.DEFINE_integer('attack_seed', 0, 'Of the tries.')
_EVENTS = flags.DEFINE_bool('events', True, 'Kill, rotate, fill and double.')

_ATTACKERS = 2
_SCENES = 32
_QUANTIZERS = 'kmeans(k=8)', 'merge(k=6,centroids=residual_vq)'
_TOKENS = {'owner': 'o' * 32, 'other': 'a' * 32}
_PHASES = 'alone', 'busy', 'strangers', 'users'
_BUSY = "print('ready', flush=True)\nwhile True:\n  sum(range(10_000))\n"


class Scene:
  """Server, certificates, messages and the captions that are right.

  Attributes:
    folder: Folder of certificates and tokens.
    server: The server's process.
    ca: File of the authority.
    owner: The owner's client.
    ready: The owner's messages.
    want: Their captions.
  """

  def __init__(self, folder: Path):
    """Captions scenes here, and starts the server."""
    self.folder = folder
    self._authority = certificates.Authority(folder, 'ca')
    self.ca = self._authority.path
    cert, key = self._authority.issue('server')
    tokens = folder / 'tokens'
    tokens.write_text('\n'.join(_TOKENS.values()))
    tokens.chmod(0o600)
    (folder / 'owner').write_text(_TOKENS['owner'])
    self.flags = {'tls_cert': cert, 'tls_key': key, 'token_file': tokens}
    self.flags['quantizers'] = ';'.join(_QUANTIZERS)
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

  def rotate(self) -> None:
    """Stops the server, and starts it with another certificate."""
    self.server.stop()
    self._authority.issue('server')
    self.server.start()

  def restart(self) -> None:
    """Kills the server, and starts it anew."""
    self.server.kill()
    self.server.start()


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

  def end(self) -> None:
    """Waits for the caption in flight."""
    self._ended = True
    self._thread.join(150)
    self.lost += self._thread.is_alive()


def storm(
  scene: Scene, owner: Owner, who: str, seed: int, seconds: float
) -> list[Any]:
  """Runs attackers for some seconds; returns their counts."""
  command = [sys.executable, '-m', 'benchmarks.attackers']
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
  owner.phase = f'{who}s'
  time.sleep(seconds)
  owner.phase = ''
  counts = []
  for process in started:
    try:
      lines, _ = process.communicate(timeout=60)
      counts.append(json.loads(lines.splitlines()[-1]))
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
      process.kill()
      print(f'an attacker ended by itself: {error}', file=sys.stderr)
  return counts


def busy(owner: Owner, seconds: float) -> None:
  """Runs as many processes that only compute, and touch no server."""
  command = [sys.executable, '-c', _BUSY]
  started = [
    subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(_ATTACKERS)
  ]
  for process in started:
    assert process.stdout is not None
    process.stdout.readline()
  owner.phase = 'busy'
  time.sleep(seconds)
  owner.phase = ''
  for process in started:
    process.kill()
    process.wait()


def second_server(scene: Scene) -> int:
  """Starts another server on the address; returns 1 if it is not refused."""
  port = scene.server.address.rpartition(':')[2]
  return _is_served(f'--port={port}')


def second_socket(scene: Scene) -> int:
  """Starts two servers on one socket; returns 1 unless only one serves."""
  where = f'unix:{scene.folder}/socket'
  first = processes.ServerProcess(host=where, quantizers=_QUANTIZERS[0])
  first.start()
  try:
    return _is_served(f'--host={where}') + int(not first.alive)
  finally:
    first.kill()
    (scene.folder / 'socket').unlink(missing_ok=True)


def _is_served(*where: str) -> int:
  command = [sys.executable, '-m', 'collab_jax', 'serve', '--metrics_port=-1']
  try:
    done = subprocess.run(
      [*command, *where], capture_output=True, text=True, timeout=120
    )
  except subprocess.TimeoutExpired:
    return 1
  return int(done.returncode == 0 or 'Traceback' in done.stderr)


def full_disk(scene: Scene) -> int:
  """Captions a folder on a disk that fills; returns what was lost."""
  folder = Path(tempfile.mkdtemp(dir=scene.folder))
  pictures = folder / 'pictures'
  pictures.mkdir()
  for number, image in enumerate(scene.images[:6]):
    Image.fromarray(image).save(pictures / f'{number}.png')
  out = folder / 'captions.jsonl'
  command = [sys.executable, '-m', 'collab_jax', 'caption', str(pictures)]
  command += [f'--server={scene.server.address}', f'--ca={scene.ca}']
  command += [f'--token_file={scene.folder}/owner', f'--out={out}', '--k=8']
  command += ['--timeout=120']
  # Of bash: in units of 1,024 bytes.
  limit = ['bash', '-c', 'ulimit -f 1; exec "$@"', 'bash']
  run: dict[str, Any] = {'capture_output': True, 'text': True}
  run |= {'env': {**os.environ, 'JAX_ENABLE_COMPILATION_CACHE': 'false'}}
  first = subprocess.run([*limit, *command], **run)
  bad = int(first.returncode == 0 or 'Traceback' in first.stderr)
  second = subprocess.run(command, **run)
  names = [json.loads(line)['file'] for line in out.read_text().splitlines()]
  bad += int(second.returncode != 0) + abs(len(names) - 6)
  if bad:
    print(first.stderr[-500:], second.stderr[-500:], file=sys.stderr)
  return bad + len(names) - len(set(names))


def _restart(scene):
  scene.restart()
  return 0


def _rotate(scene):
  scene.rotate()
  return 0


EVENTS = {
  'server killed and started': _restart,
  'another certificate': _rotate,
  'a second server on the address': second_server,
  'a second server on the socket': second_socket,
  'a full disk under a client': full_disk,
}


def run(scene: Scene, minutes: float, phase: float) -> dict[str, Any]:
  """Lets the phases take turns, with events in the first half.

  Args:
    scene: The scene.
    minutes: Duration.
    phase: Seconds of a phase.

  Returns:
    Counts of the tries by kind, of the events and what they lost, the owner,
    and the server's megabytes at the end of each storm since it started last.
  """
  start, turn = time.monotonic(), 0
  counts: dict[str, Any] = {}
  events = {name: [0, 0] for name in EVENTS}
  owner, memory = Owner(scene), [scene.server.megabytes()]
  while time.monotonic() - start < 60 * minutes:
    owner.phase = 'alone'
    time.sleep(phase)
    owner.phase = ''
    busy(owner, phase)
    seed = _SEED.value * 100_000 + turn
    for who in ('stranger', 'user'):
      for found in storm(scene, owner, who, seed, phase):
        for kind, outcomes in found.items():
          total = counts.setdefault(kind, collections.Counter())
          total.update(outcomes)
    memory.append(scene.server.megabytes())
    if _EVENTS.value and time.monotonic() - start < 30 * minutes:
      name = [*EVENTS][turn % len(EVENTS)]
      lost = EVENTS[name](scene)
      events[name][0] += 1
      events[name][1] += lost
      memory = memory if lost or turn % len(EVENTS) > 1 else []
      memory = memory or [scene.server.megabytes()]
    turn += 1
    _say(counts, owner, memory, turn)
  owner.end()
  return {'kinds': counts, 'events': events, 'owner': owner, 'memory': memory}


def _say(counts, owner, memory, turn):
  tries = sum(sum(c.values()) for c in counts.values())
  bad = sum(c['taken'] + c['wrong'] for c in counts.values()) + owner.lost
  print(
    f'turn {turn}: {tries:,} tries, {bad} lost, {memory[-1]:.0f} MB',
    file=sys.stderr,
    flush=True,
  )


def show(result: dict[str, Any]) -> int:
  """Prints the tables; returns what was lost."""
  rows = [['kind of try', 'tries', *attackers.OUTCOMES]]
  lost = result['owner'].lost
  for kind, counts in sorted(result['kinds'].items()):
    lost += counts['taken'] + counts['wrong']
    cells = [f'{counts[name]:,}' for name in attackers.OUTCOMES]
    rows.append([kind, f'{sum(counts.values()):,}', *cells])
  print(text.align(rows, left=1))
  print()
  for name, (times, bad) in result['events'].items():
    lost += bad
    print(f'{name}: {times} times, {bad} lost')
  print()
  rows = [['the owner', 'captions', 'p50 ms', 'p99 ms', 'p99 / alone']]
  base = None
  for phase in _PHASES:
    seconds = result['owner'].seconds[phase] or [float('nan')]
    half, most = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99))
    base = base or most
    times = f'{most / base:.2f}'
    rows.append(
      [phase, f'{len(seconds):,}', f'{half:.1f}', f'{most:.1f}', times]
    )
  print(text.align(rows, left=1))
  print(f'\nthe owner lost {result["owner"].lost} captions; in all {lost} lost')
  memory = result['memory']
  print(
    f'memory since the last start: {memory[0]:.0f} MB, after each storm'
    f' {" ".join(f"{mb:.0f}" for mb in memory[1:])}'
  )
  load = ' '.join(f'{value:.1f}' for value in os.getloadavg())
  print(f'load average at the end: {load}')
  return lost


def main(argv):
  """Attacks, and prints the tables."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime(), tempfile.TemporaryDirectory() as name:
    scene = Scene(Path(name))
    try:
      lost = show(run(scene, _MINUTES.value, _PHASE.value))
    finally:
      scene.owner.close()
      scene.server.kill()
  if lost:
    raise SystemExit(1)


if __name__ == '__main__':
  app.run(main)
