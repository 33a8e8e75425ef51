"""Engines that run command lines: here, on SLURM, and on Ray."""

import dataclasses
import importlib.util
import os
from pathlib import Path
import pickletools
import shutil
import signal
import subprocess
import sys
import time

import pytest

from collab_jax import engines
from collab_jax.engines import base, local, slurm
from configs import common

needs_submitit = pytest.mark.skipif(
  importlib.util.find_spec('submitit') is None, reason='submitit is missing'
)
needs_ray = pytest.mark.skipif(
  importlib.util.find_spec('ray') is None, reason='ray is missing'
)


def _has_slurm():
  if shutil.which('sinfo') is None or shutil.which('sbatch') is None:
    return False
  done = subprocess.run(['sinfo', '-h'], capture_output=True, check=False)
  return done.returncode == 0 and b'idle' in done.stdout


needs_slurm = pytest.mark.skipif(
  not _has_slurm(), reason='there is no SLURM cluster with an idle node'
)

# Writes its shard to a file, or fails or waits as the file `how` says.
PROGRAM = """
import os, pathlib, sys, time
shard = sys.argv[-1].partition('=')[2].partition('/')[0]
how = pathlib.Path('how')
text = how.read_text() if how.exists() else ''
print('unit', shard, text, flush=True)
pathlib.Path('pid' + shard).write_text(str(os.getpid()))
if text == 'fail':
  sys.exit(3)
if text == 'wait':
  time.sleep(600)
gpus = os.environ.get('CUDA_VISIBLE_DEVICES', '')
pathlib.Path('done' + shard).write_text(gpus)
"""


@pytest.fixture
def command(tmp_path):
  program = tmp_path / 'program.py'
  program.write_text(PROGRAM)
  return base.UnitCommand(
    (sys.executable, str(program)), 3, tmp_path / 'logs', str(tmp_path)
  )


def ended(engine, count, seconds=60):
  """Polls until units have ended; returns why."""
  reasons, start = {}, time.monotonic()
  while len(reasons) < count:
    assert time.monotonic() < start + seconds, engine.status
    reasons |= engine.poll()
    time.sleep(0.05)
  return reasons


def wait_for(path):
  start = time.monotonic()
  while not path.exists() or not path.read_text():
    assert time.monotonic() < start + 30
    time.sleep(0.02)
  return path.read_text()


def is_alive(pid):
  try:
    os.kill(int(pid), 0)
  except ProcessLookupError:
    return False
  state = Path(f'/proc/{pid}/stat')
  return not state.exists() or state.read_text().split()[2] != 'Z'


def test_this_machine_runs_as_many_as_it_has_workers(command, tmp_path):
  engine = engines.make('local', command, tmp_path, base.Resources(), 2)
  engine.submit([0, 1, 2])
  assert engine.status == '2 run, 1 wait'
  assert ended(engine, 3) == dict.fromkeys(range(3), 'exit status 0')
  assert len(list(tmp_path.glob('done*'))) == 3
  assert command.log(2).read_text() == 'unit 2 \n'
  assert engine.close() == ''


def test_failures_are_named(command, tmp_path):
  (tmp_path / 'how').write_text('fail')
  engine = engines.make('local', command, tmp_path, base.Resources(), 1)
  engine.submit([1])
  assert ended(engine, 1) == {1: 'exit status 3'}
  (tmp_path / 'how').write_text('wait')
  engine.submit([1])
  (tmp_path / 'pid1').unlink()
  os.kill(int(wait_for(tmp_path / 'pid1')), signal.SIGKILL)
  assert ended(engine, 1) == {1: 'SIGKILL'}


def test_units_end_with_their_engine(command, tmp_path):
  (tmp_path / 'how').write_text('wait')
  engine = engines.make('local', command, tmp_path, base.Resources(), 1)
  engine.submit([0, 1])
  pid = wait_for(tmp_path / 'pid0')
  engine.close()
  assert not is_alive(pid)
  assert engine.poll() == {}


def test_set_up_runs_before_each_unit(command, tmp_path):
  setup = ('echo from set-up', 'export CUDA_VISIBLE_DEVICES=7')
  command = base.UnitCommand(
    command.arguments, 3, command.logs, command.cwd, setup
  )
  engine = engines.make('local', command, tmp_path, base.Resources(), 1)
  engine.submit([0])
  assert ended(engine, 1) == {0: 'exit status 0'}
  assert (tmp_path / 'done0').read_text() == '7'
  assert command.log(0).read_text() == 'from set-up\nunit 0 \n'
  broken = base.UnitCommand(
    command.arguments, 3, command.logs, command.cwd, ('false',)
  )
  engine = engines.make('local', broken, tmp_path, base.Resources(), 1)
  engine.submit([1])
  assert ended(engine, 1) == {1: 'exit status 1'}


