"""Caches of answers to retries, of first layers, and of whole pictures.

An id belongs to the caller that made it: others may make the same, and neither
reads what was answered to it. Pictures are known by their message's SHA-256, so
that no question is answered from another picture.
"""

import collections
from collections.abc import Callable
import hashlib
import time
from typing import Any, NamedTuple

from collab_jax.serving import collab_pb2
from collab_jax.serving.server.request import RequestState

ID = 16  # Bytes of a request id.

# Bounds of the first layers that are kept; an edge goes on within moments.
_MAX_BYTES = 4 << 20
_SECONDS = 60.0
# A person asks the next question about a picture within minutes.
_PICTURE_SECONDS = 600.0


_Key = tuple[str, bytes]  # Name of a caller, and id.


class UnknownPictureError(Exception):
  """A picture is not in the cache (any more)."""


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

  @property
  def total(self) -> int:
    """Sum of the sizes."""
    return self._total

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
    while self._entries and (
      self._total > self._capacity
      or now - next(iter(self._entries.values()))[2] > self._seconds
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


class KeptPicture:
  """Message of a picture, and its rebuilt prefix once that is there.

  Attributes:
    message: The whole message.
    prefix: The prefix; None until a request was rebuilt.
  """

  def __init__(self, message: bytes, keep: Callable[['KeptPicture'], None]):
    """Binds a message.

    Args:
      message: The whole message.
      keep: Counts the picture's bytes anew.
    """
    self.message = message
    self.prefix: Any = None
    self._keep = keep

  @property
  def size(self) -> int:
    """Bytes of message and prefix."""
    arrays = () if self.prefix is None else self.prefix
    return len(self.message) + sum(getattr(a, 'nbytes', 0) for a in arrays)

  def add_prefix(self, prefix: Any) -> None:
    """Keeps the prefix, too; called in the event loop.

    Args:
      prefix: An `engine.HostPrefix`.
    """
    if self.prefix is None:
      self.prefix = prefix
      self._keep(self)


class PictureCache:
  """Pictures by caller, session and digest; the oldest are dropped first.

  Further questions about a picture need neither its message nor another
  rebuilding. All bytes that are kept are counted: messages and prefixes.
  """

  def __init__(self, max_bytes: int, seconds: float = _PICTURE_SECONDS):
    """Makes an empty cache.

    Args:
      max_bytes: Bytes to keep in all; 0 keeps nothing.
      seconds: Time for which a picture is kept after its last question.
    """
    self._entries = _ExpiringMap(max_bytes, seconds)

  def __len__(self) -> int:
    """Number of pictures in the cache."""
    return len(self._entries)

  @property
  def total_bytes(self) -> int:
    """Bytes of all messages and prefixes in the cache."""
    return self._entries.total

  def get(
    self, digest: bytes, session: bytes, message: bytes, caller: str = ''
  ) -> KeptPicture:
    """Returns a picture, and keeps it.

    Args:
      digest: SHA-256 of its message.
      session: Id of its session.
      message: The message; empty for one that was kept.
      caller: Name of the caller.

    Raises:
      UnknownPictureError: The picture is not in the cache.
      ValueError: The message has another digest.
    """
    if message and hashlib.sha256(message).digest() != digest:
      raise ValueError(
        f'picture: got {digest.hex()[:64] or "nothing"}, expected the SHA-256'
        ' of the message'
      )
    key = caller, session + digest
    picture = self._entries.get(key)
    if picture is None and not message:
      raise UnknownPictureError(
        'picture: that one is not known here (any more): send its message'
      )
    if picture is None:

      def keep(picture):
        # Dropped since: its bytes are those of its last request.
        if self._entries.get(key) is picture:
          self._entries.put(key, picture, picture.size)

      picture = KeptPicture(message, keep)
    self._entries.put(key, picture, picture.size)
    return picture

  def clear(self) -> None:
    """Drops everything."""
    self._entries.clear()


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
