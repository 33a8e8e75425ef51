"""Engine of this machine: a process per GPU or TPU chip, or some on its CPU."""

import collections
from collections.abc import Sequence
import contextlib
import glob
import importlib.util
import os
import signal
import subprocess
import time

from collab_jax import _validate
from collab_jax.engines import base

_PATIENCE = 1.5  # Seconds that units have to close their files.
_PREALLOCATE = 'XLA_PYTHON_CLIENT_PREALLOCATE'
_GPU, _TPU = 'CUDA_VISIBLE_DEVICES', 'TPU_VISIBLE_CHIPS'
# Variable that chooses devices, packages of which JAX needs one, device files.
_KINDS = (
  (_GPU, ('jax_cuda12_plugin', 'jax_cuda13_plugin'), '/dev/nvidia[0-9]*'),
  (_TPU, ('libtpu',), '/dev/accel[0-9]*'),
  (_TPU, ('libtpu',), '/dev/vfio/[0-9]*'),
)


class LocalEngine(base.SweepEngine):
  """Runs units as processes of this machine, each on devices of its own.

  They end with this process, however that ends.
  """

  def __init__(
    self,
    command: base.UnitCommand,
    folder: str | os.PathLike[str],
    resources: base.Resources,
    workers: int,
  ):
    """Finds the devices.

    Args:
      command: Command lines of the units.
      folder: Not used.
      resources: `gpus` of a unit.
      workers: Number of processes at a time, which share the devices if there
        are fewer; 0 for one a device, or one on a CPU.

    Raises:
      ValueError: A unit needs more GPUs than there are.
    """
    del folder
    if os.name != 'posix':
      raise _validate.error('engine', 'local', 'Linux or macOS', 'leave it out')
    self._command = command
    self._slots = environments(resources.gpus, workers)
    self._free = list(range(len(self._slots)))
    self._waiting: collections.deque[int] = collections.deque()
    self._running: dict[int, tuple[subprocess.Popen, int]] = {}

  def submit(self, units: Sequence[int]) -> None:
    """Starts as many as there are slots; the others wait."""
    self._waiting.extend(units)
    self._fill()

  def _fill(self) -> None:
    while self._free and self._waiting:
      unit, slot = self._waiting.popleft(), self._free.pop(0)
      # Ctrl+C is for the launcher, which ends its units then.
      process = subprocess.Popen(
        self._command.line(unit, self._slots[slot]),
        cwd=self._command.cwd,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
      )
      self._running[unit] = process, slot

  def poll(self) -> dict[int, str]:
    """Returns the units that have ended since the last call, and why."""
    ended = {}
    for unit, (process, slot) in list(self._running.items()):
      if (status := process.poll()) is not None:
        del self._running[unit]
        self._free.append(slot)
        ended[unit] = exit_words(status)
    self._fill()
    return ended

  @property
  def status(self) -> str:
    """Words on running and waiting units."""
    return f'{len(self._running)} run, {len(self._waiting)} wait'

  def close(self) -> str:
    """Ends all units."""
    self._waiting.clear()
    processes = [process for process, _ in self._running.values()]
    for process in processes:
      _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and any(
      process.poll() is None for process in processes
    ):
      time.sleep(0.05)
    for process in processes:
      _signal(process, signal.SIGKILL)
      process.wait()
    self._running.clear()
    return ''


def _signal(process: subprocess.Popen, signum: int) -> None:
  """Signals a unit and what its set-up started."""
  if process.poll() is None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signum)


def exit_words(status: int) -> str:
  """Returns an exit status of a process in words."""
  if status >= 0:
    return f'exit status {status}'
  with contextlib.suppress(ValueError):
    return signal.Signals(-status).name
  return f'signal {-status}'


def environments(gpus: int, workers: int) -> list[dict[str, str]]:
  """Returns the variables of each process that may run at a time.

  Args:
    gpus: GPUs of a unit; 0 for one if there are any.
    workers: Number of processes; 0 for one a device.

  Raises:
    ValueError: A unit needs more GPUs than there are.
  """
  variable, devices = visible_devices()
  most = 1 if variable == _TPU else len(devices)
  if gpus > most:
    raise _validate.error(
      'engine.gpus', gpus, f'at most {most} on this machine', 'leave it out'
    )
  if not devices:
    return [{} for _ in range(workers or 1)]
  each = gpus or 1
  starts = range(0, len(devices) - each + 1, each)
  groups = [','.join(devices[start : start + each]) for start in starts]
  common: dict[str, str] = {}
  if variable == _TPU:
    common = {
      'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
      'TPU_PROCESS_BOUNDS': '1,1,1',
      # Libtpu otherwise lets one process of a machine in.
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    }
  elif workers > len(groups) and _PREALLOCATE not in os.environ:
    # Else the first process of a GPU takes three quarters of its memory.
    common = {_PREALLOCATE: 'false'}
  return [
    {**common, variable: groups[number % len(groups)]}
    for number in range(workers or len(groups))
  ]


def visible_devices() -> tuple[str, list[str]]:
  """Returns the variable that chooses devices, and their names.

  JAX is not asked, since it would take the devices' memory.
  """
  if os.environ.get('JAX_PLATFORMS', '').split(',')[0] == 'cpu':
    return '', []
  for variable, plugins, pattern in _KINDS:
    count = len(glob.glob(pattern))
    if count and any(map(importlib.util.find_spec, plugins)):
      if (chosen := os.environ.get(variable)) is not None:
        return variable, [n.strip() for n in chosen.split(',') if n.strip()]
      return variable, [str(number) for number in range(count)]
  return '', []
