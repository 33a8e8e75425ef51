"""A file of JSON lines that a killed run leaves whole, and goes on with."""

import json
import os
from pathlib import Path
from typing import Any

from collab_jax import jsonl


class JsonlWriter:
  """Appends objects to a file, a line each.

  Attributes:
    path: The file.
    found: What was in it when it was opened.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Opens or makes a file; cuts off a last line that is not whole.

    Args:
      path: The file.

    Raises:
      ValueError: A line before the last is no JSON object.
      BlockingIOError: Another run is writing to it.
    """
    self.path = Path(path)
    self._file = jsonl.append(self.path)
    try:
      self.found = self._recover()
    except BaseException:
      self._file.close()
      raise

  def append(self, value: dict[str, Any]) -> None:
    """Writes a line out to the operating system, in one piece."""
    line = json.dumps(value, ensure_ascii=False) + '\n'
    # A file's name need not be UTF-8; what is not becomes '\\udc80', which is
    # JSON's own form and is read back as it was.
    self._file.write(line.encode('utf-8', 'backslashreplace'))
    self._file.flush()

  def close(self) -> None:
    """Closes the file, which gives the lock back."""
    self._file.close()

  def __enter__(self) -> 'JsonlWriter':
    """The file itself."""
    return self

  def __exit__(self, *unused):
    """Closes it."""
    self.close()

  def _recover(self) -> list[dict[str, Any]]:
    data = self.path.read_bytes()
    end = data.rfind(b'\n') + 1
    found = []
    for number, line in enumerate(data[:end].splitlines(), 1):
      try:
        value = json.loads(line)
      except ValueError:
        value = None
      if not isinstance(value, dict):
        raise ValueError(
          f'{self.path}:{number}: got {line[:40]!r}, expected a JSON object; is'
          ' this a file of captions? move it away, or repair it'
        )
      found.append(value)
    if end < len(data):
      os.truncate(self.path, end)
    return found
