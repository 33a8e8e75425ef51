"""Bounded request queue, with jobs to run between decode steps.

A place is reserved before a message is unpacked (admission control): when all
are taken, the caller is refused at once and memory stays bounded. When nothing
else is to be done, the scheduler waits a few milliseconds for more requests.
"""

from collections.abc import Callable
import threading
import time

from collab_jax.serving.server.request import RequestState


class QueueFullError(Exception):
  """No place is free in the queue."""


class ServerStoppedError(Exception):
  """The server is being stopped, or has failed."""


class RequestQueue:
  """First-come-first-served queue for several threads.

  Attributes:
    size: Number of places.
  """

  def __init__(self, size: int):
    """Makes an empty queue.

    Args:
      size: Number of places.
    """
    self.size = size
    self._reserved = 0
    self._waiting: list[RequestState] = []
    self._jobs: list[Callable[[], None]] = []
    self._closed = ''
    self._changed = threading.Condition()

  def __len__(self) -> int:
    """Number of places that are taken."""
    return self._reserved

  def reserve(self) -> None:
    """Takes a place, which `put` and `take`, or `release`, make free again.

    Raises:
      QueueFullError: No place is free.
    """
    with self._changed:
      if self._reserved >= self.size:
        raise QueueFullError(
          f'the queue is full: {self.size} requests wait; try again later'
        )
      self._reserved += 1

  def release(self) -> None:
    """Frees a reserved place for which nothing was put."""
    with self._changed:
      self._reserved -= 1

  def put(self, request: RequestState) -> None:
    """Puts a request into its reserved place.

    Raises:
      ServerStoppedError: The queue is closed; the place is free.
    """
    with self._changed:
      if self._closed:
        self._reserved -= 1
        raise ServerStoppedError(self._closed)
      self._waiting.append(request)
      self._changed.notify()

  def cancel(self, request: RequestState) -> None:
    """Cancels a request, waiting or being decoded."""
    with self._changed:
      request.cancelled = True
      if request in self._waiting:
        self._waiting.remove(request)
        self._reserved -= 1

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
      self._reserved -= len(waiting)
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

  def take(self, choose: Callable[[int], int]) -> list[RequestState]:
    """Takes the requests that came first, and frees their places.

    Args:
      choose: Function from the number of waiting requests to the number taken.
    """
    with self._changed:
      count = choose(len(self._waiting)) if self._waiting else 0
      taken, self._waiting = self._waiting[:count], self._waiting[count:]
      self._reserved -= len(taken)
      return taken

  @property
  def closed(self) -> str:
    """Reason for which the queue was closed; '' while it is open."""
    return self._closed
