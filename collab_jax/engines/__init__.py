"""Engines of sweeps: this machine, SLURM or Ray, which run command lines.

An engine starts the command of a unit and says when it has ended; it knows
nothing of models and records, and is given no code of this package.
"""

import os
from typing import Any

from collab_jax import _validate
from collab_jax.engines import base

NAMES = ('local', 'slurm', 'ray')


def make(
  name: str,
  command: base.UnitCommand,
  folder: str | os.PathLike[str],
  resources: base.Resources,
  workers: int = 0,
) -> base.SweepEngine:
  """Makes an engine.

  Args:
    name: One of `NAMES`.
    command: Command lines of the units.
    folder: Folder of the engine's own files, which all machines see.
    resources: Needs of a unit, and places to find them.
    workers: Number of units at a time; 0 for one a device of this machine, and
      for as many as the cluster has room for.

  Returns:
    The engine, which has started nothing yet.

  Raises:
    ValueError: There is no such engine, or it cannot run a unit here.
    ImportError: The package of the engine is not installed.
  """
  _validate.choice('engine', name, NAMES)
  _validate.integer('workers', workers, 0)
  settings: Any = command, folder, resources, workers
  # SLURM's and Ray's packages are optional.
  if name == 'slurm':
    from collab_jax.engines import slurm

    return slurm.SlurmEngine(*settings)
  if name == 'ray':
    from collab_jax.engines import ray_tasks

    return ray_tasks.RayEngine(*settings)
  from collab_jax.engines import local

  return local.LocalEngine(*settings)


def workers(name: str, resources: base.Resources, count: int = 0) -> int:
  """Returns the number of units that an engine runs at a time; 0 for any.

  Args:
    name: One of `NAMES`.
    resources: Needs of a unit.
    count: The number that was asked for; 0 for none.
  """
  if name != 'local':
    return count
  from collab_jax.engines import local

  return len(local.environments(resources.gpus, count))
