"""The `SweepEngine` base class, and command lines of units."""

import abc
from collections.abc import Mapping, Sequence
import dataclasses
import os
from pathlib import Path

from collab_jax import _interrupts, _validate

# The signal is SLURM's warning, which is for submitit alone; an ignored one
# stays ignored in what the shell becomes.
_SHELL = """trap '' USR2
exec >>"$0" 2>&1
set -e
{setup}
export {parent}=$PPID
exec "$@"
"""


@dataclasses.dataclass(frozen=True)
class Resources:
  """Needs of a unit, and places to find them: `config.engine`.

  ::

    Resources(gpus=1, minutes=240, partition='gpu')

  Attributes:
    cpus: CPU cores of a unit; 0 leaves them to the cluster.
    gpus: GPUs of a unit.
    tpus: TPU chips of a unit, on Ray.
    memory_gb: Host memory of a unit; 0 leaves it to the cluster.
    minutes: Time limit of a SLURM job, after which it is queued anew.
    requeues: Time limits that a unit may reach.
    retries: Starts of a unit that fails and makes no record, after the first.
    partition: SLURM's partition; '' for the default one.
    account: SLURM's account.
    sbatch: Further options of sbatch, 'constraint=a100'.
    setup: Lines of shell before each unit.
    python: Interpreter on the machines of the units; '' for this one.
    address: Address of the Ray cluster.
  """

  cpus: int = 0
  gpus: int = 0
  tpus: int = 0
  memory_gb: float = 0.0
  minutes: int = 60
  requeues: int = 20
  retries: int = 2
  partition: str = ''
  account: str = ''
  sbatch: tuple[str, ...] = ()
  setup: tuple[str, ...] = ()
  python: str = ''
  address: str = 'auto'

  def __post_init__(self):
    """Raises ValueError if a field is out of range."""
    for name in ('cpus', 'gpus', 'tpus', 'requeues', 'retries'):
      _validate.integer(f'engine.{name}', getattr(self, name), 0)
    _validate.number('engine.memory_gb', self.memory_gb, 0)
    _validate.integer('engine.minutes', self.minutes, 1)
    for name in ('sbatch', 'setup'):
      value = getattr(self, name)
      if not isinstance(value, tuple) or not all(map(_is_line, value)):
        raise _validate.error(
          f'engine.{name}',
          value,
          'a tuple of texts',
          f'write --config.engine.{name}=\'("...",)\'',
        )
    for option in self.sbatch:
      if not option.partition('=')[0].strip('- '):
        raise _validate.error(
          'engine.sbatch', option, "options without dashes, 'constraint=a100'"
        )


def _is_line(value: object) -> bool:
  return isinstance(value, str)


@dataclasses.dataclass(frozen=True)
class UnitCommand:
  """Command lines of units, which differ in the unit's number alone.

  ::

    command = UnitCommand(('python', 'sweep.py'), 48, Path('runs/logs'))
    command.line(3)  # sh -c ... python sweep.py --shard=3/48

  Attributes:
    arguments: The program and its arguments.
    units: Number of units.
    logs: Folder of a log per unit.
    cwd: Folder to start in.
    setup: Lines of shell before the program.
  """

  arguments: tuple[str, ...]
  units: int
  logs: Path
  cwd: str = dataclasses.field(default_factory=os.getcwd)
  setup: tuple[str, ...] = ()

  def log(self, unit: int) -> Path:
    """Returns the file that a unit's output is appended to."""
    return self.logs.absolute() / f'{unit:03}.log'

  def line(
    self, unit: int, environment: Mapping[str, str] | None = None
  ) -> list[str]:
    """Returns the command of a unit, whose output goes to its log.

    Args:
      unit: The unit.
      environment: Variables that are set for it.
    """
    self.logs.mkdir(parents=True, exist_ok=True)
    shell = _SHELL.format(
      parent=_interrupts.PARENT, setup='\n'.join(self.setup)
    )
    variables = [f'{n}={value}' for n, value in (environment or {}).items()]
    return [
      *(['env', *variables] if variables else []),
      *('sh', '-c', shell, str(self.log(unit))),
      *self.arguments,
      f'--shard={unit}/{self.units}',
    ]


class SweepEngine(abc.ABC):
  """Starts units, and says which have ended.

  A unit is done when its records are there, which the caller sees; an engine
  says only that nothing computes the unit any more, and why.

  Attributes:
    interval: Seconds between two calls of `poll`.
  """

  interval: float = 0.5

  @abc.abstractmethod
  def submit(self, units: Sequence[int]) -> None:
    """Starts units, or queues them where there is no room."""

  @abc.abstractmethod
  def poll(self) -> dict[int, str]:
    """Returns the units that have ended since the last call, and why."""

  @property
  @abc.abstractmethod
  def status(self) -> str:
    """Words on running and waiting units, for the progress bar."""

  def attach(self) -> list[int]:
    """Returns units that an earlier process submitted and that go on."""
    return []

  @abc.abstractmethod
  def close(self) -> str:
    """Ends what ends with this process; returns words on what does not."""
