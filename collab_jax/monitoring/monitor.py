"""`Monitor`: writers and trace of a run, open while the run is in a `with`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import threading
from typing import Any, Self, TypeVar

from collab_jax.monitoring import trace as trace_lib
from collab_jax.monitoring import writers

_T = TypeVar('_T')

_lock = threading.Lock()
_open: list['Monitor'] = []


class Monitor:
  """Writers of losses and scores, and a trace of some steps.

    with monitoring.Monitor(['tensorboard'], 'runs/tuned', profile='trace'):
      finetune.finetune(config, model, 'runs/tuned')

  While it is open, whatever trains or evaluates in the process writes to it.
  """

  def __init__(
    self,
    log: Sequence[str],
    workdir: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    profile: str | os.PathLike[str] | None = None,
  ):
    """Checks names and packages; nothing is written yet.

    Args:
      log: Names of writers, 'tensorboard' and 'wandb'.
      workdir: Folder of the run; gets tensorboard/, and wandb/ with
        wandb_run.json.
      settings: The run's config as plain values, kept beside the numbers.
      profile: Folder of the trace; None for no trace.

    Raises:
      ValueError: An unknown name.
      ModuleNotFoundError: The extra `logging` is not installed.
    """
    self._makers = [writers.find(name) for name in log]
    self._workdir, self._settings = Path(workdir), settings or {}
    self._writers: list[writers.MetricWriter] = []
    self._group = ''
    self._trace = None if profile is None else trace_lib.Trace(profile)

  def __enter__(self) -> Self:
    """Opens the writers; raises ValueError where another monitor is open."""
    with _lock:
      if _open:
        raise ValueError(
          'monitor: got a second one, expected one at a time; leave the first'
          ' `with` before'
        )
      _open.append(self)
    try:
      for make in self._makers:
        self._writers.append(make(self._workdir, self._settings))
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *exception: object) -> None:
    """Ends the trace and closes the writers."""
    with _lock:
      _open.clear()
    if self._trace is not None:
      self._trace.close()
    while self._writers:
      self._writers.pop().close()

  def write(
    self, step: int, values: Mapping[str, Any], axis: str = 'step'
  ) -> None:
    """Writes the numbers among some values; see the function `write`."""
    numbers = {
      name: float(value)
      for name, value in values.items()
      if isinstance(value, int | float)
    }
    for writer in self._writers:
      writer.write(step, numbers, axis, self._group)

  @contextlib.contextmanager
  def group(self, name: str) -> Iterator[None]:
    """Keeps what is written apart; see the function `group`."""
    before, self._group = self._group, name
    try:
      yield
    finally:
      self._group = before

  def run_step(
    self, step: int, left: int, fn: Callable[..., _T], *args: Any
  ) -> _T:
    """Calls a step, and traces it if it is among the traced ones."""
    if self._trace is None:
      return fn(*args)
    return self._trace.run_step(step, left, fn, *args)


def write(step: int, values: Mapping[str, Any], axis: str = 'step') -> None:
  """Writes numbers to the open monitor, if any.

  Args:
    step: Steps done, or another place on the axis.
    values: Numbers by name; what is no number is left out.
    axis: Name of the axis.
  """
  for monitor in _open[:1]:
    monitor.write(step, values, axis)


@contextlib.contextmanager
def group(name: str) -> Iterator[None]:
  """Keeps what is written apart from the rest, as one of a run's models.

  Args:
    name: Name of the group, a part of a path.
  """
  with contextlib.ExitStack() as stack:
    for monitor in _open[:1]:
      stack.enter_context(monitor.group(name))
    yield


def run_step(step: int, left: int, fn: Callable[..., _T], *args: Any) -> _T:
  """Calls a step of a loop; the open monitor, if any, may trace it.

  Args:
    step: Number of the step.
    left: Steps from this one on.
    fn: The step.
    *args: Its arguments.

  Returns:
    What the step returns.
  """
  for monitor in _open[:1]:
    return monitor.run_step(step, left, fn, *args)
  return fn(*args)


def run_steps(results: Iterator[_T], count: int) -> Iterator[_T]:
  """Yields results, each of which takes a step to make; see `run_step`.

  Args:
    results: Makes them when it is asked for the next.
    count: Their number, or more.
  """
  nothing: Any = object()
  step = 0
  while True:
    left = max(1, count - step)
    result: Any = run_step(step, left, next, results, nothing)
    if result is nothing:
      return
    yield result
    step += 1
