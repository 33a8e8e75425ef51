"""JSON-lines files that survive a kill, and files that appear complete.

One process at a time appends to a file of JSON lines. After a kill its last
line may be unfinished: it is cut off when the file is opened again.

    with jsonl.JsonlWriter('captions.jsonl') as writer:
      done = {line['file'] for line in writer.objects}
      writer.append({'file': 'cat.png', 'caption': 'a cat'})
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import errno
import io
import json
import logging
import math
import os
from pathlib import Path
import re
from typing import Any, Generic, TypeVar

from collab_jax import _validate

Parsed = TypeVar('Parsed')

_LOG = logging.getLogger(__name__)

# Letters that JSON may hold and some terminals obey: controls, and marks that
# turn the direction of writing.
_HIDDEN = re.compile('[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]')

# Errors of file systems that have no such call; pipes and some FUSE mounts have
# no fsync, Lustre without `-o flock` and some NFS no locks.
_UNSUPPORTED = (
  *(errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP),
  *(errno.ENOLCK, errno.EROFS),
)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
  """Adds a file's name to errors of writing to it, which have none.

  Args:
    path: The file.

  Raises:
    OSError: Such an error, as of a full disk, with the name.
  """
  try:
    yield
  except OSError as error:
    if error.filename is None and error.errno is not None:
      raise OSError(
        error.errno, os.strerror(error.errno), os.fspath(path)
      ) from error
    raise


def write_atomically(path: str | os.PathLike[str], data: str | bytes) -> None:
  """Writes a file beside the path, then renames it: complete or absent."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(path.name + '.draft')
  try:
    with naming(path):
      draft.write_bytes(data.encode() if isinstance(data, str) else data)
    draft.replace(path)
  except OSError:
    draft.unlink(missing_ok=True)  # A full disk needs the room.
    raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes plain values as indented JSON, atomically.

  Raises:
    ValueError: A number is not finite or too long; nothing is written.
  """
  write_atomically(path, to_text(value, str(path), indent=1) + '\n')


def to_text(value: Any, name: str, **options: Any) -> str:
  """Returns plain values as JSON that any reader takes.

  Args:
    value: The values.
    name: Name of the file, for errors.
    **options: Of `json.dumps`.

  Raises:
    ValueError: A number is not finite, which JSON has no form for, or has more
      digits than are read again.
  """
  try:
    return json.dumps(value, allow_nan=False, **options)
  except ValueError as error:
    for field, number in _numbers(value):
      if isinstance(number, float) and not math.isfinite(number):
        raise _validate.error(
          f'{name}: {field}', number, 'a finite number, or null for none'
        ) from error
    raise ValueError(f'{name}: got {error}, expected plain values') from error


def _numbers(value: Any, field: str = '') -> Iterator[tuple[str, Any]]:
  """Yields the numbers of nested values, with the names of their fields."""
  if isinstance(value, dict):
    for name, inner in value.items():
      yield f'{field}.{name}'.lstrip('.'), name
      yield from _numbers(inner, f'{field}.{name}'.lstrip('.'))
  elif isinstance(value, list | tuple):
    for i, inner in enumerate(value):
      yield from _numbers(inner, f'{field}[{i}]')
  elif isinstance(value, int | float):
    yield field or 'value', value


def parse(text: str | bytes) -> Any:
  """Parses JSON, and refuses what JSON has no form for.

  Args:
    text: The text.

  Raises:
    ValueError: It is no JSON: NaN and Infinity, which Python reads, are none.
  """
  try:
    return json.loads(text, parse_constant=_refuse_constant)
  except RecursionError as error:
    raise ValueError('it is nested too deeply') from error


def _refuse_constant(name: str) -> Any:
  raise _validate.error('number', name, 'a finite number or null')


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a JSON object from a file that stands beside a run's outputs.

  Args:
    path: The file.

  Raises:
    ValueError: It holds something else, or was cut; the error is one line.
  """
  path = Path(path)
  try:
    value = parse(path.read_bytes())
  except ValueError as error:
    reason = (str(error).splitlines() or [''])[0]
    raise ValueError(
      f'{path}: got no settings ({reason}), expected a JSON object; put back'
      ' the file, or begin anew in another place'
    ) from error
  if not isinstance(value, dict):
    raise _validate.error(
      str(path), _short(value), 'a JSON object', 'put back the file'
    )
  return value


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


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
    # Whole lines that `parse` refuses are kept, for its error.
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
      value, reason = parse(line), ''
    except ValueError as error:
      value, reason = None, f' ({error})'
    if not isinstance(value, dict):
      raise ValueError(
        f'{path}:{number}: got {line[:40]!r}{reason}, expected a JSON object;'
        ' move the file away, or repair it'
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
    self._syncs = True
    self._needs_newline = end > 0 and data[end - 1 : end] != b'\n'

  def append(self, *values: dict[str, Any]) -> None:
    """Writes lines out to the operating system, in one piece.

    Args:
      *values: Objects of plain values.

    Raises:
      ValueError: A number is not finite, which JSON has no form for: null is
        written for none. Nothing is written.
    """
    where = str(self.path)
    text = ''.join(
      to_text(value, where, ensure_ascii=False) + '\n' for value in values
    )
    if text and self._needs_newline:
      text, self._needs_newline = '\n' + text, False
    # Equal to JSON; a terminal that shows the file must not obey it.
    text = _HIDDEN.sub(lambda match: f'\\u{ord(match[0]):04x}', text)
    # A file's name need not be UTF-8; what is not becomes '\\udc80', which is
    # JSON's own form and is read back as it was.
    with naming(self.path):
      rest = memoryview(text.encode('utf-8', 'backslashreplace'))
      while rest:  # A disk that is nearly full takes a part.
        rest = rest[self._file.write(rest) :]

  def sync(self) -> None:
    """Flushes the file to disk, so that it survives a power cut.

    Goes on with a warning where the file system cannot do that.
    """
    if not self._syncs:
      return
    try:
      with naming(self.path):
        os.fsync(self._file.fileno())
    except OSError as error:
      if error.errno not in _UNSUPPORTED:
        raise
      self._syncs = False
      _LOG.warning(
        '%s: its file system has no fsync (%s); a power cut may lose lines',
        self.path,
        error.strerror,
      )

  def close(self) -> None:
    """Closes the file and releases the lock."""
    self._file.close()

  def __enter__(self) -> 'JsonlWriter[Parsed]':
    """Returns the writer."""
    return self

  def __exit__(self, *unused):
    """Closes the file and releases the lock."""
    self.close()


def _open_locked(path: Path) -> io.FileIO:
  """Opens or makes a file for appending, under a lock until it is closed."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.exists() and not path.is_file():
    # A pipe would wait for its reader, a device has no lines to go on with.
    raise ValueError(f'{path} is no regular file: choose another one')
  # Nothing waits in a buffer, so that a full disk is told where it is met.
  file = io.FileIO(path, 'ab')
  try:
    _lock(file, path)
  except BaseException:
    file.close()
    raise
  return file


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Keeps other processes out of a folder, by the lock of a file in it.

  Args:
    folder: The folder, which is made; gets run.lock, which stays, empty.

  Raises:
    BlockingIOError: Another process holds the lock.
  """
  try:
    file = _open_locked(Path(folder) / 'run.lock')
  except BlockingIOError as error:
    raise BlockingIOError(
      error.errno,
      f'another run is writing to {folder}; wait for it, or choose another'
      ' folder',
    ) from error
  with file:
    yield


def _lock(file: io.FileIO, path: Path) -> None:
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
  except OSError as error:
    if error.errno not in _UNSUPPORTED:
      raise OSError(error.errno, error.strerror, str(path)) from error
    _LOG.warning(
      '%s: its file system has no locks (%s); let no other run write to it',
      path,
      error.strerror,
    )
