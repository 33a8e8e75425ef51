"""Process of `collab-jax serve` that may be killed."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import socket
import subprocess
import sys
import time
from typing import Any
import urllib.request

from prometheus_client import parser

_ROOT = Path(__file__).resolve().parents[1]


class ServerProcess:
  """Server process on the same ports each time that it is started.

  Attributes:
    address: Host and port.
    metrics_port: Port of the metrics.
  """

  def __init__(self, **flags: object):
    """Chooses ports; nothing is started yet.

    Args:
      **flags: Flags of `collab-jax serve`.
    """
    with contextlib.ExitStack() as held:
      ports = [held.enter_context(_bound()) for _ in range(2)]
      port, self.metrics_port = (s.getsockname()[1] for s in ports)
    self.address = f'127.0.0.1:{port}'
    flags = {'port': port, 'metrics_port': self.metrics_port, **flags}
    self._flags = [f'--{name}={value}' for name, value in flags.items()]
    self._process: subprocess.Popen | None = None

  def start(self, wait: bool = True) -> float:
    """Starts the process; returns the seconds until it served."""
    start = time.monotonic()
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'collab_jax', 'serve', *self._flags],
      cwd=_ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    assert self._process.stdout is not None
    for line in self._process.stdout:
      if line == 'serving\n' or not wait:
        return time.monotonic() - start
    raise RuntimeError(f'the server did not start: {" ".join(self._flags)}')

  def kill(self) -> None:
    """Kills it as `kill -9` does."""
    if self._process is not None:
      self._process.kill()
      self._process.wait()

  def stop(self) -> None:
    """Stops it as SIGTERM does."""
    if self._process is not None:
      self._process.terminate()
      self._process.communicate(timeout=60)

  @property
  def pid(self) -> int:
    """Number of the process, another one after each start."""
    assert self._process is not None
    return self._process.pid

  @property
  def returncode(self) -> int | None:
    """Exit status of the process; None while it runs."""
    return None if self._process is None else self._process.poll()

  @property
  def alive(self) -> bool:
    """True while the process runs."""
    return self._process is not None and self._process.poll() is None

  def megabytes(self) -> float:
    """Returns its resident memory (RSS)."""
    assert self._process is not None
    pages = Path(f'/proc/{self._process.pid}/statm').read_text().split()[1]
    return int(pages) * os.sysconf('SC_PAGE_SIZE') / 1e6

  def value(self, name: str, **labels: str) -> float:
    """Returns a metric by its name without prefix, summed over other labels."""
    return sum(
      sample.value
      for sample in self._samples(name)
      if labels.items() <= sample.labels.items()
    )

  def values_by(self, name: str, label: str) -> dict[str, float]:
    """Returns a metric by the values of a label."""
    return {s.labels[label]: s.value for s in self._samples(name)}

  def _samples(self, name: str) -> Iterator[Any]:
    url = f'http://127.0.0.1:{self.metrics_port}/metrics'
    with urllib.request.urlopen(url, timeout=10) as page:
      families = parser.text_string_to_metric_families(page.read().decode())
    for family in families:
      for sample in family.samples:
        if sample.name == f'collab_jax_{name}':
          yield sample

  def __enter__(self) -> 'ServerProcess':
    """Starts the process."""
    self.start()
    return self

  def __exit__(self, *_: object) -> None:
    """Kills the process."""
    self.kill()


def _bound() -> socket.socket:
  bound = socket.socket()
  bound.bind(('127.0.0.1', 0))
  return bound
