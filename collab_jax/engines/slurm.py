"""Engine of SLURM clusters: arrays of jobs, by submitit.

The jobs do not need the process that submitted them: SLURM queues them anew
after a preemption and when a node fails, submitit when their time is over.
"""

from collections.abc import Iterator, Sequence
import hashlib
import importlib
import json
import os
from pathlib import Path
import shutil
import subprocess
import time
from typing import Any
import uuid

from collab_jax import _validate, jsonl
from collab_jax.engines import base, slurm_command

# Before the time limit, of which SLURM takes up to 60 for itself; a unit needs
# a few. Short jobs have a third of their time.
_WARNING_SECONDS = 90
_POLL_SECONDS = 5.0  # Between two questions to the controller.
_MISSES = 2  # Questions in a row without a job, which may be between states.


class SlurmEngine(base.SweepEngine):
  """Runs units as tasks of SLURM's job arrays.

  The name of an array says which sweep it is of, and a file of that name, which
  is written before it is submitted, which units: another process finds them
  again whenever the first one was killed.
  """

  interval = 2.0

  def __init__(
    self,
    command: base.UnitCommand,
    folder: str | os.PathLike[str],
    resources: base.Resources,
    workers: int,
  ):
    """Finds submitit and SLURM.

    Args:
      command: Command lines of the units.
      folder: Folder for scripts of jobs and their own logs, on a file system
        that all nodes see.
      resources: Needs of a unit.
      workers: Number of jobs at a time; 0 for any.

    Raises:
      ImportError: submitit is not installed.
      ValueError: SLURM's commands are not on the PATH.
    """
    try:
      submitit = importlib.import_module('submitit')
    except ImportError as error:
      raise ImportError(
        "engine: got 'slurm', which needs submitit; pip install"
        " 'collab_jax[slurm]'"
      ) from error
    for name in ('sbatch', 'srun', 'squeue', 'scontrol'):
      if shutil.which(name) is None:
        raise _validate.error(
          'engine', 'slurm', f'{name} on the PATH', 'start it on a login node'
        )
    self._submitit: Any = submitit
    self._command = command
    self._folder = Path(folder).absolute()
    self._resources = resources
    self._workers = workers
    digest = hashlib.blake2b(str(self._folder).encode(), digest_size=5)
    self._prefix = f'collab-{digest.hexdigest()}-'
    self._units: dict[str, list[int]] = {}  # Of arrays, by their names.
    self._running: dict[int, int] = {}  # Misses of each unit.
    self._states: dict[int, str] = {}
    self._asked = -_POLL_SECONDS

  def submit(self, units: Sequence[int]) -> None:
    """Submits an array of units.

    Raises:
      OSError: SLURM does not take them.
    """
    if not units:
      return
    name = f'{self._prefix}{uuid.uuid4().hex[:8]}'
    jsonl.write_json(self._folder / f'{name}.json', list(units))
    self._units[name] = list(units)
    executor = self._submitit.SlurmExecutor(
      self._folder,
      max_num_timeout=self._resources.requeues,
      python=self._resources.python or None,
    )
    executor.update_parameters(
      **sbatch_parameters(self._resources, name, self._workers)
    )
    commands = [
      slurm_command.RequeuedCommand(self._command.line(unit), self._command.cwd)
      for unit in units
    ]
    try:
      with executor.batch():
        for command in commands:
          executor.submit(command)
    except RuntimeError as error:  # Of submitit's kinds; it has sbatch's words.
      raise OSError(
        f'engine: got {_last_line(str(error))!r} of sbatch, expected it to take'
        f' {len(units)} units; check the fields of config.engine'
      ) from error
    self._running |= dict.fromkeys(units, 0)
    self._asked = time.monotonic()  # The controller may not know them yet.

  def attach(self) -> list[int]:
    """Returns the units of jobs that an earlier process submitted.

    Raises:
      OSError: SLURM does not say which jobs there are.
    """
    for path in self._folder.glob(f'{self._prefix}*.json'):
      self._units[path.stem] = json.loads(path.read_text())
    try:
      jobs = list(self._jobs())
    except subprocess.SubprocessError as error:
      words = _last_line(getattr(error, 'stderr', '') or str(error))
      raise OSError(
        f'engine: got {words!r} of squeue, expected the jobs of SLURM; start'
        ' the command again once it answers'
      ) from error
    self._running |= {unit: 0 for unit, _ in jobs}
    self._states = dict(jobs)
    return list(self._running)

  def poll(self) -> dict[int, str]:
    """Returns the units that have no job any more."""
    if time.monotonic() - self._asked < _POLL_SECONDS:
      return {}
    try:
      self._states = dict(self._jobs())
    except (OSError, subprocess.SubprocessError):
      return {}  # The controller is out of reach: nothing is known.
    finally:
      self._asked = time.monotonic()
    ended = {}
    for unit in list(self._running):
      misses = 0 if unit in self._states else self._running[unit] + 1
      self._running[unit] = misses
      if misses >= _MISSES:
        del self._running[unit]
        ended[unit] = 'its job has left the queue'
    return ended

  def _jobs(self, timeout: float = 60.0) -> Iterator[tuple[int, str]]:
    """Yields unit and state of each job in the queue."""
    done = subprocess.run(
      ['squeue', '--noheader', '--array', '--me', '--format=%j|%i|%T|%r'],
      capture_output=True,
      check=True,
      text=True,
      timeout=timeout,
    )
    for line in done.stdout.splitlines():
      name, job, state, reason = [*line.strip().split('|'), '', '', ''][:4]
      if (units := self._units.get(name)) is None:
        continue
      index = int(job.partition('_')[2] or 0)
      yield units[index], f'{state}: {reason}' if state == 'PENDING' else state

  @property
  def status(self) -> str:
    """Words on jobs, with the reason for which they wait."""
    states = list(self._states.values())
    waiting = [s.partition(': ')[2] for s in states if s.startswith('PENDING')]
    text = f'{states.count("RUNNING")} run, {len(waiting)} wait'
    return f'{text} ({waiting[0]})' if waiting and waiting[0] else text

  def close(self) -> str:
    """Leaves the jobs in the queue; returns the command that ends them."""
    try:
      units = {unit for unit, _ in self._jobs(timeout=1.0)}
    except (OSError, subprocess.SubprocessError):
      units = set(self._running)
    if not units:
      return ''
    return (
      f'{len(units)} jobs go on; scancel --name={",".join(self._units)} ends'
      ' them'
    )


