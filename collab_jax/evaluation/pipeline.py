"""Pipeline of an evaluation: the device computes while the host works.

One thread dispatches all programs of the device, in an order that depends on
nothing but the passes: the devices of a mesh need one order. It waits only for
messages and records that other threads make meanwhile:

    device   quantize 2 | rebuild, caption 0 | quantize 3 | rebuild, caption 1
    host     pack, unpack 1 | pack, unpack 2 | records 0 | pack, unpack 3

A single CPU has no such order to keep: there each pass is captioned by the
programs of the thread that makes its records, beside the next one's quantizer,
so that all cores are busy. Records are the same; the seconds of stages that ran
at one time are divided between them.
"""

import collections
from collections.abc import Iterable, Iterator
from concurrent import futures
import contextlib
from typing import Any, NamedTuple, Protocol, runtime_checkable

from collab_jax.codecs import device_clock
from collab_jax.evaluation import batches

# Passes whose messages are made while the device captions another, and passes
# that it captions while the records of another are made. One of each is enough
# where the device takes longer than the host; two let threads share what is
# slow to pack.
_AHEAD = 2
_BEHIND = 1
_IN_FLIGHT = _AHEAD + _BEHIND + 1


@runtime_checkable
class Pass(Protocol):
  """Pass in three steps, which are called by one thread and in this order."""

  batch: batches.Batch

  def encode(self) -> None:
    """Dispatches what makes messages, and leaves the rest to a thread."""
    ...

  def decode(self) -> None:
    """Waits for the messages; dispatches what makes captions of them."""
    ...

  def records(self) -> list[dict[str, Any]]:
    """Waits for the records, and returns them."""
    ...


class Workers(NamedTuple):
  """Threads of a pipeline, and the clock of its device.

  Attributes:
    host: Does the host's part of the passes. A pass has one task at a time, so
      that none of them waits for a thread.
    clock: Times the programs that the pipeline dispatches.
  """

  host: futures.Executor
  clock: device_clock.DeviceClock


def open_workers(stack: contextlib.ExitStack) -> Workers:
  """Starts the threads of a pipeline.

  Args:
    stack: Ends them, after an error without tasks that have not begun.
  """
  host, watch = (
    stack.enter_context(futures.ThreadPoolExecutor(threads, f'evaluate-{name}'))
    for name, threads in (('host', _IN_FLIGHT), ('clock', 1))
  )
  for threads in (host, watch):
    stack.callback(threads.shutdown, wait=False, cancel_futures=True)
  return Workers(host, device_clock.DeviceClock(watch))


def run(passes: Iterable[Pass]) -> Iterator[Pass]:
  """Runs passes, a few at a time.

  Args:
    passes: Made one by one, when they can begin.

  Yields:
    Each of them in order, to ask it for its records. An error is raised after
    those that were decoded before it were yielded.
  """
  decoded: collections.deque[Pass] = collections.deque()
  failure = None
  try:
    for new in _decode(passes):
      decoded.append(new)
      if len(decoded) > _BEHIND:
        yield decoded.popleft()
  except Exception as error:
    failure = error
  while decoded:
    yield decoded.popleft()
  if failure is not None:
    raise failure


def _decode(passes: Iterable[Pass]) -> Iterator[Pass]:
  """Encodes passes ahead of those that it decodes and yields."""
  encoded: collections.deque[Pass] = collections.deque()
  for new in passes:
    new.encode()
    encoded.append(new)
    if len(encoded) > _AHEAD:
      encoded[0].decode()
      yield encoded.popleft()
  while encoded:
    encoded[0].decode()
    yield encoded.popleft()
