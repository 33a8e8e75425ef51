"""Reader of picture files that a list names, and fields of such lists."""

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import functools
import json
import os
from pathlib import Path, PurePosixPath
import threading
from typing import Any, SupportsIndex, TypeVar
import unicodedata
import zipfile
import zlib

from collab_jax import _validate
from collab_jax.data import example, pictures

_T = TypeVar('_T')

# Errors of a file in a zip; of a kind of compression that is not known, too.
_DAMAGED = (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, zlib.error)

_zips = threading.local()  # The last zip of a thread: reading shares a state.


@dataclasses.dataclass(frozen=True)
class ListedImage:
  """Entry of a list: a file, the picture's id, its captions."""

  path: Path
  image_id: int
  captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Files:
  """Reader of pictures on disk, decoded and resized on access.

  Random access, picklable, safe to read on threads. A file is found if its
  name differs from the list's in Unicode's normal form alone: a Mac takes
  letters with accents apart.

  Attributes:
    name: Name in records and progress bars, such as 'coco/val'.
    entries: The pictures.
    listing: The file that lists the pictures.
    size: Side of the pictures in pixels.
    method: Method of resizing, a name in `pictures.METHODS`.
    captioned: Whether each picture must have a caption.
    found: Words for people on what was found; '' says the number.
    archive: Zip that holds the pictures, the beginning of their paths; None
      where they are files.

  Raises:
    FileNotFoundError: A picture is missing.
    ValueError: A picture has no caption, two have the same id, or an unknown
      method.
  """

  name: str
  entries: tuple[ListedImage, ...]
  listing: Path
  size: int = 224
  method: str = 'hf_bicubic'
  captioned: bool = True
  found: str = ''
  archive: Path | None = None

  def __post_init__(self):
    pictures.check_method(self.size, self.method)
    self._refuse(
      [e for e in self.entries if not 0 <= e.image_id < 2**32],
      'has an id outside 0 to 2**32 - 1',
      ValueError,
    )
    counts = collections.Counter(e.image_id for e in self.entries)
    repeated = [e for e in self.entries if counts[e.image_id] > 1]
    same = collections.Counter(repeated)
    self._refuse(
      [e for e in repeated if same[e] > 1],
      'is listed twice, and would count twice; leave one line out',
      ValueError,
    )
    self._refuse(
      repeated,
      'has the id of another picture',
      ValueError,
    )
    self._refuse(
      [e for e in self.entries if self.captioned and not e.captions],
      'has no caption, expected at least one to compare with',
      ValueError,
    )
    if self.archive is not None:
      return
    object.__setattr__(self, 'entries', _locate(self.entries))
    by_folder = {
      f: list_names(f) for f in {e.path.parent for e in self.entries}
    }
    self._refuse(
      [e for e in self.entries if e.path.name not in by_folder[e.path.parent]],
      'is missing',
      FileNotFoundError,
    )

  def _refuse(
    self, wrong: Sequence[ListedImage], fault: str, kind: type[Exception]
  ):
    if wrong:
      count = ''
      if len(wrong) > 1:
        count = f' ({len(wrong)} of {len(self.entries)} pictures are so)'
      raise kind(
        f'{wrong[0].path}, picture {wrong[0].image_id}, {fault}; it is listed '
        f'in {self.listing}{count}'
      )

  @property
  def uncaptioned(self) -> bool:
    """Whether no picture has a caption."""
    return not any(entry.captions for entry in self.entries)

  def __len__(self) -> int:
    return len(self.entries)

  def __repr__(self) -> str:
    """Shows the number of pictures, not all of them."""
    return f'Files({self.name!r}, {len(self)} pictures, {self.size} px)'

  def __getitem__(self, index: SupportsIndex) -> example.Example:
    """Reads a picture.

    Raises:
      IndexError: Out of range.
      PictureError: The file is damaged.
      FileNotFoundError: The file was removed.
    """
    entry = self._entry(index)
    image = pictures.decode(
      self._data(entry), str(entry.path), pictures.matte_of(self.method)
    )
    return example.Example(
      image=pictures.resize(image, self.size, self.method),
      image_id=entry.image_id,
      captions=entry.captions,
      file=self._file(entry),
    )

  def check(self, index: SupportsIndex) -> None:
    """Raises the PictureError that reading the picture would, but faster."""
    entry = self._entry(index)
    pictures.check(self._data(entry), str(entry.path), self.size)

  def _entry(self, index: SupportsIndex) -> ListedImage:
    return self.entries[example.position(self, index)]

  def _file(self, entry: ListedImage) -> str:
    """Returns the name of a picture's file, from its list's folder on."""
    for root in (self.listing, self.listing.parent):
      if root != entry.path and entry.path.is_relative_to(root):
        return entry.path.relative_to(root).as_posix()
    return entry.path.name

  def _data(self, entry: ListedImage) -> bytes:
    if self.archive is not None:
      name = entry.path.relative_to(self.archive).as_posix()
      return member(self.archive, name)
    try:
      return pictures.contents(entry.path)
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f'{entry.path} is missing; it is listed in {self.listing}'
      ) from error


