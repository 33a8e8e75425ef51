"""HAProxy with the configuration of deploy/, in front of some servers."""

import contextlib
import os
from pathlib import Path
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

CONFIG = Path(__file__).parents[2] / 'deploy' / 'haproxy' / 'haproxy.cfg'
BINARY = shutil.which('haproxy') or shutil.which(
  'haproxy', path='/usr/sbin:/usr/local/sbin'
)
MISSING = 'haproxy is not installed'


class Proxy:
  """Process of HAProxy in front of two servers.

  Attributes:
    address: Host and port at which edges reach it.
  """

  def __init__(self, folder, authority, secret, servers, **settings):
    """Starts it.

    Args:
      folder: Folder for its certificate and log.
      authority: Authority of all certificates.
      secret: Secret that the servers ask for.
      servers: Address and metrics' address of each of two servers.
      **settings: Other settings of the configuration.
    """
    cert, key = authority.issue('proxy')
    pair = folder / 'proxy-with-key.pem'
    pair.write_bytes(cert.read_bytes() + key.read_bytes())
    port, metrics = free_ports(2)
    self.address = f'localhost:{port}'
    self._metrics = f'http://127.0.0.1:{metrics}'
    chosen = {
      'BIND': f'127.0.0.1:{port}',
      'METRICS': f'127.0.0.1:{metrics}',
      'CERTIFICATE': pair,
      'CLIENT_CA': authority.path,
      'SERVER_CA': authority.path,
      'PROXY_SECRET': secret,
      **settings,
    }
    for i, (address, metrics_address) in enumerate(servers, 1):
      chosen[f'SERVER_{i}'] = address
      chosen[f'READY_{i}'] = metrics_address.rpartition(':')[2]
    self.environment = {name: str(value) for name, value in chosen.items()}
    self.log = folder / 'haproxy.log'
    with self.log.open('wb') as log:
      self._process = subprocess.Popen(
        [BINARY, '-W', '-f', CONFIG],
        env={**os.environ, **self.environment},
        stdout=log,
        stderr=subprocess.STDOUT,
      )
    self.until(lambda: self.ready == 200)

  @property
  def ready(self):
    """Status of its readiness; 0 if it does not listen."""
    try:
      with urllib.request.urlopen(f'{self._metrics}/ready') as reply:
        return reply.status
    except urllib.error.HTTPError as error:
      return error.code
    except OSError:
      return 0

  def is_up(self, number):
    """Returns whether a server, from 1, passes its checks."""
    with urllib.request.urlopen(f'{self._metrics}/metrics') as reply:
      lines = reply.read().decode().splitlines()
    start = (
      f'haproxy_server_status{{proxy="servers",server="server{number}",'
      'state="UP"}'
    )
    (line,) = (line for line in lines if line.startswith(start))
    return line.endswith(' 1')

  def until(self, holds, seconds=30.0):
    """Waits for a condition; shows the log if it does not come."""
    end = time.monotonic() + seconds
    while not holds():
      assert time.monotonic() < end, self.log.read_text()
      time.sleep(0.05)

  def reload(self):
    """Reads the configuration anew, as `systemctl reload haproxy` does."""
    before = self.log.read_text().count('Loading success')
    self._process.send_signal(signal.SIGUSR2)
    self.until(lambda: self.log.read_text().count('Loading success') > before)

  def stop(self):
    """Stops it and its workers."""
    self._process.terminate()
    try:
      self._process.wait(5)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def check(environment):
  """Returns what HAProxy says of the configuration, and its exit status."""
  done = subprocess.run(
    [BINARY, '-c', '-f', CONFIG],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
  )
  return done.stdout + done.stderr, done.returncode


def free_ports(count):
  """Returns free ports of this machine."""
  with contextlib.ExitStack() as held:
    sockets = [held.enter_context(socket.socket()) for _ in range(count)]
    for bound in sockets:
      bound.bind(('127.0.0.1', 0))
    return [bound.getsockname()[1] for bound in sockets]
