"""`Trace`: a profile of some steps of a loop, for xprof."""

from collections.abc import Callable
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import tqdm

_T = TypeVar('_T')

# Steps before the traced ones: the first compile their programs.
SKIPPED = 10
TRACED = 5


class Trace:
  """Trace of `TRACED` steps, after half of the steps or `SKIPPED` of them.

  trace = Trace('runs/trace')
  for step in range(100):
    state = trace.run_step(step, 100 - step, step_fn, state)
  trace.close()
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Binds a folder; nothing is written yet.

    Args:
      folder: Gets plugins/profile/TIME/, as xprof and TensorBoard read it.
    """
    self._folder = Path(folder)
    self._steps: range | None = None
    self._done = self._begun = False

  def run_step(
    self, step: int, left: int, fn: Callable[..., _T], *args: Any
  ) -> _T:
    """Calls a step, and traces it if it is among the traced ones.

    Args:
      step: Number of the step.
      left: Steps from this one on.
      fn: The step; the device is waited for after the last traced one.
      *args: Its arguments.

    Returns:
      What the step returns.
    """
    if self._done:
      return fn(*args)
    if self._steps is None:
      first = step + min(SKIPPED, left // 2)
      self._steps = range(first, min(first + TRACED, step + left))
    if step == self._steps.start:
      self._folder.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(str(self._folder))
      self._begun = True
    with jax.profiler.StepTraceAnnotation('step', step_num=step):
      result = fn(*args)
    if step == self._steps[-1]:
      jax.block_until_ready(result)
      self.close()
    return result

  def close(self) -> None:
    """Ends the trace and prints which steps are in it."""
    if self._done:
      return
    self._done = True
    if not self._begun or self._steps is None:
      tqdm.tqdm.write('profile: no step was taken that could be traced')
      return
    jax.profiler.stop_trace()
    first, last = self._steps.start + 1, self._steps[-1] + 1
    tqdm.tqdm.write(
      f'profile: steps {first} to {last} are in {self._folder}; to see them:'
      f' pip install xprof && xprof --logdir={self._folder}'
    )
