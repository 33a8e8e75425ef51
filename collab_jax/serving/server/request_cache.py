"""Requests that come again: by their ids they get the same answer."""

import collections
import hashlib
import time
from typing import NamedTuple

from collab_jax.serving import collab_pb2
from collab_jax.serving.server.request import RequestState

ID = 16  # Bytes.


class _Entry(NamedTuple):
  asked: bytes
  ticket: RequestState
  since: float


class IdempotencyCache:
  """Tickets by the ids of their requests, in flight and some time after.

  Tickets that have failed are forgotten: a retry tries anew.
  """

  def __init__(self, most: int, seconds: float):
    """Starts with none.

    Args:
      most: How many to remember.
      seconds: How long.
    """
    self._most = most
    self._seconds = seconds
    self._entries: collections.OrderedDict[bytes, _Entry] = (
      collections.OrderedDict()
    )

  def __len__(self) -> int:
    """How many are remembered."""
    return len(self._entries)

  def find(self, request: collab_pb2.CaptionRequest) -> RequestState | None:
    """Returns the ticket of an earlier request with this id, if there is one.

    Raises:
      ValueError: It asked for something else.
    """
    entry = self._entries.get(request.request_id)
    if entry is None or time.monotonic() - entry.since > self._seconds:
      return None
    if entry.asked != _digest(request):
      raise ValueError(
        'request_id: another request has the same; expected 16 random bytes'
        ' for every picture, and the same only to try again'
      )
    return entry.ticket

  def add(
    self, request: collab_pb2.CaptionRequest, ticket: RequestState
  ) -> None:
    """Remembers a ticket; requests without an id are not remembered."""
    name, now = request.request_id, time.monotonic()
    if not name:
      return
    self._entries[name] = _Entry(_digest(request), ticket, now)
    self._entries.move_to_end(name)

    def over(done):
      if done.cancelled() or done.exception() is not None:
        self.forget(request, ticket)

    ticket.done.add_done_callback(over)
    while len(self._entries) > self._most or (
      now - next(iter(self._entries.values())).since > self._seconds
    ):
      self._entries.popitem(last=False)

  def forget(
    self, request: collab_pb2.CaptionRequest, ticket: RequestState
  ) -> None:
    """Forgets a ticket, unless the id is another's by now."""
    entry = self._entries.get(request.request_id)
    if entry is not None and entry.ticket is ticket:
      del self._entries[request.request_id]


def _digest(request: collab_pb2.CaptionRequest) -> bytes:
  """Of all that was asked."""
  whole = request.SerializeToString(deterministic=True)
  return hashlib.sha256(whole).digest()
