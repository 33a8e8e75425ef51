"""The one thread that uses JAX: runs the engine on the queued requests.

An error ends the requests that it concerns, never the thread.
"""

import asyncio
import collections
from collections.abc import Callable
import logging
import threading
import time
from typing import Any

from collab_jax.serving.engine import engine as engines
from collab_jax.serving.server import (
  compilations,
  metrics,
  request_queue,
)
from collab_jax.serving.server.request import RequestState, settle

_LOG = logging.getLogger(__name__)

# Texts of errors in answers; the log says more.
FAILED = 'the server failed to make this caption; its log says why'
_STOPPED = 'the server is being stopped'
_DEAD = 'the server has failed; its log says why'


class FailedError(Exception):
  """A request failed by the server's fault."""


class Scheduler:
  """Runs an engine on the requests of a queue, in a thread of its own.

  Attributes:
    queue: Requests, and jobs to run between decode steps.
    engine: The engine; nobody else may use it.
  """

  def __init__(
    self,
    engine: engines.Engine,
    queue: request_queue.RequestQueue,
    loop: asyncio.AbstractEventLoop,
    counters: metrics.Metrics,
    group_seconds: float,
    on_failure: Callable[[], None],
  ):
    """Binds an engine and a queue; `start` starts the thread.

    Args:
      engine: The engine.
      queue: The queue.
      loop: Event loop in which the requests are waited for.
      counters: Metrics of the server.
      group_seconds: Time to wait for more requests when the engine is idle.
      on_failure: Called in the loop if the thread ends without `stop`.
    """
    self.engine = engine
    self.queue = queue
    self._loop = loop
    self._metrics = counters
    self._group_seconds = group_seconds
    self._on_failure = on_failure
    self._active: dict[int, RequestState] = {}  # By decode slot.
    self._thread = threading.Thread(
      target=self._run, name='collab_jax-scheduler', daemon=True
    )

  def start(self) -> None:
    """Starts the thread."""
    self._thread.start()

  async def stop(self, seconds: float) -> bool:
    """Ends the thread; remaining requests end with an error.

    Args:
      seconds: Time to wait for the program that is running.

    Returns:
      Whether the thread has ended.
    """
    self._fail(
      self.queue.close(_STOPPED), request_queue.ServerStoppedError(_STOPPED)
    )
    deadline = time.monotonic() + seconds
    while self._thread.is_alive() and time.monotonic() < deadline:
      await asyncio.sleep(0.01)
    if not self._thread.is_alive():
      return True
    # The thread hangs, or compiles: its requests need not wait for it.
    self._fail(
      list(self._active.values()), request_queue.ServerStoppedError(_STOPPED)
    )
    return False

  async def call(self, job: Callable[[], Any]) -> Any:
    """Runs a job in the thread, between two steps; returns its result.

    Raises:
      ServerStoppedError: The server is being stopped, or has failed.
    """
    done = self._loop.create_future()

    def run():
      with compilations.warming_up():
        try:
          result, error = job(), None
        except Exception as raised:
          result, error = None, raised
      self._post_to_loop(settle, done, result, error)

    self.queue.add_job(run)
    while not done.done():
      # A queue that is closed drops its jobs.
      await asyncio.wait([done], timeout=0.2)
      if self.queue.closed and not done.done():
        raise request_queue.ServerStoppedError(self.queue.closed)
    return done.result()

  def _run(self) -> None:
    try:
      self._serve()
    except BaseException:
      # An error of the thread itself: nobody may wait for it any more.
      _LOG.critical(
        'the scheduler has ended; restart the server', exc_info=True
      )
      error = request_queue.ServerStoppedError(_DEAD)
      self._fail([*self.queue.close(_DEAD), *self._active.values()], error)
      self._post_to_loop(self._on_failure)

  def _serve(self) -> None:
    compilations.listen(self._metrics.count_compilation)
    while not self.queue.closed:
      if not self._active and not self.queue.wait(
        self._group_seconds, self.engine.batches[-1]
      ):
        break
      try:
        self._step()
      except Exception:
        _LOG.exception('a step failed; all captions being decoded are lost')
        self._drop_all()
    self._fail(
      list(self._active.values()), request_queue.ServerStoppedError(_STOPPED)
    )

  def _step(self) -> None:
    """Runs one round: a job, a prefill, and some decode steps for all."""
    # A job may need a slot; there will be one soon.
    if self.engine.room:
      job = self.queue.next_job()
      if job:
        job()
      self._prefill()
    for slot, request in list(self._active.items()):
      if request.cancelled:
        self.engine.release(slot)
        del self._active[slot]
    if self._active:
      start = time.perf_counter()
      outputs = self.engine.decode()
      self._metrics.observe_program('decode', time.perf_counter() - start)
      self._dispatch(outputs)
    self._metrics.set_active(len(self._active))

  def _prefill(self) -> None:
    """Takes waiting requests into free slots; ends them if that fails."""
    requests = self.queue.take(
      lambda waiting: self.engine.split(min(waiting, self.engine.room)),
      collections.Counter(r.caller for r in self._active.values()),
      self.engine.max_slots,
    )
    try:
      self._prefill_requests(requests)
    except BaseException as error:
      # Requests that have ended already are left as they are.
      is_fatal = not isinstance(error, Exception)
      self._fail(
        requests,
        request_queue.ServerStoppedError(_DEAD)
        if is_fatal
        else FailedError(FAILED),
      )
      raise

  def _prefill_requests(self, requests: list[RequestState]) -> None:
    if requests and self.engine.broken:
      self.engine.reset()
    now = time.perf_counter()
    requests = [request for request in requests if not request.cancelled]
    groups = {}  # Messages of one codec and as many layers decode together.
    prefills = []
    for request in requests:
      request.milliseconds['queue'] = 1000 * (now - request.stage_start)
      if request.picture is not None and request.picture.prefix is not None:
        prefills.append(_begin(request, request.picture.prefix))
        continue
      key = request.decoder, request.decoder.layers(request.message)
      groups.setdefault(key, []).append(request)
    prefills += [p for group in groups.values() for p in self._rebuild(group)]
    if not prefills:
      return
    start = time.perf_counter()
    requests = [request for request, _ in prefills]
    try:
      outputs = self.engine.prefill([prefill for _, prefill in prefills])
    except Exception:
      _LOG.exception('%d captions could not be begun', len(requests))
      self._fail(requests, FailedError(FAILED))
      if self.engine.broken:
        self._drop_all()
      return
    end = time.perf_counter()
    for request, output in zip(requests, outputs, strict=True):
      request.milliseconds['prefill'] = 1000 * (end - start)
      request.milliseconds['first_token'] = 1000 * (end - request.arrived)
      request.batch, request.stage_start = len(requests), end
      self._active[output.slot] = request
    self._metrics.observe_batch(len(requests))
    self._metrics.observe_program('prefill', end - start)
    self._dispatch(outputs)

  def _rebuild(
    self, requests: list[RequestState]
  ) -> list[tuple[RequestState, engines.PrefillRequest]]:
    """Decodes messages of one codec; ends the requests for which that fails."""
    decoder, prefills = requests[0].decoder, []
    while requests:
      count = self.engine.split(len(requests))
      count = decoder.max_batch(requests[0].message, count)
      batch, requests = requests[:count], requests[count:]
      size = next(b for b in self.engine.batches if b >= count)
      start = time.perf_counter()
      try:
        prefixes = decoder.rebuild([r.message for r in batch], size)
      except KeyboardInterrupt:
        raise
      except BaseException:  # SystemExit of a user's codec, too.
        _LOG.exception('%d messages could not be rebuilt', len(batch))
        self._fail(batch, FailedError(FAILED))
        continue
      spent = 1000 * (time.perf_counter() - start)
      for request, prefix in zip(batch, prefixes, strict=True):
        request.milliseconds['rebuild'] = spent
        if request.picture is not None:
          # A copy: the array is the whole batch's.
          kept = prefix._replace(x=prefix.x.copy())
          self._post_to_loop(request.picture.add_prefix, kept)
        prefills.append(_begin(request, prefix))
    return prefills

  def _dispatch(self, outputs: list[engines.StepOutput]) -> None:
    """Hands new tokens to their requests; frees the slots that have ended."""
    now = time.perf_counter()
    updates = []
    for output in outputs:
      request = self._active[output.slot]
      if output.ended:
        request.milliseconds['decode'] = 1000 * (now - request.stage_start)
      updates.append((request, output.tokens, output.bits, output.ended, None))
    self._post_to_loop(_update_all, updates)
    for output in outputs:
      if output.ended:
        del self._active[output.slot]

  def _drop_all(self) -> None:
    """Ends all captions being decoded with an error."""
    self._fail(list(self._active.values()), FailedError(FAILED))
    self._active.clear()
    self.engine.drop_all()

  def _fail(self, requests: list[RequestState], error: Exception) -> None:
    updates = [(request, [], [], True, error) for request in requests]
    self._post_to_loop(_update_all, updates)

  def _post_to_loop(self, function, *args) -> None:
    try:
      self._loop.call_soon_threadsafe(function, *args)
    except RuntimeError:  # The loop is closed: nobody waits any more.
      _LOG.debug('the event loop has ended')


def _begin(
  request: RequestState, prefix: engines.HostPrefix
) -> tuple[RequestState, engines.PrefillRequest]:
  """Returns a request with what the engine needs of it."""
  request.message = request.decoder = request.picture = None
  return request, engines.PrefillRequest(
    prefix, request.prompt, request.max_tokens
  )


def _update_all(updates) -> None:
  for request, *update in updates:
    request.update(*update)
