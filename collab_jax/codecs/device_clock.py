"""Clock of a device: the seconds that it computes, stage by stage."""

from collections.abc import Callable
from concurrent import futures
import threading
import time
from typing import TypeVar

import jax

_T = TypeVar('_T')


class DeviceClock:
  """Times programs of a device, which runs them one after the other.

  A program's seconds begin where the one before it ended, or with its own
  dispatch if that was later, and end with its result. So no wait is counted
  twice, and the seconds of all programs are the time that the device computed.

  Attributes:
    busy: Seconds of all programs that have ended.
  """

  def __init__(self, thread: futures.Executor | None = None):
    """Starts at zero.

    Args:
      thread: Waits for results, in the order in which they are dispatched: an
        executor of one thread. None lets `dispatch` wait.
    """
    self.busy = 0.0
    self._thread = thread
    self._last = 0.0
    self._lock = threading.Lock()

  def dispatch(
    self, program: Callable[[], _T], compiles: bool = False
  ) -> tuple[_T, Callable[[], float]]:
    """Dispatches a program.

    Args:
      program: Calls jitted functions; returns a tree of arrays.
      compiles: Whether the call compiles, which is not timed: the program's
        seconds begin when it returns.

    Returns:
      What it returned, perhaps not computed yet, and a function that waits for
      it and returns its seconds.
    """
    start = time.perf_counter()
    result = program()
    if compiles:
      start = time.perf_counter()
    if self._thread is None:
      seconds = self._wait(result, start)
      return result, lambda: seconds
    return result, self._thread.submit(self._wait, result, start).result

  def _wait(self, result, start) -> float:
    jax.block_until_ready(result)
    end = time.perf_counter()
    with self._lock:
      seconds = end - max(start, self._last)
      self._last = end
      self.busy += seconds
    return seconds
