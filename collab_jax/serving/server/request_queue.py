"""The queue: places first, then requests, and jobs between them.

A place is taken before anything is unpacked, so that whoever finds none is told
at once, and memory is bounded. Whoever takes requests out of the queue waits a
few milliseconds for others to come, if nothing else is to be done.
"""

from collections.abc import Callable
import threading
import time

from collab_jax.serving.server.request import RequestState


class QueueFullError(Exception):
  """There is no place."""


class ServerStoppedError(Exception):
  """The server is being stopped, or has failed."""


class RequestQueue:
  """First come, first served, for several threads.

  Attributes:
    size: How many places there are.
  """

  def __init__(self, size: int):
    """Makes an empty queue.

    Args:
      size: Number of places.
    """
    self.size = size
    self._taken = 0
    self._waiting: list[RequestState] = []
    self._jobs: list[Callable[[], None]] = []
    self._closed = ''
    self._changed = threading.Condition()

  def __len__(self) -> int:
    """How many places are taken."""
    return self._taken

  def reserve(self) -> None:
    """Takes a place, which `put` and `take`, or `leave`, make free again.

    Raises:
      QueueFullError: There is none.
    """
    with self._changed:
      if self._taken >= self.size:
        raise QueueFullError(
          f'the queue is full: {self.size} requests wait; try again later'
        )
      self._taken += 1

  def leave(self) -> None:
    """Gives up a place for which nothing was put."""
    with self._changed:
      self._taken -= 1

  def put(self, ticket: RequestState) -> None:
    """Puts a request into the place that was taken for it.

    Raises:
      GoneError: The queue is closed; the place is free.
    """
    with self._changed:
      if self._closed:
        self._taken -= 1
        raise ServerStoppedError(self._closed)
      self._waiting.append(ticket)
      self._changed.notify()

  def cancel(self, ticket: RequestState) -> None:
    """Gives a request up, wherever it is."""
    with self._changed:
      ticket.cancelled = True
      if ticket in self._waiting:
        self._waiting.remove(ticket)
        self._taken -= 1

  def call(self, job: Callable[[], None]) -> None:
    """Has the worker run something between two steps.

    Raises:
      GoneError: The queue is closed.
    """
    with self._changed:
      if self._closed:
        raise ServerStoppedError(self._closed)
      self._jobs.append(job)
      self._changed.notify()

  def close(self, why: str) -> list[RequestState]:
    """Lets nobody in any more; returns those who wait.

    Args:
      why: What others are told from now on; the first one said stays.
    """
    with self._changed:
      self._closed = self._closed or why
      rest, self._waiting, self._jobs = self._waiting, [], []
      self._taken -= len(rest)
      self._changed.notify()
      return rest

  def wait(self, seconds: float, count: int) -> bool:
    """Waits for something to do; the worker calls it when it has nothing.

    Args:
      seconds: How long to wait for more requests once there is one.
      count: Of how many requests there is no need to wait for more.

    Returns:
      False once the queue is closed.
    """
    with self._changed:
      while not (self._waiting or self._jobs or self._closed):
        self._changed.wait()
      until = time.monotonic() + seconds
      while len(self._waiting) < count and not (self._jobs or self._closed):
        left = until - time.monotonic()
        if left <= 0:
          break
        self._changed.wait(left)
      return not self._closed

  def job(self) -> Callable[[], None] | None:
    """Takes the next job, if there is any."""
    with self._changed:
      return self._jobs.pop(0) if self._jobs else None

  def take(self, choose: Callable[[int], int]) -> list[RequestState]:
    """Takes the requests that came first, and frees their places.

    Args:
      choose: Of how many there are, to how many to take.
    """
    with self._changed:
      count = choose(len(self._waiting)) if self._waiting else 0
      taken, self._waiting = self._waiting[:count], self._waiting[count:]
      self._taken -= len(taken)
      return taken

  @property
  def closed(self) -> str:
    """Why it was closed; '' if it is not."""
    return self._closed
