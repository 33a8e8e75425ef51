"""Bounded request queue, with jobs to run between decode steps.

A place is reserved before a message is unpacked (admission control): when all
are taken, the caller is refused at once and memory stays bounded. When nothing
else is to be done, the scheduler waits a few milliseconds for more requests.
"""

import collections
from collections.abc import Callable, Mapping
import threading
import time

from collab_jax.serving.server import places
from collab_jax.serving.server.request import RequestState

# Share of the decode slots that no caller takes alone.
_RESERVED = 1 / 8


class QueueFullError(Exception):
  """No place is free in the queue."""


class ServerStoppedError(Exception):
  """The server is being stopped, or has failed."""


class RequestQueue:
  """Queue for several threads: callers take turns, each served in order.

  Attributes:
    size: Number of places.
  """

  def __init__(self, size: int, fair: Callable[[], bool] = lambda: False):
    """Makes an empty queue.

    Args:
      size: Number of places.
      fair: Returns whether each caller has but a share of them; see
        `places.Places`.
    """
    self.size = size
    self._places = places.Places(size, fair)
    self._fair = fair
    self._waiting: list[RequestState] = []
    self._jobs: list[Callable[[], None]] = []
    self._closed = ''
    self._changed = threading.Condition()

  def __len__(self) -> int:
    """Number of places that are taken."""
    return self._places.taken

  def reserve(self, caller: str = '') -> None:
    """Takes a place, which `put` and `take`, or `release`, make free again.

    Args:
      caller: Name of the caller.

    Raises:
      QueueFullError: No place is free for the caller.
    """
    with self._changed:
      if self._places.take(caller):
        return
      taken = self._places.taken
      if taken >= self.size:
        raise QueueFullError(
          f'the queue is full: {self.size} requests wait; try again later'
        )
      raise QueueFullError(
        f'the share of this caller is full: {taken} of {self.size} requests'
        ' wait; try again later'
      )

  def release(self, caller: str = '') -> None:
    """Frees a reserved place for which nothing was put."""
    with self._changed:
      self._places.release(caller)

  def put(self, request: RequestState) -> None:
    """Puts a request into its reserved place.

    Raises:
      ServerStoppedError: The queue is closed; the place is free.
    """
    with self._changed:
      if self._closed:
        self._places.release(request.caller)
        raise ServerStoppedError(self._closed)
      self._waiting.append(request)
      self._changed.notify()

  def cancel(self, request: RequestState) -> None:
    """Cancels a request, waiting or being decoded."""
    with self._changed:
      request.cancelled = True
      if request in self._waiting:
        self._waiting.remove(request)
        self._places.release(request.caller)

  def add_job(self, job: Callable[[], None]) -> None:
    """Adds a job for the scheduler to run between two steps.

    Raises:
      ServerStoppedError: The queue is closed.
    """
    with self._changed:
      if self._closed:
        raise ServerStoppedError(self._closed)
      self._jobs.append(job)
      self._changed.notify()

  def close(self, reason: str) -> list[RequestState]:
    """Refuses all further requests; returns those that wait.

    Args:
      reason: Text for requests that come later; the first reason stays.
    """
    with self._changed:
      self._closed = self._closed or reason
      waiting, self._waiting, self._jobs = self._waiting, [], []
      for request in waiting:
        self._places.release(request.caller)
      self._changed.notify()
      return waiting

  def wait(self, seconds: float, count: int) -> bool:
    """Waits for requests or jobs; called by an idle scheduler.

    Args:
      seconds: Time to wait for more requests after the first one.
      count: Number of requests that end the wait at once.

    Returns:
      False once the queue is closed.
    """
    with self._changed:
      while not (self._waiting or self._jobs or self._closed):
        self._changed.wait()
      deadline = time.monotonic() + seconds
      while len(self._waiting) < count and not (self._jobs or self._closed):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
          break
        self._changed.wait(remaining)
      return not self._closed

  def next_job(self) -> Callable[[], None] | None:
    """Takes the next job; None if there is none."""
    with self._changed:
      return self._jobs.pop(0) if self._jobs else None

  def take(
    self,
    choose: Callable[[int], int],
    active: Mapping[str, int] | None = None,
    slots: int | None = None,
  ) -> list[RequestState]:
    """Takes the first requests of the callers that have the fewest active.

    Their places are free then. If places are shared fairly, so are slots: some
    are left to callers that come next.

    Args:
      choose: Function from the number of requests that may be taken to the
        number taken.
      active: Number of captions being decoded by caller.
      slots: Number of decode slots; None for no limit.
    """
    with self._changed:
      most = len(self._waiting) + sum((active or {}).values())
      if slots is not None and self._fair():
        most = slots - int(slots * _RESERVED)
      turns = _in_turns(self._waiting, active or {}, most)
      taken = turns[: choose(len(turns))] if turns else []
      self._waiting = [r for r in self._waiting if r not in taken]
      for request in taken:
        self._places.release(request.caller)
      return taken

  @property
  def closed(self) -> str:
    """Reason for which the queue was closed; '' while it is open."""
    return self._closed


def _in_turns(
  requests: list[RequestState], active: Mapping[str, int], most: int
) -> list[RequestState]:
  """Returns requests so that their callers take turns.

  Args:
    requests: The requests, each caller's in order.
    active: Number of captions that a caller has already.
    most: Number of captions of a caller; more of its requests are left out.
  """
  counts = collections.Counter(active)
  turns = []
  for request in requests:
    turns.append(counts[request.caller])
    counts[request.caller] += 1
  order = sorted(range(len(requests)), key=turns.__getitem__)
  return [requests[i] for i in order if turns[i] < most]