def _last_line(text: str | bytes) -> str:
  """Returns the last line of a program's words that is not empty."""
  words = text.decode(errors='replace') if isinstance(text, bytes) else text
  return [words, *filter(str.strip, words.splitlines())][-1].strip()


def sbatch_parameters(
  resources: base.Resources, name: str, workers: int
) -> dict[str, Any]:
  """Returns submitit's parameters of an array.

  Args:
    resources: Needs of a unit.
    name: Name of the array.
    workers: Number of jobs at a time; 0 for any.
  """
  options: dict[str, Any] = {'requeue': True}
  for option in resources.sbatch:
    field, equals, value = option.lstrip('-').partition('=')
    options[field.strip()] = value.strip() if equals else True
  parameters: dict[str, Any] = {
    'job_name': name,
    'time': resources.minutes,
    'signal_delay_s': min(_WARNING_SECONDS, 20 * resources.minutes),
    'array_parallelism': workers or 100_000,
    'stderr_to_stdout': True,
    'additional_parameters': options,
  }
  optional = {
    'partition': resources.partition,
    'account': resources.account,
    'cpus_per_task': resources.cpus,
    'gpus_per_node': resources.gpus,
  }
  if resources.memory_gb:
    optional['mem'] = f'{round(resources.memory_gb * 1024)}M'
  return parameters | {n: value for n, value in optional.items() if value}
