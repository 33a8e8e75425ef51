"""Events of a server that is attacked, and of its clients."""

import json
import os
from pathlib import Path
import ssl
import subprocess
import sys
import tempfile
import time
from typing import Any

from PIL import Image

from benchmarks import processes

# Seconds in which new connections get another certificate.
_ROTATION_SECONDS = 5.0


def restart(scene: Any) -> int:
  """Kills the server, and starts it anew."""
  scene.server.kill()
  scene.server.start()
  return 0


def rotate(scene: Any) -> int:
  """Writes another certificate and key; returns 1 if they are not served.

  The certificate is there first, without its key, and then half written.
  """
  served = _served(scene)
  cert, key = scene.flags['tls_cert'], scene.flags['tls_key']
  before = cert.read_bytes(), key.read_bytes()
  scene.authority.issue('server')
  after = cert.read_bytes(), key.read_bytes()
  lost = 0
  for text, held in ((after[0], before[1]), (after[0][:200], after[1])):
    cert.write_bytes(text)
    key.write_bytes(held)
    time.sleep(1.2)
    lost += int(_served(scene) != served)
  cert.write_bytes(after[0])
  end = time.monotonic() + _ROTATION_SECONDS
  while time.monotonic() < end:
    if _served(scene) == after[0].decode().strip():
      return lost
    time.sleep(0.2)
  return lost + 1


def _served(scene: Any) -> str:
  """Returns the certificate that a new connection gets."""
  host, _, port = scene.server.address.rpartition(':')
  for _ in range(20):  # Its strangers may have taken all connections.
    try:
      found = ssl.get_server_certificate((host, int(port)), timeout=5)
    except OSError:
      time.sleep(0.2)
    else:
      return found.strip()
  return ''


def second_server(scene: Any) -> int:
  """Starts another server on the address; returns 1 if it is not refused."""
  port = scene.server.address.rpartition(':')[2]
  return _is_served(f'--port={port}')


def second_socket(scene: Any) -> int:
  """Starts two servers on one socket; returns 1 unless only one serves."""
  where = f'unix:{scene.folder}/socket'
  first = processes.ServerProcess(host=where, quantizers='kmeans(k=8)')
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


def full_disk(scene: Any) -> int:
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


EVENTS = {
  'server killed and started': restart,
  'another certificate, without a restart': rotate,
  'a second server on the address': second_server,
  'a second server on the socket': second_socket,
  'a full disk under a client': full_disk,
}
