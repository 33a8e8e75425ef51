"""Requests on their way through the server."""

import asyncio
from collections.abc import Sequence
import dataclasses
from typing import Any


@dataclasses.dataclass(eq=False)
class RequestState:
  """A request that waits, or whose caption is in the making, or is made.

  What stands from `done` on is the event loop's own. The rest is the worker's
  once the ticket is in the queue, but for `cancelled`, which the loop sets and
  the worker only reads.

  Attributes:
    session: Which codec made the message; see `served.Served`.
    prompt: Ids of the prompt.
    max_tokens: The longest caption, its end included.
    message: What it holds, once it is unpacked.
    milliseconds: What the stages took so far, as `collab_pb2.Stages` has them.
    batch: How many captions were begun together.
    arrived: When, by `time.perf_counter`.
    began: When its present stage began.
    cancelled: Nobody waits for it any more.
    done: The end: the error, or None.
    tokens: The caption so far.
    bits: The largest of -log2 of the tokens' probabilities.
    changed: Set when there are more tokens, or the end; then there is another.
    waiters: How many wait for it.
  """

  session: Any
  prompt: list[int]
  max_tokens: int
  arrived: float
  message: Any = None
  milliseconds: dict[str, float] = dataclasses.field(default_factory=dict)
  batch: int = 0
  began: float = 0.0
  cancelled: bool = False
  done: asyncio.Future = dataclasses.field(default_factory=asyncio.Future)
  tokens: list[int] = dataclasses.field(default_factory=list)
  bits: float = 0.0
  changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
  waiters: int = 0

  def told(
    self,
    tokens: Sequence[int] = (),
    bits: Sequence[float] = (),
    ended: bool = True,
    error: Exception | None = None,
  ) -> None:
    """Takes news; called in the event loop.

    Args:
      tokens: New ones.
      bits: -log2 of the probability of each, and of the end's.
      ended: Whether that is all.
      error: Why there will be no caption.
    """
    if self.done.done():
      return
    self.tokens += tokens
    self.bits = max([self.bits, *bits])
    if error:
      self.done.set_exception(error)
      self.done.exception()  # There may be nobody who asks.
    elif ended:
      self.done.set_result(None)
    old, self.changed = self.changed, asyncio.Event()
    old.set()
