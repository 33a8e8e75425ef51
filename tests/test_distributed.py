"""Processes that run one model together, on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import hosts
from collab_jax import distributed, sharding

TALK = """
import os, sys, time
from collab_jax import distributed

place, fault = sys.argv[1:]
with distributed.together(place, {'mesh': fault == 'differs' and place[-3]}):
  i = distributed.index()
  assert distributed.gather([i, 'x' * 2_000_000])[1][0] == 1
  assert distributed.broadcast({'from': i} if i == 0 else 5) == {'from': 0}
  assert distributed.collect([(i, i)]) == ([[0, 0], [1, 1]] if i == 0 else [])
  print(f'printed by {i}', flush=True)
  if fault == 'error' and i == 1:
    raise ValueError('the disk is full')
  if fault == 'exit' and i == 0:
    raise SystemExit('error: field: got 1, expected 2')
  if fault:
    print(f'ready {i}', file=sys.stderr, flush=True)
    distributed.get('never')
"""


def start(fault):
  """Starts two processes, which exchange words and then meet a fault."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  return [
    subprocess.Popen(
      [sys.executable, '-c', TALK, f'127.0.0.1:{port},{i}/2', fault],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]


def ends(started, seconds=120):
  """Waits for processes; returns status, output and errors of each."""
  try:
    outputs = [process.communicate(timeout=seconds) for process in started]
  finally:
    for process in started:
      process.kill()
  return [
    (process.returncode, *output)
    for process, output in zip(started, outputs, strict=True)
  ]


def test_words_are_exchanged_and_the_first_prints():
  (code, output, _), (other, silent, _) = ends(start(''))
  assert (code, output) == (0, 'printed by 0\n')
  assert (other, silent) == (0, '')


@pytest.mark.parametrize(
  ('fault', 'process', 'words'),
  [
    ('error', 1, 'ValueError: the disk is full'),
    ('exit', 0, 'error: field: got 1, expected 2'),
    ('differs', 1, "mesh: got '1' in process 1, expected '0' as in process 0"),
  ],
)
def test_an_error_in_one_ends_the_others_with_its_words(fault, process, words):
  results = ends(start(fault))
  assert [code for code, _, _ in results] == [1, 1]
  assert words in results[process][2]
  assert f'process {process} of 2: ' in results[1 - process][2]
  assert words in results[1 - process][2]


@pytest.mark.skipif(os.name != 'posix', reason='signals')
@pytest.mark.parametrize('signum', ['SIGKILL', 'SIGTERM'])
def test_all_end_when_the_first_is_killed(signum):
  started = start('wait')
  assert started[0].stderr is not None
  started[0].stderr.readline()
  begin = time.monotonic()
  started[0].send_signal(signal.Signals[signum])
  _, (code, _, errors) = ends(started)
  assert code != 0
  assert time.monotonic() - begin < distributed.HEARTBEAT_SECONDS
  assert 'process 0' in errors or 'coordination service' in errors.lower()


@pytest.mark.parametrize(
  'text', ['host', 'host:1', 'host:1,2/2', 'host:1,-1/2', ':,0/1', 'slurm']
)
def test_other_places_are_refused(text):
  with pytest.raises(ValueError, match=r'distributed: got .* expected .auto'):
    distributed.parse(text)


def test_places():
  assert distributed.parse('10.0.0.1:1234,1/4') == ('10.0.0.1:1234', 1, 4)
  assert distributed.parse('auto') is None


def test_a_process_by_itself_owns_and_reads_everything():
  assert (distributed.number(), distributed.index()) == (1, 0)
  assert distributed.gather(3) == [3]
  assert distributed.collect([1]) == [1]
  assert distributed.broadcast({'a': 1}) == {'a': 1}
  np.testing.assert_array_equal(sharding.process_rows(None, 4), np.arange(4))
  assert sharding.owned_rows(None, 4).all()


# Process 1 cannot read its part of the newest checkpoint, process 0 can.
RESTORE = """
import pathlib, sys
import flax, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import orbax.checkpoint as ocp
from collab_jax import distributed, sharding
from collab_jax.training import train_loop

@flax.struct.dataclass
class State:
  step: jax.Array
  x: jax.Array

place, folder = sys.argv[1:]
with distributed.together(place):
  workdir = pathlib.Path(folder)
  mesh = sharding.make_mesh(data=1, model=2)
  spread = NamedSharding(mesh, PartitionSpec('model'))

  def state(step):
    x = np.random.default_rng(step).random((2, 50_000))
    return State(
      sharding.replicate(np.int32(step), mesh),
      jax.make_array_from_callback(x.shape, spread, lambda i: x[i]),
    )

  with train_loop._manager(workdir / 'checkpoints') as manager:
    for step in (2, 4):
      manager.save(step, args=ocp.args.StandardSave(state(step)))
  if distributed.is_first():
    parts = (workdir / 'checkpoints/4').glob('default/ocdbt.process_1/d/*')
    largest = max(parts, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:10_000])
  distributed.wait()
  with train_loop._manager(workdir / 'checkpoints') as manager:
    print(int(train_loop._restore(manager, workdir, state(0)).step))
"""


def test_a_checkpoint_that_one_cannot_read_is_taken_by_none(tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  one_device = {'XLA_FLAGS': '--xla_force_host_platform_device_count=1'}
  started = [
    subprocess.Popen(
      [sys.executable, '-c', RESTORE, f'127.0.0.1:{port},{i}/2', tmp_path],
      env={**os.environ, **one_device},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  (code, output, _), (other, _, _) = ends(started)
  assert (code, other) == (0, 0)
  assert output.splitlines()[-1] == '2'
  assert (tmp_path / 'damaged_checkpoint_4').is_dir()


def test_records_and_losses_of_two_processes_are_those_of_one(tmp_path):
  options = '--images=6', '--steps=2', '--model=2'
  one = hosts.run_group(1, 2, tmp_path / '1', options)
  two = hosts.run_group(2, 2, tmp_path / '2', (*options, '--resume'))
  assert len(one.records) == 6 * (2 + 1 + 2 + 2 + 3)
  assert len(two.records) == len(one.records)
  # Those that were made again stand at the end.
  assert all(record in one.records for record in two.records)
  # The parameters' parts are summed in another order.
  assert hosts.largest_difference(one.losses, two.losses) < 1e-3
  # The two processes share the arrays that are split between them.
  assert max(two.read) < 0.7 * one.read[0]


def test_answers_of_two_processes_are_those_of_one(tmp_path):
  """Each process asks about its pictures, one of them more than the other."""
  options = '--images=5', '--steps=2', '--asks'
  one = hosts.run_group(1, 2, tmp_path / '1', options)
  two = hosts.run_group(2, 2, tmp_path / '2', (*options, '--resume'))
  asked = {(r['image_id'], r['question']) for r in one.records}
  assert len({image for image, _ in asked}) == 5 < len(asked)
  assert len(one.records) == len(asked) * (2 + 1 + 2 + 2 + 3)
  assert len(two.records) == len(one.records)
  assert all(record in one.records for record in two.records)
  assert hosts.largest_difference(one.losses, two.losses) < 1e-3
