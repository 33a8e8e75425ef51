"""State of a request on its way through the server."""

import asyncio
from collections.abc import Sequence
import dataclasses
from typing import Any


@dataclasses.dataclass(eq=False)
class RequestState:
  """A request: waiting, being decoded, or done.

  Fields from `done` on belong to the event loop. The others belong to the
  scheduler once the request is in the queue, except `cancelled`, which the
  loop sets and the scheduler only reads.

  Attributes:
    decoder: Codec of the message; see `decoders.MessageDecoder`. None once the
      message is rebuilt: a request that is remembered keeps no codec alive.
    prompt: Ids of the prompt's tokens.
    max_tokens: Longest caption, its end included.
    arrived: Time of arrival, by `time.perf_counter`.
    message: The unpacked message, once it is there.
    milliseconds: Time of each stage so far, named as in `collab_pb2.Stages`.
    batch: Number of captions in the same prefill.
    stage_start: Time at which the present stage began.
    cancelled: Nobody waits for the caption any more.
    done: Completes with None, or with the error.
    tokens: The caption so far.
    min_entropy: Largest -log2 of the tokens' probabilities, in bits.
    progress: Set when there are more tokens or the end, then replaced.
    waiters: Number of calls that wait for the caption.
    caller: Name of the caller whose request it is.
    codec: Name of the codec, for the log of requests.
    picture: The `request_cache.KeptPicture` of a request that names it; None
      for others, and once it is rebuilt.
    known: Whether it was there before.
  """

  decoder: Any
  prompt: list[int]
  max_tokens: int
  arrived: float
  message: Any = None
  milliseconds: dict[str, float] = dataclasses.field(default_factory=dict)
  batch: int = 0
  stage_start: float = 0.0
  cancelled: bool = False
  done: asyncio.Future = dataclasses.field(default_factory=asyncio.Future)
  tokens: list[int] = dataclasses.field(default_factory=list)
  min_entropy: float = 0.0
  progress: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
  waiters: int = 0
  caller: str = ''
  codec: str = ''
  picture: Any = None
  known: bool = False

  def update(
    self,
    tokens: Sequence[int] = (),
    bits: Sequence[float] = (),
    ended: bool = True,
    error: Exception | None = None,
  ) -> None:
    """Adds tokens, or ends the request; called in the event loop.

    Args:
      tokens: New tokens.
      bits: -log2 of the probability of each token, and of the end's.
      ended: Whether the caption is complete.
      error: Reason for which there will be no caption.
    """
    if self.done.done():
      return
    self.tokens += tokens
    self.min_entropy = max([self.min_entropy, *bits])
    if error:
      self.done.set_exception(error)
      self.done.exception()  # Marks it as retrieved: nobody may be waiting.
    elif ended:
      self.done.set_result(None)
    before, self.progress = self.progress, asyncio.Event()
    before.set()


def settle(
  done: asyncio.Future, result: Any, error: BaseException | None
) -> None:
  """Ends a future, on its event loop, unless nobody waits any more.

  Args:
    done: The future.
    result: Its result.
    error: Its exception; None if there is a result.
  """
  if done.done():
    return
  if error is None:
    done.set_result(result)
  else:
    done.set_exception(error)
