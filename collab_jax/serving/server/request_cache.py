"""Caches by request id: of answers to retries, and of first layers.

An id belongs to the caller that made it: others may make the same, and neither
reads what was answered to it.
"""

import collections
import hashlib
import time
from typing import Any, NamedTuple

from collab_jax.serving import collab_pb2
from collab_jax.serving.server.request import RequestState

ID = 16  # Bytes of a request id.

# Bounds of the first layers that are kept; an edge goes on within moments.
_MAX_BYTES = 4 << 20
_SECONDS = 60.0


_Key = tuple[str, bytes]  # Name of a caller, and id.


class UnknownRequestError(Exception):
  """The first layers of a request are not in the cache (any more)."""


class _ExpiringMap:
  """Insertion-ordered mapping, bounded by total size and by age."""

  def __init__(self, capacity: int, seconds: float):
    self._capacity = capacity
    self._seconds = seconds
    self._total = 0
    self._entries: collections.OrderedDict[_Key, tuple[Any, int, float]]
    self._entries = collections.OrderedDict()

  def __len__(self) -> int:
    return len(self._entries)

  def get(self, key: _Key) -> Any | None:
    """Returns a value; None if it is missing or has expired."""
    value, _, since = self._entries.get(key, (None, 0, time.monotonic()))
    return None if time.monotonic() - since > self._seconds else value

  def put(self, key: _Key, value: Any, size: int = 1) -> None:
    """Adds a value; drops the oldest ones to stay within the bounds."""
    self.pop(key)
    now = time.monotonic()
    self._entries[key] = value, size, now
    self._total += size
    while self._total > self._capacity or (
      now - next(iter(self._entries.values()))[2] > self._seconds
    ):
      self.pop(next(iter(self._entries)))

  def pop(self, key: _Key) -> None:
    """Drops a value, if it is there."""
    _, size, _ = self._entries.pop(key, (None, 0, 0.0))
    self._total -= size

  def clear(self) -> None:
    """Drops everything."""
    self._entries.clear()
    self._total = 0


class _Answer(NamedTuple):
  digest: bytes
  request: RequestState


class IdempotencyCache:
  """Requests by id, in flight and for some time after: a retry finds its own.

  Requests that failed are dropped: a retry tries anew.
  """

  def __init__(self, max_entries: int, seconds: float):
    """Makes an empty cache.

    Args:
      max_entries: Number of requests to keep.
      seconds: Time for which they are kept.
    """
    self._entries = _ExpiringMap(max_entries, seconds)

  def __len__(self) -> int:
    """Number of requests in the cache."""
    return len(self._entries)

  def get(
    self, message: collab_pb2.CaptionRequest, caller: str = ''
  ) -> RequestState | None:
    """Returns the caller's earlier request with this id, if there is one.

    Args:
      message: The request.
      caller: Name of the caller.

    Raises:
      ValueError: The earlier request had other content.
    """
    entry = self._entries.get((caller, message.request_id))
    if entry is None:
      return None
    if entry.digest != _digest(message):
      raise ValueError(
        'request_id: another request has the same; expected 16 random bytes'
        ' for every picture, and the same only to try again'
      )
    return entry.request

  def add(
    self, message: collab_pb2.CaptionRequest, request: RequestState
  ) -> None:
    """Adds a request; one without an id is not kept."""
    if not message.request_id:
      return
    key = request.caller, message.request_id
    self._entries.put(key, _Answer(_digest(message), request))

    def drop_if_failed(done):
      if done.cancelled() or done.exception() is not None:
        self.discard(message, request)

    request.done.add_done_callback(drop_if_failed)

  def discard(
    self, message: collab_pb2.CaptionRequest, request: RequestState
  ) -> None:
    """Drops a request, unless its id is another request's by now."""
    key = request.caller, message.request_id
    entry = self._entries.get(key)
    if entry is not None and entry.request is request:
      self._entries.pop(key)


class PartialMessageCache:
  """First layers of messages by request id; the oldest are dropped first."""

  def __init__(self, max_bytes: int = _MAX_BYTES, seconds: float = _SECONDS):
    """Makes an empty cache.

    Args:
      max_bytes: Bytes to keep in all.
      seconds: Time for which they are kept.
    """
    self._max_bytes = max_bytes
    self._entries = _ExpiringMap(max_bytes, seconds)

  def add(
    self, request_id: bytes, session: bytes, data: bytes, caller: str = ''
  ) -> None:
    """Keeps first layers; those without an id, or too long, are not kept.

    Args:
      request_id: Id of the request.
      session: Id of the session.
      data: The layers.
      caller: Name of the caller.
    """
    if request_id and len(data) <= self._max_bytes:
      self._entries.put((caller, request_id), (session, data), len(data))

  def complete(
    self, request_id: bytes, session: bytes, rest: bytes, caller: str = ''
  ) -> bytes:
    """Returns a whole message, from its first layers and the others.

    Args:
      request_id: Id of the request that held the first layers.
      session: Id of the session of the others.
      rest: The other layers.
      caller: Name of the caller.

    Raises:
      UnknownRequestError: The request is not in the cache, or was of another
        session or caller.
    """
    kept, data = self._entries.get((caller, request_id)) or (None, b'')
    if kept != session:
      raise UnknownRequestError(
        'continues: that request is not known here (any more): send the whole'
        ' message'
      )
    return data + rest

  def clear(self) -> None:
    """Drops everything."""
    self._entries.clear()


def _digest(message: collab_pb2.CaptionRequest) -> bytes:
  """Returns a digest of all fields of a request."""
  data = message.SerializeToString(deterministic=True)
  return hashlib.sha256(data).digest()
