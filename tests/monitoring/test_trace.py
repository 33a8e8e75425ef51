"""Traces of some steps."""

import jax
from jax import numpy as jnp
import pytest

from collab_jax import monitoring
from collab_jax.monitoring import trace


@pytest.fixture
def calls(monkeypatch):
  """Begins and ends of traces, in the place of the profiler's own."""
  made = []
  monkeypatch.setattr(jax.profiler, 'start_trace', made.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: made.append('end'))
  return made


def _run(count, calls, first=0):
  for step in range(first, first + count):
    monitoring.run_step(step, first + count - step, calls.append, step)


@pytest.mark.parametrize(
  ('count', 'first', 'traced'),
  [(100, 0, range(10, 15)), (50, 200, range(210, 215)), (6, 0, range(3, 6))],
)
def test_some_steps_after_the_first_are_traced(
  tmp_path, calls, capsys, count, first, traced
):
  folder = str(tmp_path / 'trace')
  with monitoring.Monitor([], tmp_path, profile=folder):
    _run(count, calls, first)
    _run(3, calls, 1000)  # Another loop is not traced.
  assert calls.count('end') == calls.count(folder) == 1
  inside = calls[calls.index(folder) + 1 : calls.index('end')]
  assert inside == [*traced]
  said = capsys.readouterr().out
  assert f'steps {traced[0] + 1} to {traced[-1] + 1} are in {folder}' in said
  assert 'xprof --logdir=' in said


def _stopped(tmp_path, calls):
  with monitoring.Monitor([], tmp_path, profile=tmp_path):
    for step in range(12):
      monitoring.run_step(step, 100 - step, calls.append, step)
    raise KeyError


def test_a_run_that_ends_early_ends_its_trace(tmp_path, calls, capsys):
  with pytest.raises(KeyError):
    _stopped(tmp_path, calls)
  assert calls[-1] == 'end'
  with monitoring.Monitor([], tmp_path, profile=tmp_path):
    pass
  assert 'no step was taken' in capsys.readouterr().out


def test_results_in_steps_are_all_there(tmp_path, calls):
  results = monitoring.run_steps(iter(range(30)), 20)
  with monitoring.Monitor([], tmp_path, profile=tmp_path):
    assert [*results] == [*range(30)]
  assert calls == [str(tmp_path), 'end']


def test_xprof_has_its_files(tmp_path):
  square = jax.jit(jnp.square)
  with monitoring.Monitor([], tmp_path, profile=tmp_path / 'trace'):
    for step in range(trace.SKIPPED + trace.TRACED):
      monitoring.run_step(step, 30 - step, square, jnp.ones(8))
  files = [*(tmp_path / 'trace/plugins/profile').glob('*/*.xplane.pb')]
  assert len(files) == 1
  assert b'step' in files[0].read_bytes()