def member(archive: Path, name: str) -> bytes:
  """Returns the content of a file in a zip.

  Raises:
    PictureError: It is damaged, encrypted, or too large.
  """
  most = pictures.MAX_FILE_BYTES
  try:
    with _opened(archive).open(name) as file:
      content = file.read(most + 1)
  except _DAMAGED as error:
    raise pictures.PictureError(f'{archive / name}: {error}') from error
  if len(content) > most:
    raise pictures.PictureError(
      f'{archive / name}: got more than {most:,} bytes, expected a picture'
    )
  return content


def _opened(archive: Path) -> zipfile.ZipFile:
  """Opens a zip, whose list of files each thread reads once."""
  status = archive.stat()
  version = archive, status.st_mtime_ns, status.st_size
  if getattr(_zips, 'version', None) != version:
    _zips.opened = zipfile.ZipFile(archive)
    _zips.version = version
  return _zips.opened


def list_names(folder: Path) -> set[str]:
  """Lists a folder, which is faster than testing each file."""
  return set(os.listdir(folder)) if folder.is_dir() else set()


def _locate(entries: Sequence[ListedImage]) -> tuple[ListedImage, ...]:
  """Replaces paths by those of files whose names are the same in NFC."""
  listed = functools.cache(list_names)
  by_nfc = functools.cache(
    lambda folder: {_nfc(name): name for name in listed(folder)}
  )

  def spelled(path: Path) -> Path:
    # Only letters beyond ASCII have more than one form.
    if str(path).isascii() or path.name in listed(path.parent):
      return path
    folder = spelled(path.parent) if path.parent != path else path
    return folder / by_nfc(folder).get(_nfc(path.name), path.name)

  return tuple(
    dataclasses.replace(entry, path=spelled(entry.path)) for entry in entries
  )


def _nfc(name: str) -> str:
  return unicodedata.normalize('NFC', name)


def first(items: Sequence[_T], limit: int | None) -> Sequence[_T]:
  """Returns the first items up to a limit, all if it is None.

  Raises:
    ValueError: The limit is negative, or no integer.
  """
  check_limit(limit)
  return items[:limit]


def check_limit(limit: int | None) -> None:
  """Refuses limits that are neither None nor an integer of at least 0."""
  # NumPy's integers count, too.
  if limit is not None and (not hasattr(limit, '__index__') or limit < 0):
    raise _validate.error('limit', limit, 'an integer of at least 0')


def inside(folder: Path, name: str, where: str) -> Path:
  """Returns the path of a listed file, which must lie in the folder."""
  path = PurePosixPath(name)
  if not name or path.is_absolute() or '..' in path.parts:
    raise _validate.error(where, name, f'a file name inside {folder}')
  return folder / path


def stable_ids(names: Iterable[str]) -> dict[str, int]:
  """Returns ids that stay where pictures are added: the CRC-32 of names."""
  ids: dict[str, int] = {}
  used: set[int] = set()
  for name in names:
    if name in ids:
      continue
    number = zlib.crc32(os.fsencode(name))
    while number in used:
      number = (number + 1) % 2**32
    used.add(number)
    ids[name] = number
  return ids


def clean(captions: Iterable[str]) -> tuple[str, ...]:
  """Puts each caption on a single line; blank ones are left out."""
  lines = (' '.join(caption.split()) for caption in captions)
  return tuple(line for line in lines if line)


def parse(text: str | bytes, where: str) -> dict[str, Any]:
  """Reads a JSON object.

  Args:
    text: JSON.
    where: Name of the text in errors.

  Returns:
    The object.

  Raises:
    ValueError: The text is no JSON, or no object.
  """
  table = _json(text, where)
  if not isinstance(table, dict):
    raise ValueError(
      f'{where} holds a {type(table).__name__}, expected an object {{...}}'
    )
  return table


def parse_list(text: str | bytes, where: str) -> list[Any]:
  """Reads a JSON list; arguments and errors are those of `parse`."""
  items = _json(text, where)
  if not isinstance(items, list):
    raise ValueError(
      f'{where} holds a {type(items).__name__}, expected a list [...]'
    )
  return items


def _json(text: str | bytes, where: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where} is no valid JSON: {error}') from error


def field(table: Any, name: str, kind: type[_T], where: str) -> _T:
  """Returns a field of a JSON object, which must have a type.

  Raises:
    ValueError: The field is missing, or of another type.
  """
  value = table.get(name) if isinstance(table, dict) else None
  if not isinstance(value, kind) or isinstance(value, bool):
    if not isinstance(table, dict):
      got = f'a {type(table).__name__}'
    elif name not in table:
      got = f'an object with {", ".join(map(repr, [*table][:8])) or "nothing"}'
    else:
      got = f'{value!r:.60}'
    raise ValueError(
      f'{where}: got {got}, expected {name!r} to be a {kind.__name__}'
    )
  return value


def missing(folder: Path, names: Iterable[str], kind: str) -> FileNotFoundError:
  """Makes the error that none of these files is in a folder."""
  if not folder.is_dir():
    return FileNotFoundError(f'{folder} is no folder, expected a {kind} in it')
  names = [*names]
  # A folder may have the name of the file.
  listed = [
    f'{name} (a folder)' if name in names and (folder / name).is_dir() else name
    for name in sorted(list_names(folder))[:12]
  ]
  return FileNotFoundError(
    f'{folder} has no {kind}: expected {" or ".join(names)}, there is'
    f' {", ".join(listed) or "nothing"}'
  )