def test_programs_of_the_set_up_are_not_ended(command, tmp_path):
  """Launchers are, once their parent is not the engine."""
  program = (
    'from collab_jax import _interrupts; import os, subprocess, sys, time;'
    ' _interrupts.watch_imports(); time.sleep(1.5); print("it went on",'
    ' _interrupts.PARENT in os.environ)'
  )
  command = base.UnitCommand(
    (sys.executable, '-c', program),
    1,
    command.logs,
    command.cwd,
    (f"{sys.executable} -c '{program}'",),
  )
  engine = engines.make('local', command, tmp_path, base.Resources(), 1)
  engine.submit([0])
  assert ended(engine, 1) == {0: 'exit status 0'}
  assert command.log(0).read_text() == 'it went on False\n' * 2


def test_each_process_has_devices_of_its_own(monkeypatch):
  def visible(variable, names):
    monkeypatch.setattr(local, 'visible_devices', lambda: (variable, names))

  gpus, tpus = 'CUDA_VISIBLE_DEVICES', 'TPU_VISIBLE_CHIPS'
  monkeypatch.delenv('XLA_PYTHON_CLIENT_PREALLOCATE', raising=False)
  visible(gpus, ['0', '1', 'GPU-x', '3', '4'])
  assert local.environments(0, 0) == [
    {gpus: n} for n in ('0', '1', 'GPU-x', '3', '4')
  ]
  assert local.environments(2, 0) == [{gpus: '0,1'}, {gpus: 'GPU-x,3'}]
  shared = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  assert local.environments(2, 3) == [
    {gpus: '0,1', **shared},
    {gpus: 'GPU-x,3', **shared},
    {gpus: '0,1', **shared},
  ]
  with pytest.raises(ValueError, match=r'engine.gpus: got 6, expected at mo'):
    local.environments(6, 0)
  visible(tpus, ['0', '1'])
  slots = local.environments(0, 0)
  assert [slot[tpus] for slot in slots] == ['0', '1']
  assert {slot['TPU_PROCESS_BOUNDS'] for slot in slots} == {'1,1,1'}
  visible('', [])
  assert local.environments(0, 0) == [{}]
  assert local.environments(0, 3) == [{}, {}, {}]
  assert engines.workers('local', base.Resources(), 3) == 3
  assert engines.workers('slurm', base.Resources()) == 0


def test_a_cpu_is_left_a_cpu(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert local.visible_devices() == ('', [])


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'cpus': -1}, 'engine.cpus: got -1, expected an integer of at least 0'),
    ({'minutes': 0}, 'engine.minutes: got 0'),
    ({'memory_gb': 'big'}, "engine.memory_gb: got 'big'"),
    ({'setup': 'module load'}, "engine.setup: got 'module load', expected a t"),
    ({'sbatch': ('=3',)}, "engine.sbatch: got '=3'"),
  ],
)
def test_bad_resources_are_refused(fields, said):
  with pytest.raises(ValueError, match=said):
    base.Resources(**fields)


def test_configs_have_every_resource():
  assert dict(common.engine()) == dataclasses.asdict(base.Resources())


def test_unknown_engines_are_refused(command, tmp_path):
  with pytest.raises(ValueError, match="engine: got 'pbs', expected one of"):
    engines.make('pbs', command, tmp_path, base.Resources())


@pytest.mark.parametrize(
  ('name', 'package'), [('slurm', 'submitit'), ('ray', 'ray')]
)
def test_a_missing_package_is_named(
  command, tmp_path, monkeypatch, name, package
):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=rf"pip install 'collab_jax\[{name}\]'"):
    engines.make(name, command, tmp_path, base.Resources())


def test_options_of_sbatch():
  resources = base.Resources(
    **{'cpus': 4, 'gpus': 1, 'memory_gb': 1.5, 'minutes': 90},
    **{'partition': 'gpu', 'sbatch': ('constraint=a100', 'nice')},
  )
  parameters = slurm.sbatch_parameters(resources, 'name', 8)
  assert parameters['additional_parameters'] == {
    'requeue': True,
    'constraint': 'a100',
    'nice': True,
  }
  assert (parameters['mem'], parameters['time']) == ('1536M', 90)
  assert parameters['array_parallelism'] == 8
  assert 'account' not in parameters
  if importlib.util.find_spec('submitit'):
    module = importlib.import_module('submitit.slurm.slurm')
    text = module._make_sbatch_string(
      'true', '/tmp', map_count=48, **parameters
    )
    for line in (
      *('--array=0-47%8', '--requeue', '--nice', '--gpus-per-node=1'),
      *('--constraint=a100', '--time=90', '--cpus-per-task=4', '--mem=1536M'),
    ):
      assert f'#SBATCH {line}\n' in text


