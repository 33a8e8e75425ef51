"""Files to which one run at a time appends."""

import os
from pathlib import Path
from typing import BinaryIO


def append(path: str | os.PathLike[str]) -> BinaryIO:
  """Opens or makes a file for appending, and its folder; no other run may.

  Args:
    path: The file.

  Returns:
    The file; closing it, or the process's end, lets others at it.

  Raises:
    BlockingIOError: Another run is writing to it.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  file = path.open('ab')
  try:
    _lock(file, path)
  except BaseException:
    file.close()
    raise
  return file


def _lock(file: BinaryIO, path: Path) -> None:
  if os.name != 'posix':
    return
  import fcntl  # Absent elsewhere.

  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise BlockingIOError(
      error.errno,
      f'another run is writing to {path}; wait for it, or choose another file',
    ) from error
