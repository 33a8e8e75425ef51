"""The one thread that uses JAX: it begins captions and goes on with them.

Whatever goes wrong ends the requests that it concerns, never the thread.
"""

import asyncio
from collections.abc import Callable
import logging
import threading
import time
from typing import Any

from collab_jax.serving.engine import engine
from collab_jax.serving.server import (
  compilations,
  metrics,
  request_queue,
)
from collab_jax.serving.server.request import RequestState

_LOG = logging.getLogger(__name__)

# What a request's error is told; the log says more.
_FAILED = 'the server failed to make this caption; its log says why'

_STOPPED = 'the server is being stopped'
_DEAD = 'the server has failed; its log says why'


class FailedError(Exception):
  """The server is to blame."""


class Scheduler:
  """Runs an engine on what a queue holds.

  Attributes:
    queue: Requests, and jobs to run between the steps.
    engine: What makes captions; nobody else may use it.
  """

  def __init__(
    self,
    made: engine.Engine,
    queue: request_queue.RequestQueue,
    loop: asyncio.AbstractEventLoop,
    counts: metrics.Metrics,
    wait: float,
    died: Callable[[], None],
  ):
    """Binds what it works with; `start` starts the thread.

    Args:
      made: The engine.
      queue: The queue.
      loop: Where the requests are waited for.
      counts: What is counted.
      wait: Seconds to wait for further requests when there is nothing to do.
      died: Called in the loop if the thread ends without `stop`.
    """
    self.engine = made
    self.queue = queue
    self._loop = loop
    self._metrics = counts
    self._wait = wait
    self._died = died
    self._rows: dict[int, RequestState] = {}
    self._thread = threading.Thread(
      target=self._run, name='collab_jax-worker', daemon=True
    )

  def start(self) -> None:
    """Starts the thread."""
    self._thread.start()

  async def stop(self, seconds: float) -> bool:
    """Ends the thread; requests that are left are told so.

    Args:
      seconds: How long to wait for what it is doing.

    Returns:
      Whether it has ended.
    """
    self._fail(
      self.queue.close(_STOPPED), request_queue.ServerStoppedError(_STOPPED)
    )
    until = time.monotonic() + seconds
    while self._thread.is_alive() and time.monotonic() < until:
      await asyncio.sleep(0.01)
    if not self._thread.is_alive():
      return True
    # It hangs, or compiles: those in it need not.
    self._fail(
      list(self._rows.values()), request_queue.ServerStoppedError(_STOPPED)
    )
    return False

  async def call(self, job: Callable[[], Any]) -> Any:
    """Runs a job in the thread, between two steps; returns what it returns.

    Raises:
      GoneError: The server is being stopped, or has failed.
    """
    done = self._loop.create_future()

    def run():
      with compilations.warming():
        try:
          outcome, error = job(), None
        except Exception as raised:
          outcome, error = None, raised
      self._tell(_settle, done, outcome, error)

    self.queue.call(run)
    while not done.done():
      # A queue that is closed forgets its jobs.
      await asyncio.wait([done], timeout=0.2)
      if self.queue.closed and not done.done():
        raise request_queue.ServerStoppedError(self.queue.closed)
    return done.result()

  def _run(self) -> None:
    try:
      self._serve()
    except BaseException:
      # Not of a request, but of the thread itself: nobody may wait for it.
      _LOG.critical(
        'the worker has ended; start the server anew', exc_info=True
      )
      gone = request_queue.ServerStoppedError(_DEAD)
      self._fail([*self.queue.close(_DEAD), *self._rows.values()], gone)
      self._tell(self._died)

  def _serve(self) -> None:
    compilations.listen(self._metrics.compiled)
    while not self.queue.closed:
      if not self._rows and not self.queue.wait(
        self._wait, self.engine.batches[-1]
      ):
        break
      try:
        self._turn()
      except Exception:
        _LOG.exception('the worker failed; all captions in the making are lost')
        self._lose()
    self._fail(
      list(self._rows.values()), request_queue.ServerStoppedError(_STOPPED)
    )

  def _turn(self) -> None:
    """One round: a job, captions begun, and all gone on with by some steps."""
    # A job may need a row; there will be one soon.
    if self.engine.free:
      job = self.queue.job()
      if job:
        job()
      self._begin()
    for row, ticket in list(self._rows.items()):
      if ticket.cancelled:
        self.engine.release(row)
        del self._rows[row]
    if self._rows:
      self._news(self.engine.advance())
    self._metrics.rows(len(self._rows))

  def _begin(self) -> None:
    tickets = self.queue.take(
      lambda waiting: self.engine.split(min(waiting, self.engine.free))
    )
    try:
      self._begin_all(tickets)
    except BaseException as error:
      # Those that were told already are not told again.
      ends = not isinstance(error, Exception)
      why = (
        request_queue.ServerStoppedError(_DEAD)
        if ends
        else FailedError(_FAILED)
      )
      self._fail(tickets, why)
      raise

  def _begin_all(self, tickets: list[RequestState]) -> None:
    if tickets and self.engine.broken:
      self.engine.reset()
    now = time.perf_counter()
    tickets = [ticket for ticket in tickets if not ticket.cancelled]
    for ticket in tickets:
      ticket.milliseconds['queue'] = 1000 * (now - ticket.began)
    alike = {}
    for ticket in tickets:
      key = ticket.session, ticket.session.layers(ticket.message)
      alike.setdefault(key, []).append(ticket)
    works = [pair for group in alike.values() for pair in self._rebuild(group)]
    if not works:
      return
    start = time.perf_counter()
    tickets = [ticket for ticket, _ in works]
    try:
      news = self.engine.begin([work for _, work in works])
    except Exception:
      _LOG.exception('%d captions could not be begun', len(tickets))
      self._fail(tickets, FailedError(_FAILED))
      if self.engine.broken:
        self._lose()
      return
    end = time.perf_counter()
    for ticket, one in zip(tickets, news, strict=True):
      ticket.milliseconds['prefill'] = 1000 * (end - start)
      ticket.milliseconds['first_token'] = 1000 * (end - ticket.arrived)
      ticket.batch, ticket.began = len(tickets), end
      self._rows[one.row] = ticket
    self._metrics.batch(len(tickets))
    self._news(news)

  def _rebuild(self, tickets: list[RequestState]):
    """Pairs of tickets and work, of one session; those that fail are told."""
    session, found = tickets[0].session, []
    while tickets:
      count = session.most(tickets[0].message, self.engine.split(len(tickets)))
      some, tickets = tickets[:count], tickets[count:]
      batch = next(b for b in self.engine.batches if b >= count)
      start = time.perf_counter()
      try:
        vectors = session.rebuild([t.message for t in some], batch)
      except Exception:
        _LOG.exception('%d messages could not be rebuilt', len(some))
        self._fail(some, FailedError(_FAILED))
        continue
      spent = 1000 * (time.perf_counter() - start)
      for ticket, one in zip(some, vectors, strict=True):
        ticket.milliseconds['rebuild'] = spent
        ticket.message = None
        work = engine.PrefillRequest(one, ticket.prompt, ticket.max_tokens)
        found.append((ticket, work))
    return found

  def _news(self, news: list[engine.StepOutput]) -> None:
    now = time.perf_counter()
    told = []
    for one in news:
      ticket = self._rows[one.row]
      if one.ended:
        ticket.milliseconds['decode'] = 1000 * (now - ticket.began)
      told.append((ticket, one.tokens, one.bits, one.ended, None))
    self._tell(_tell_all, told)
    for one in news:
      if one.ended:
        del self._rows[one.row]

  def _lose(self) -> None:
    """Ends all captions in the making."""
    self._fail(list(self._rows.values()), FailedError(_FAILED))
    self._rows.clear()
    self.engine.lose()

  def _fail(self, tickets: list[RequestState], error: Exception) -> None:
    self._tell(_tell_all, [(t, [], [], True, error) for t in tickets])

  def _tell(self, function, *args) -> None:
    try:
      self._loop.call_soon_threadsafe(function, *args)
    except RuntimeError:  # The loop is closed: nobody waits any more.
      _LOG.debug('the event loop has ended')


def _tell_all(told) -> None:
  for ticket, *news in told:
    ticket.told(*news)


def _settle(done: asyncio.Future, outcome: Any, error: Exception | None):
  if done.done():
    return
  if error is None:
    done.set_result(outcome)
  else:
    done.set_exception(error)
