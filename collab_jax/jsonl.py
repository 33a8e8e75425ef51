"""JSON-lines files that survive a kill, and files that appear complete.

One process at a time appends to a file of JSON lines. After a kill its last
line may be unfinished: it is cut off when the file is opened again.

    with jsonl.JsonlWriter('captions.jsonl') as writer:
      done = {line['file'] for line in writer.objects}
      writer.append({'file': 'cat.png', 'caption': 'a cat'})
"""

from collections.abc import Callable, Sequence
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

Parsed = TypeVar('Parsed')


def write_atomically(path: str | os.PathLike[str], data: str | bytes) -> None:
  """Writes a file beside the path, then renames it: complete or absent."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(path.name + '.draft')
  draft.write_bytes(data.encode() if isinstance(data, str) else data)
  draft.replace(path)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes plain values as indented JSON, atomically."""
  write_atomically(path, json.dumps(value, indent=1) + '\n')


def split_lines(data: bytes) -> tuple[list[bytes], int]:
  """Splits a file into lines, without an unfinished last one.

  A last line without its line end counts as finished if it is whole JSON.

  Args:
    data: The file.

  Returns:
    The lines, and how many bytes of the file they take.
  """
  end = data.rfind(b'\n') + 1
  try:
    json.loads(data[end:])
    end = len(data)
  except (ValueError, RecursionError):
    pass
  return data[:end].splitlines(), end


def parse_objects(path: Path, lines: Sequence[bytes]) -> list[dict[str, Any]]:
  """Parses a JSON object from each line.

  Args:
    path: The file, for errors.
    lines: From `split_lines`.

  Raises:
    ValueError: A line is no JSON object.
  """
  values = []
  for number, line in enumerate(lines, 1):
    try:
      value = json.loads(line)
    except ValueError:
      value = None
    if not isinstance(value, dict):
      raise ValueError(
        f'{path}:{number}: got {line[:40]!r}, expected a JSON object; is this'
        ' a file of captions? move it away, or repair it'
      )
    values.append(value)
  return values


class JsonlWriter(Generic[Parsed]):
  """Appends JSON objects to a locked file, a line each.

  Attributes:
    path: The file.
    objects: The file's content when it was opened, as `parse` returned it.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    parse: Callable[[Path, list[bytes]], Parsed] = parse_objects,
  ):
    """Opens or makes a file, and cuts off an unfinished last line.

    Args:
      path: The file; its folder is made.
      parse: Reads and checks the lines, given with the path. The file is left
        as it is if this raises.

    Raises:
      ValueError: A line is no JSON object, or what `parse` raises.
      BlockingIOError: Another process is writing to the file.
    """
    self.path = Path(path)
    self._file = _open_locked(self.path)
    try:
      data = self.path.read_bytes()
      lines, end = split_lines(data)
      self.objects = parse(self.path, lines)
      if end < len(data):
        os.truncate(self.path, end)
    except BaseException:
      self._file.close()
      raise
    self._needs_newline = end > 0 and data[end - 1 : end] != b'\n'

  def append(self, *values: dict[str, Any]) -> None:
    """Writes lines out to the operating system, in one piece."""
    text = ''.join(json.dumps(v, ensure_ascii=False) + '\n' for v in values)
    if text and self._needs_newline:
      text, self._needs_newline = '\n' + text, False
    # A file's name need not be UTF-8; what is not becomes '\\udc80', which is
    # JSON's own form and is read back as it was.
    self._file.write(text.encode('utf-8', 'backslashreplace'))
    self._file.flush()

  def sync(self) -> None:
    """Flushes the file to disk, so that it survives a power cut."""
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file and releases the lock."""
    self._file.close()

  def __enter__(self) -> 'JsonlWriter[Parsed]':
    """Returns the writer."""
    return self

  def __exit__(self, *unused):
    """Closes the file and releases the lock."""
    self.close()


def _open_locked(path: Path) -> BinaryIO:
  """Opens or makes a file for appending, under a lock until it is closed."""
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
