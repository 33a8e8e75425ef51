r"""Compares sweeps by engines with a plain run, killed on the way and not.

python -m benchmarks.engines --engines=local,slurm,ray --units=48
python -m benchmarks.engines --engines=slurm --units=2 --minutes=2 \
    --passes=8 --limit=1500

SLURM is the cluster that sbatch reaches, Ray two nodes of this machine, which
are started and ended here. Each engine runs the sweep twice: undisturbed, and
with kill -9 of a unit, of a node's daemon (slurmd, which is started again, or a
raylet) and of the command itself, which is started again. With --minutes there
is one run by SLURM, whose jobs reach their time limit.

Records are compared with the plain run's to the letter, but for `run` and
`seconds`: lost are those that are missing, doubled those that are there twice,
other those that differ.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks import flag_names
from collab_jax import engines
from tools import markdown_table

_ENGINES = flags.DEFINE_list('engines', ['local'], 'Engines to run.')
_UNITS = flags.DEFINE_integer('units', 48, 'Number of units.')
_PASSES = flags.DEFINE_integer('passes', 48, 'Passes of the two methods.')
_LIMIT = flags.DEFINE_integer('limit', 6, 'Number of pictures.')
_WORKERS = flags.DEFINE_integer('workers', 2, 'Units at a time.')
_MINUTES = flags.DEFINE_integer(
  'minutes', 0, "SLURM's time limit, to be reached; 0 for none."
)
_SLURMD = flags.DEFINE_string(
  'slurmd', '/run/slurmd.pid', 'File with the process id of slurmd.'
)
_PORT = flags.DEFINE_integer('port', 6411, 'Port of the Ray cluster.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/engines', 'Where to write.')
_OUT = flags.DEFINE_string('out', '', 'File for the rows, as JSON.')

_ROOT = Path(__file__).resolve().parents[1]


class EngineRun(NamedTuple):
  """A sweep, beside the plain run.

  Attributes:
    engine: Its engine; '' of the plain run.
    ended: Processes that were killed.
    seconds: From the start of the command to its end, or of both.
    records: Records in the end.
    lost: Records that are missing.
    doubled: Records that are there twice.
    other: Records that differ from the plain run's.
  """

  engine: str
  ended: str
  seconds: float
  records: int
  lost: int
  doubled: int
  other: int


class Launched:
  """The command of a sweep, and its processes on this machine."""

  def __init__(self, engine: str, workdir: Path, *others: str):
    """Names the command; nothing is started.

    Args:
      engine: The engine; '' for none.
      workdir: Folder of the sweep.
      *others: Further flags.
    """
    seeds = tuple(range(_PASSES.value // 8))
    self._workdir = workdir
    self._command = [
      *(sys.executable, str(_ROOT / 'experiments' / 'sweep.py')),
      '--config=configs/tradeoff.py:mode=smoke',
      '--config.ks=(2, 3, 5, 8)',
      f'--config.seeds={seeds}',
      f'--config.limit={_LIMIT.value}',
      f'--workdir={workdir}',
      *others,
      f'--engine={engine}',
    ]
    if engine:
      self._command += [
        f'--units={_UNITS.value}',
        f'--workers={_WORKERS.value}',
      ]
    self._process: subprocess.Popen | None = None

  def start(self) -> None:
    """Starts the command."""
    with (self._workdir.parent / f'{self._workdir.name}.log').open('ab') as log:
      self._process = subprocess.Popen(
        self._command, cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT
      )

  def kill(self) -> None:
    """Kills the command as `kill -9` does."""
    assert self._process is not None
    self._process.kill()
    self._process.wait()

  def wait(self) -> None:
    """Waits for the end of the command.

    Raises:
      RuntimeError: It failed.
    """
    assert self._process is not None
    if self._process.wait():
      raise RuntimeError(f'{self._workdir}: the command failed; see its log')

  def wait_for(self, finished: int) -> None:
    """Waits until so many units are finished."""
    assert self._process is not None
    units = self._workdir / 'units'
    while len(list(units.glob('???.jsonl'))) < finished:
      if self._process.poll() is not None:
        raise RuntimeError(f'{self._workdir}: the command has ended')
      time.sleep(0.2)

  def unit_processes(self) -> list[int]:
    """Returns process ids of units that compute."""
    name = f'--workdir={self._workdir}'
    return [
      pid
      for pid, arguments in processes()
      if name in arguments
      and any(a.startswith('--shard=') for a in arguments)
      # The shell that becomes the unit.
      and arguments[0] != 'sh'
    ]


def processes() -> Iterator[tuple[int, list[str]]]:
  """Yields process id and arguments of each process of this machine."""
  for path in Path('/proc').glob('[0-9]*'):
    with contextlib.suppress(OSError):
      arguments = (path / 'cmdline').read_bytes().decode().split('\0')
      yield int(path.name), arguments


def kill_unit(sweep: Launched) -> None:
  """Kills a unit that computes."""
  while not (pids := sweep.unit_processes()):
    time.sleep(0.05)
  os.kill(pids[0], signal.SIGKILL)


def kill_slurmd() -> None:
  """Kills the daemon of SLURM's node, and starts it again later."""
  os.kill(int(Path(_SLURMD.value).read_text()), signal.SIGKILL)
  time.sleep(10)
  subprocess.run(['slurmd'], check=True)


