"""Messages of pictures, kept for further evaluations of the same pictures."""

from collections.abc import Sequence
import threading
from typing import Any, NamedTuple
import zlib

import numpy as np

from collab_jax.evaluation import batches


class SentBatch(NamedTuple):
  """Batch of messages as a codec made them.

  Attributes:
    messages: One for each row, padding included.
    seconds: Seconds of the edge's stages, per batch.
    unlike: Whether a picture is unlike those of the training; None if nothing
      is known of these.
    distortions: Mean squared errors of what was rebuilt; None where no grid is.
  """

  messages: list[Any]
  seconds: dict[str, float]
  unlike: np.ndarray | None
  distortions: Sequence[float | None]


class MessageCache:
  """Messages by codec, seed and pictures.

    kept = MessageCache()
    evaluate(codecs, ..., task='scenes', kept=kept)
    evaluate(codecs, ..., task='scenes_box', kept=kept)

  The second evaluation encodes no picture of the first one again: what was sent
  answers its questions, too. Codecs of one name must be the same. Once it is
  full, nothing more is kept. Threads may share it.
  """

  def __init__(self, max_bytes: int = 1 << 28):
    """Starts empty.

    Args:
      max_bytes: Bytes of messages that are kept.
    """
    self._left = max_bytes
    self._batches: dict[Any, SentBatch] = {}
    self._lock = threading.Lock()

  def get(self, name: str, seed: int, batch: batches.Batch) -> SentBatch | None:
    """Returns a batch's messages; None if they are not kept.

    Args:
      name: Name of the codec.
      seed: Seed of the codec.
      batch: The pictures.
    """
    return self._batches.get(_key(name, seed, batch))

  def put(
    self, name: str, seed: int, batch: batches.Batch, sent: SentBatch
  ) -> None:
    """Keeps a batch's messages if there is room; arguments as of `get`."""
    size = sum(_size(message) for message in sent.messages)
    with self._lock:
      if size <= self._left:
        self._left -= size
        self._batches[_key(name, seed, batch)] = sent


def _key(name: str, seed: int, batch: batches.Batch) -> Any:
  """Returns what messages depend on; pictures by their content, too."""
  pixels = zlib.crc32(batch.images.tobytes())
  return name, seed, tuple(batch.padded_ids), pixels


def _size(message: Any) -> int:
  """Returns the bytes of a message, or of its packets."""
  if isinstance(message, bytes):
    return len(message)
  return sum(map(_size, message)) if isinstance(message, list | tuple) else 0
