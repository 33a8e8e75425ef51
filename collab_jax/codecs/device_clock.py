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
  dispatch if that was later, and end with its result. A CPU runs some beside
  them, on the same cores: while n programs run, a second counts as 1 / n for
  each. So no time is counted twice, and the seconds of all programs are the
  time that the device computed.
  """

  def __init__(self, thread: futures.Executor | None = None):
    """Starts at zero.

    Args:
      thread: Waits for results, in the order in which they are dispatched: an
        executor of one thread. None lets `dispatch` wait.
    """
    self._thread = thread
    self._lock = threading.Lock()
    self._at = time.perf_counter()  # When the numbers below were taken.
    self._busy = 0.0
    self._share = 0.0  # What a program that ran all the time would have.
    self._running = 0
    self._queued = 0  # Programs that run one after the other, in all.
    self._before = 0.0  # Share at which the last of those ended.

  @property
  def busy(self) -> float:
    """Seconds in which at least one program ran."""
    with self._lock:
      self._advance()
      return self._busy

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
    if compiles:
      result = program()
      start = self._begin()
    else:
      start = self._begin()
      try:
        result = program()
      except BaseException:
        self._end(start)
        raise
    if self._thread is None:
      seconds = self._wait(result, start)
      return result, lambda: seconds
    return result, self._thread.submit(self._wait, result, start).result

  def dispatch_beside(
    self, program: Callable[[], _T]
  ) -> tuple[_T, Callable[[], float]]:
    """Runs a program beside those of other threads, and waits for it.

    Args:
      program: As of `dispatch`.

    Returns:
      What it returned, computed, and a function that returns its seconds.
    """
    with self._lock:
      start = self._advance()
      self._running += 1
    try:
      result = jax.block_until_ready(program())
    finally:
      with self._lock:
        seconds = self._advance() - start
        self._running -= 1
    return result, lambda: seconds

  def _advance(self) -> float:
    """Counts the time since the last call; returns the share of a program."""
    now = time.perf_counter()
    if self._running:
      self._busy += now - self._at
      self._share += (now - self._at) / self._running
    self._at = now
    return self._share

  def _begin(self) -> float:
    """Queues a program behind those dispatched before."""
    with self._lock:
      start = self._advance()
      self._running += not self._queued
      self._queued += 1
    return start

  def _wait(self, result, start: float) -> float:
    try:
      jax.block_until_ready(result)
    finally:
      seconds = self._end(start)
    return seconds

  def _end(self, start: float) -> float:
    with self._lock:
      end = self._advance()
      seconds = end - max(start, self._before)
      self._before = end
      self._queued -= 1
      self._running -= not self._queued
    return seconds
