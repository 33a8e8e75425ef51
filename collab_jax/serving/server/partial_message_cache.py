"""Messages of which an edge sent the first layers, and may send the rest."""

import collections
import time
from typing import NamedTuple

# As much is remembered, and for as long; an edge goes on within moments.
_MOST_BYTES = 4 << 20
_SECONDS = 60.0


class UnknownError(Exception):
  """There is no such beginning (any more)."""


class _Entry(NamedTuple):
  session: bytes
  data: bytes
  since: float


class PartialMessageCache:
  """The bytes of requests, by their ids; the oldest go first."""

  def __init__(self, most: int = _MOST_BYTES, seconds: float = _SECONDS):
    """Starts with none.

    Args:
      most: How many bytes to remember.
      seconds: How long.
    """
    self._most = most
    self._seconds = seconds
    self._bytes = 0
    self._entries: collections.OrderedDict[bytes, _Entry] = (
      collections.OrderedDict()
    )

  def add(self, name: bytes, session: bytes, data: bytes) -> None:
    """Remembers a message, if it is not longer than all that is remembered.

    Args:
      name: The request's id.
      session: What the message is of.
      data: Its bytes.
    """
    if not name or len(data) > self._most:
      return
    self._forget(name)
    now = time.monotonic()
    self._entries[name] = _Entry(session, data, now)
    self._bytes += len(data)
    while self._bytes > self._most or (
      now - next(iter(self._entries.values())).since > self._seconds
    ):
      self._forget(next(iter(self._entries)))

  def whole(self, name: bytes, session: bytes, rest: bytes) -> bytes:
    """Returns a message from its beginning and the rest.

    Args:
      name: The id of the request that held the beginning.
      session: What the rest is of.
      rest: The other layers.

    Raises:
      UnknownError: No such request is remembered, or one of another session.
    """
    entry = self._entries.get(name)
    late = entry and time.monotonic() - entry.since > self._seconds
    if entry is None or late or entry.session != session:
      raise UnknownError(
        'continues: that request is not known here (any more): send the whole'
        ' message'
      )
    return entry.data + rest

  def _forget(self, name: bytes) -> None:
    entry = self._entries.pop(name, None)
    if entry is not None:
      self._bytes -= len(entry.data)
