"""Files of keys, certificates and tokens, read anew when they change."""

from collections.abc import Callable, Mapping
import logging
import os
import time
from typing import Generic, TypeVar

_LOG = logging.getLogger(__name__)
# Time between two looks at the files: calls and connections come more often.
_PERIOD_SECONDS = 1.0

_Value = TypeVar('_Value')


class WatchedFiles(Generic[_Value]):
  """Value of some files, read anew once they have changed.

      tokens = WatchedFiles({'token_file': 'tokens'}, read_tokens)
      tokens.refresh()
      print(tokens.value)

  Files that cannot be used, since they are half written, do not belong together
  or are gone, leave the value as it was, with one warning. They are tried again
  when they change. One thread at a time may refresh.

  Attributes:
    value: What the files last held.
  """

  def __init__(self, paths: Mapping[str, str], read: Callable[[], _Value]):
    """Reads the files.

    Args:
      paths: The files by the names of their settings, which the log has.
      read: Function that reads and checks them.

    Raises:
      ValueError: A file holds something else.
      OSError: A file cannot be read.
    """
    self._paths = paths
    self._read = read
    # As last seen, and as of the value.
    self._state = self._used = self._stat()
    self._looked = time.monotonic()
    self._warned = False
    self.value = read()

  def refresh(self) -> bool:
    """Reads the files if they have changed, and looks at most once a second.

    Returns:
      Whether the value is another.
    """
    now = time.monotonic()
    if now - self._looked < _PERIOD_SECONDS:
      return False
    self._looked = now
    state = self._stat()
    if state == self._state:
      return False
    try:
      value = self._read()
    except (ValueError, OSError) as error:
      self._state = state
      if not self._warned:
        _LOG.warning('%s; what was read before stays in use', error)
      self._warned = True
      return False
    if state != self._stat():  # Written meanwhile: not of one moment.
      return False
    changed = [name for name in self._paths if state[name] != self._used[name]]
    _LOG.info('%s: read anew', ', '.join(changed))
    self._state = self._used = state
    self._warned, self.value = False, value
    return True

  def _stat(self) -> dict[str, tuple[int, ...] | None]:
    """Returns what changes with each file; None for one that is gone."""
    return {name: _stat(path) for name, path in self._paths.items()}


def _stat(path: str) -> tuple[int, ...] | None:
  try:
    status = os.stat(path)
  except OSError:
    return None
  return status.st_ino, status.st_size, status.st_mtime_ns