@contextlib.contextmanager
def ray_nodes(folder: Path) -> Iterator[Callable[[], None]]:
  """Starts two nodes; yields a function that kills the second one's raylet."""
  ray = str(Path(sys.executable).with_name('ray'))
  # Ray's workers are otherwise the last that a busy machine runs.
  environment = {
    **os.environ,
    'RAY_AUTH_MODE': 'disabled',
    'RAY_worker_niceness': '0',
  }
  os.environ['RAY_AUTH_MODE'] = 'disabled'
  common = ('start', '--block', '--num-cpus=1', '--disable-usage-stats')
  where = (
    ('--head', f'--port={_PORT.value}', '--include-dashboard=false'),
    (f'--address=127.0.0.1:{_PORT.value}',),
  )
  nodes: list[subprocess.Popen] = []
  with (folder / 'ray.log').open('ab') as log:
    try:
      for flags_of_node in where:
        nodes.append(
          subprocess.Popen(
            [ray, *common, *flags_of_node],
            env=environment,
            stdout=log,
            stderr=log,
          )
        )
        time.sleep(15)
      yield lambda: _kill_raylet(nodes[1].pid)
    finally:
      for node in reversed(nodes):
        node.terminate()
      for node in nodes:
        node.wait()


def _kill_raylet(parent: int) -> None:
  """Kills the raylet that a process has started."""
  for pid, arguments in processes():
    if arguments[0].endswith('/raylet'):
      stat = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
      if int(stat[1]) == parent:
        os.kill(pid, signal.SIGKILL)


def read(workdir: Path) -> list[dict[str, Any]]:
  """Reads records, without what may differ."""
  records = []
  for line in (workdir / 'records.jsonl').read_text().splitlines():
    record = json.loads(line)
    del record['run'], record['seconds']
    records.append(record)
  return records


def compare(
  engine: str, ended: str, seconds: float, workdir: Path, plain: Path
) -> EngineRun:
  """Compares a sweep with the plain run."""

  def key(record):
    return record['image_id'], record['name'], record['seed']

  records, expected = read(workdir), {key(r): r for r in read(plain)}
  keys = {key(record) for record in records}
  return EngineRun(
    engine,
    ended,
    round(seconds, 1),
    len(records),
    len(expected.keys() - keys),
    len(records) - len(keys),
    sum(record != expected.get(key(record)) for record in records),
  )


def run(
  engine: str, folder: Path, plain: Path, kill_daemon: Any, kills: bool
) -> EngineRun:
  """Runs a sweep, and kills what is to be killed on the way."""
  workdir = folder / f'{engine}{"_killed" if kills else ""}'
  shutil.rmtree(workdir, ignore_errors=True)
  others = []
  if engine == 'slurm':
    others = ['--config.engine.cpus=1', '--config.engine.memory_gb=2.0']
    others += [f'--config.engine.minutes={_MINUTES.value or 60}']
  if engine == 'ray':
    others = [f'--config.engine.address=127.0.0.1:{_PORT.value}']
  sweep = Launched(engine, workdir, *others)
  start = time.monotonic()
  sweep.start()
  ended = []
  if kills:
    quarter = _UNITS.value // 4
    sweep.wait_for(quarter)
    kill_unit(sweep)
    ended.append('unit')
    if kill_daemon:
      sweep.wait_for(2 * quarter)
      kill_daemon()
      ended.append('slurmd' if engine == 'slurm' else 'raylet')
    sweep.wait_for(3 * quarter)
    sweep.kill()
    ended.append('command')
    sweep.start()
  sweep.wait()
  seconds = time.monotonic() - start
  said = ', '.join(ended) or (
    f'{_MINUTES.value} min limit' * bool(_MINUTES.value)
  )
  return compare(engine, said, seconds, workdir, plain)


def main(argv):
  """Runs all sweeps, and prints the table."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  flag_names.choices('engines', _ENGINES.value, engines.NAMES)
  folder = Path(_WORKDIR.value).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  plain = folder / 'plain'
  shutil.rmtree(plain, ignore_errors=True)
  start = time.monotonic()
  sweep = Launched('', plain)
  sweep.start()
  sweep.wait()
  rows = [compare('', '', time.monotonic() - start, plain, plain)]
  print(rows[0], flush=True)
  for engine in _ENGINES.value:
    with contextlib.ExitStack() as stack:
      daemon: Any = kill_slurmd if engine == 'slurm' else None
      if engine == 'ray':
        daemon = stack.enter_context(ray_nodes(folder))
      for kills in (False,) if _MINUTES.value else (False, True):
        rows.append(run(engine, folder, plain, daemon, kills))
        print(rows[-1], flush=True)
  if _OUT.value:
    Path(_OUT.value).write_text(json.dumps([r._asdict() for r in rows]))
  cells = [[str(value) for value in row] for row in rows]
  print(markdown_table.render(EngineRun._fields, cells, flush_right=True))


if __name__ == '__main__':
  app.run(main)