@needs_submitit
def test_a_time_limit_queues_the_command_again(tmp_path):
  """Holds for submitit's own executor of this machine, without SLURM."""
  import submitit

  from collab_jax.engines import slurm_command

  script = 'echo x >>starts; test $(wc -l <starts) = 2 || exec sleep 600'
  command = slurm_command.RequeuedCommand(['sh', '-c', script], str(tmp_path))
  executor = submitit.LocalExecutor(tmp_path / 'jobs')
  # The warning comes after four seconds.
  executor.update_parameters(timeout_min=1, signal_delay_s=56)
  assert executor.submit(command).result() is None
  assert (tmp_path / 'starts').read_text() == 'x\nx\n'


@needs_submitit
def test_jobs_hold_no_code():
  import cloudpickle
  from submitit import helpers

  from collab_jax.engines import slurm_command

  command = slurm_command.RequeuedCommand(['sh', '-c', 'true'], '/')
  data = cloudpickle.dumps(helpers.DelayedSubmission(command))
  operations = [(op.name, arg) for op, arg, _ in pickletools.genops(data)]
  texts = {arg for name, arg in operations if 'UNICODE' in name}
  assert {'collab_jax.engines.slurm_command', 'RequeuedCommand'} <= texts
  assert not any('cloudpickle' in text for text in texts)  # Code by value.


@needs_submitit
def test_words_of_slurm_s_commands_are_told(command, tmp_path, monkeypatch):
  for name in ('sbatch', 'srun', 'squeue', 'scontrol'):
    fake = tmp_path / 'bin' / name
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(f'#!/bin/sh\necho "{name}: error: no answer" >&2\nexit 1\n')
    fake.chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  engine = engines.make('slurm', command, tmp_path / 'jobs', base.Resources())
  with pytest.raises(OSError, match=r"engine: got 'squeue: error: no answer'"):
    engine.attach()
  with pytest.raises(OSError, match=r"engine: got 'sbatch: error: no answer'"):
    engine.submit([0, 1])
  assert engine.close() == ''


@needs_slurm
@needs_submitit
def test_slurm_finds_jobs_of_a_killed_launcher(command, tmp_path):
  (tmp_path / 'how').write_text('wait')
  resources = base.Resources(cpus=1, memory_gb=0.1)
  first = engines.make('slurm', command, tmp_path / 'jobs', resources)
  first.submit([0, 2])
  pids = [wait_for(tmp_path / f'pid{unit}') for unit in (0, 2)]
  (tmp_path / 'how').write_text('')
  second = engines.make('slurm', command, tmp_path / 'jobs', resources)
  assert sorted(second.attach()) == [0, 2]
  assert 'jobs go on; scancel --name=collab-' in second.close()
  os.kill(int(pids[0]), signal.SIGKILL)
  second._jobs()
  name = next(iter(second._units))
  subprocess.run(['scancel', f'--name={name}'], check=True)
  assert set(ended(second, 2)) == {0, 2}
  assert second.close() == ''


@needs_ray
def test_ray_runs_commands(command, tmp_path, monkeypatch):
  monkeypatch.setenv('RAY_AUTH_MODE', 'disabled')
  monkeypatch.setenv('HF_TOKEN', 'a secret')
  from ray import cluster_utils

  cluster = cluster_utils.Cluster()
  try:
    for _ in range(2):
      cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    resources = base.Resources(address=cluster.address)
    engine = engines.make('ray', command, tmp_path, resources)
    engine.submit([0, 1, 2])
    assert engine.status == '2 nodes, 3 run or wait'
    assert ended(engine, 3) == dict.fromkeys(range(3), 'exit status 0')
    assert len(list(tmp_path.glob('done*'))) == 3
    (tmp_path / 'how').write_text('wait')
    (tmp_path / 'pid0').unlink()
    engine.submit([0])
    pid = wait_for(tmp_path / 'pid0')
    assert is_alive(pid)
    # The unit has it; `ps` does not show it.
    assert b'HF_TOKEN=a secret' in Path(f'/proc/{pid}/environ').read_bytes()
    commands = subprocess.run(
      ['ps', '-ww', '-eo', 'args'], capture_output=True, text=True, check=True
    )
    assert 'a secret' not in commands.stdout
    assert engine.close() == ''
    resources = base.Resources(address=cluster.address, gpus=1)
    engine = engines.make('ray', command, tmp_path, resources)
    engine.submit([1])
    assert engine.status == '2 nodes, 1 run or wait, no node has 1 GPU'
    engine.close()
  finally:
    cluster.shutdown()
