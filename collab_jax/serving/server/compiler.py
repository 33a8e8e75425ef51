"""Threads that make codecs ready, beside the one that writes captions."""

import asyncio
from collections.abc import Callable
import logging
import queue
import threading
from typing import Any

from collab_jax.serving.server import (
  compilations,
  metrics,
  request,
  request_queue,
)

_LOG = logging.getLogger(__name__)

# Two: the codec of one caller is compiled while another's takes half a minute.
_THREADS = 2


class CompileThreads:
  """Runs jobs that compile, some at a time, first come first served.

  JAX compiles outside its lock, so that captions are written meanwhile. The
  threads are daemons: a compilation cannot be stopped, and is left alone when
  the program ends.
  """

  def __init__(
    self, loop: asyncio.AbstractEventLoop, counters: metrics.Metrics
  ):
    """Starts the threads.

    Args:
      loop: Event loop in which the jobs are waited for.
      counters: Metrics of the server; all programs count as warm-up.
    """
    self._loop = loop
    self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    self._waiting: set[asyncio.Future] = set()
    self._closed = ''
    self._count = counters.count_compilation
    for i in range(_THREADS):
      threading.Thread(
        target=self._run, name=f'collab_jax-compile-{i}', daemon=True
      ).start()

  async def call(self, job: Callable[[], Any]) -> Any:
    """Runs a job; returns its result.

    Raises:
      ServerStoppedError: The server is being stopped.
    """
    if self._closed:
      raise request_queue.ServerStoppedError(self._closed)
    done = self._loop.create_future()
    self._waiting.add(done)
    done.add_done_callback(self._waiting.discard)
    self._jobs.put((job, done))
    return await done

  def stop(self, reason: str) -> None:
    """Ends the threads after their present jobs; nobody waits for those."""
    self._closed = reason
    stopped = request_queue.ServerStoppedError(reason)
    # A future leaves the set in a later turn of the loop than it ends in.
    for done in [future for future in self._waiting if not future.done()]:
      done.set_exception(stopped)
      done.exception()  # Marks it as retrieved.
    for _ in range(_THREADS):
      self._jobs.put(None)

  def _run(self) -> None:
    compilations.listen(self._count)
    while (item := self._jobs.get()) is not None:
      job, done = item
      if done.done():  # Nobody waits any more.
        continue
      with compilations.warming_up():
        try:
          result, error = job(), None
        except (Exception, SystemExit) as raised:
          result, error = None, raised
      try:
        self._loop.call_soon_threadsafe(request.settle, done, result, error)
      except RuntimeError:
        _LOG.debug('the event loop has ended')
        return
      del job, done, item, result, error  # Nothing is kept while idle.
