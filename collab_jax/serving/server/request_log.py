"""Log of requests: a line of JSON for each call that a caller made.

Lines are written by a thread of their own: a slow disk delays no answer, and a
full one costs lines, never captions.
"""

import datetime
import json
import logging
import queue
import threading
from typing import Any

_LOG = logging.getLogger(__name__)
_STDOUT = '-'
# Lines that may wait for the disk; further ones are dropped.
_WAITING = 4096


class RequestLog:
  """Writes lines of JSON to a file, or to standard output.

      RequestLog('requests.jsonl').write({'method': 'Caption', 'status': 'OK'})

  The file is opened for each line, so that logrotate may move it away.

  Attributes:
    dropped: Number of lines that were lost.
  """

  def __init__(self, path: str):
    """Opens the log.

    Args:
      path: The file; '-' for standard output.

    Raises:
      OSError: The file cannot be written.
    """
    self.dropped = 0
    self._path = path
    self._is_cut = False  # Whether the last line lacks its end.
    self._append('')
    self._queue: queue.Queue[str | None] = queue.Queue(_WAITING)
    self._thread = threading.Thread(
      target=self._run, name='collab_jax-log', daemon=True
    )
    self._thread.start()

  def write(self, record: dict[str, Any]) -> None:
    """Writes a line, with the time before the other fields."""
    now = datetime.datetime.now(datetime.UTC)
    fields = {'time': now.isoformat(timespec='milliseconds'), **record}
    try:
      self._queue.put_nowait(json.dumps(fields, ensure_ascii=False) + '\n')
    except queue.Full:
      self._lose('the disk is too slow')

  def close(self) -> None:
    """Writes what waits."""
    self._queue.put(None)
    self._thread.join()

  def _run(self) -> None:
    while (line := self._queue.get()) is not None:
      try:
        self._append(line)
      except (OSError, ValueError) as error:  # ValueError: it is closed.
        self._lose(error)

  def _append(self, line: str) -> None:
    if self._path == _STDOUT:
      if line:
        print(line, end='', flush=True)
      return
    # A half of a pair of surrogates has no bytes of UTF-8.
    data = line.encode('utf-8', 'backslashreplace')
    try:
      with open(self._path, 'ab', buffering=0) as file:
        if self._is_cut and data:
          data = b'\n' + data
        written = file.write(data) if data else 0
    except OSError as error:
      raise OSError(
        f'log_requests: {self._path} cannot be written: {error.strerror}'
      ) from error
    self._is_cut = 0 < (written or 0) < len(data)
    if (written or 0) < len(data):
      raise OSError(f'log_requests: {self._path}: the disk is full')

  def _lose(self, reason: object) -> None:
    """Counts a line that cannot be written; says so once."""
    self.dropped += 1
    if self.dropped == 1:
      _LOG.warning('a line of the log of requests is lost: %s', reason)
