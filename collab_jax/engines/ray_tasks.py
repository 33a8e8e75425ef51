"""Engine of Ray clusters: tasks that run command lines.

A task is the standard library's `subprocess.run`, so that no code of this
package is sent, and JAX is imported by the commands alone.
"""

from collections.abc import Mapping, Sequence
import importlib
import logging
import os
from pathlib import Path
import subprocess
from typing import Any

from collab_jax import _ray_address
from collab_jax.engines import base, local

# Variables of this process that commands get, since a worker of Ray has those
# of its node: where packages are, and settings of JAX.
_PASSED = ('PYTHONPATH', 'JAX_', 'XLA_', 'HF_', 'TFDS_')
# Part of names of secrets: `ps` shows command lines to all users of a machine.
_SECRET = 'TOKEN'

_TOKEN = Path('~/.ray/auth_token').expanduser()


class RayEngine(base.SweepEngine):
  """Runs units as tasks of a Ray cluster.

  Ray starts a task again, on another node, if its worker or node dies. Tasks
  end with the process that submitted them.
  """

  interval = 2.0

  def __init__(
    self,
    command: base.UnitCommand,
    folder: str | os.PathLike[str],
    resources: base.Resources,
    workers: int,
  ):
    """Connects to the cluster.

    Args:
      command: Command lines of the units.
      folder: Not used.
      resources: Needs of a unit, and the cluster's address.
      workers: Number of tasks at a time; 0 for as many as there is room for.

    Raises:
      ImportError: Ray is not installed.
      ConnectionError: There is no cluster at the address.
    """
    del folder
    if _TOKEN.exists():  # Then `ray start --head` asks for it.
      os.environ.setdefault('RAY_AUTH_MODE', 'token')
    try:
      ray = importlib.import_module('ray')
    except ImportError as error:
      raise ImportError(
        "engine: got 'ray', which needs Ray; pip install 'collab_jax[ray]'"
      ) from error
    self._ray: Any = ray
    self._command = command
    self._workers = workers
    self._waiting: list[int] = []
    self._running: dict[Any, int] = {}
    try:
      _ray_address.probe(resources.address)
      ray.init(
        address=resources.address,
        log_to_driver=False,
        logging_level=logging.WARNING,
      )
    except Exception as error:  # Of many kinds, its own among them.
      reason = str(error).splitlines()[0] if str(error) else repr(error)
      raise ConnectionError(
        f'engine.address: got {resources.address!r} ({reason}), expected the'
        ' address of a Ray cluster; `ray start --head` starts one, and says it'
      ) from error
    self._options = task_options(resources)
    secrets = {n: v for n, v in _passed().items() if _SECRET in n}
    if secrets:
      self._options['runtime_env'] = {'env_vars': secrets}
    self._run = ray.remote(subprocess.run).options(**self._options)

  def submit(self, units: Sequence[int]) -> None:
    """Submits units; those above the number at a time wait."""
    self._waiting.extend(units)
    self._fill()

  def _fill(self) -> None:
    most = self._workers or len(self._running) + len(self._waiting)
    environment = {n: v for n, v in _passed().items() if _SECRET not in n}
    while self._waiting and len(self._running) < most:
      unit = self._waiting.pop(0)
      task = self._run.remote(
        self._command.line(unit, environment),
        cwd=self._command.cwd,
        stdin=subprocess.DEVNULL,
        check=False,
      )
      self._running[task] = unit

  def poll(self) -> dict[int, str]:
    """Returns the units whose tasks have ended, and why."""
    if not self._running:
      return {}
    tasks = list(self._running)
    ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
    ended = {}
    for task in ready:
      unit = self._running.pop(task)
      try:
        ended[unit] = local.exit_words(self._ray.get(task).returncode)
      except self._ray.exceptions.RayError as error:
        ended[unit] = str(error).splitlines()[0]
    self._fill()
    return ended

  @property
  def status(self) -> str:
    """Words on the cluster and the tasks."""
    nodes = [n['Resources'] for n in self._ray.nodes() if n['Alive']]
    plural = '' if len(nodes) == 1 else 's'
    words = [f'{len(nodes)} node{plural}, {len(self._running)} run or wait']
    for name, need in task_needs(self._options).items():
      if all(node.get(name, 0) < need for node in nodes):
        words.append(f'no node has {need:g} {name}')
    return ', '.join(words)

  def close(self) -> str:
    """Ends the tasks, with the connection."""
    for task in self._running:
      self._ray.cancel(task, force=True)
    self._ray.shutdown()
    return ''


def _passed() -> dict[str, str]:
  """Returns the variables of this process that commands get."""
  return {n: v for n, v in os.environ.items() if n.startswith(_PASSED)}


def task_options(resources: base.Resources) -> dict[str, Any]:
  """Returns Ray's options of a task.

  Args:
    resources: Needs of a unit.
  """
  options: dict[str, Any] = {
    'num_cpus': resources.cpus or 1,
    'num_gpus': resources.gpus,
    # A worker or node that died is no fault of the unit.
    'max_retries': -1,
  }
  if resources.memory_gb:
    options['memory'] = round(resources.memory_gb * 2**30)
  if resources.tpus:
    options['resources'] = {'TPU': resources.tpus}
  return options


def task_needs(options: Mapping[str, Any]) -> dict[str, float]:
  """Returns a task's needs by the names of a node's resources.

  Args:
    options: From `task_options`.
  """
  needs = {'CPU': options['num_cpus'], 'GPU': options['num_gpus']}
  needs['memory'] = options.get('memory', 0)
  return needs | options.get('resources', {})
