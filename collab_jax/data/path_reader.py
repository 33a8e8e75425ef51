"""Reader of whatever pictures a path holds: a folder, a list, a zip, a picture.

Captions are taken where they are found; pictures without any are read, too.
"""

import csv
import dataclasses
import os
from pathlib import Path, PurePosixPath
import re
import stat
from typing import Any
import zipfile
import zlib

from collab_jax import _validate
from collab_jax.data import (
  coco_flickr,
  files,
  jsonl_folder,
  pictures,
  tfds_reader,
)

# Files with the captions of a folder; 'image,caption' a line, or with a tab or
# a bar between them.
CAPTION_FILES = ('captions.txt', 'captions.tsv', 'captions.csv')
_SHOWN = 3  # Names in a message.


def open_path(
  path: str | os.PathLike[str],
  split: str = 'test',
  limit: int | None = None,
  size: int = 224,
  method: str = 'hf_bicubic',
) -> Any:
  """Makes a reader of the pictures that a path holds.

  A folder may be one of a known dataset, hold a list (`.jsonl`), or hold
  pictures, in folders of their own too, with captions in `captions.txt` (or
  .tsv, .csv) or beside each picture (`cat.txt` of `cat.jpg`). A .zip is read
  like a folder of pictures.

  Args:
    path: A folder, a list, a .zip or a picture.
    split: Name of the list, where a folder has several.
    limit: Largest number of pictures; None for all.
    size: Side of the pictures in pixels.
    method: Method of resizing, a name in `pictures.METHODS`.

  Returns:
    A reader; `found` says in words what the path holds.

  Raises:
    FileNotFoundError: There are no pictures, or a listed one is missing.
    ValueError: A list cannot be read, or names no pictures.
  """
  path = Path(path)
  settings = limit, size, method
  if path.is_dir():
    return _dataset(path, split, *settings) or _pictures(path, *settings)
  if path.suffix.lower() == '.jsonl':
    return _list(path.parent, path.stem, *settings)
  if path.suffix.lower() == '.zip':
    return _pictures(path, *settings)
  entry = files.ListedImage(path, zlib.crc32(os.fsencode(path.name)), ())
  found = 'one picture, without captions'
  return files.Files(
    path.name, (entry,), path, size, method, captioned=False, found=found
  )


def _dataset(folder: Path, split: str, *settings) -> Any:
  """Returns the reader of a known dataset or list in a folder, if it is one."""
  names = files.list_names(folder)
  if names & {'dataset_coco.json', 'annotations'}:
    return coco_flickr.coco(folder, split, *settings)
  if 'dataset_flickr30k.json' in names:
    return coco_flickr.flickr30k(folder, split, *settings)
  if names & {'dataset_info.json', 'features.json'}:
    return tfds_reader.tfds(folder, split, *settings)
  lists = sorted(
    Path(n).stem for n in names if n.endswith('.jsonl') and n[0] != '.'
  )
  if not lists:
    return None
  if split not in lists:
    if len(lists) > 1:
      raise _validate.unknown(f'data_split of {folder}', split, lists)
    (split,) = lists
  return _list(folder, split, *settings)


def _list(folder: Path, name: str, *settings) -> files.Files:
  """Returns the reader of a list, which says how many captions it has."""
  reader = jsonl_folder.jsonl(folder, name, *settings, captioned=False)
  captioned = sum(bool(entry.captions) for entry in reader.entries)
  found = f'{_pictures_text(len(reader))}, {_captions_text(captioned)}'
  return dataclasses.replace(reader, found=f'{found} ({reader.listing.name})')


def _pictures(
  path: Path, limit: int | None, size: int, method: str
) -> files.Files:
  """Makes a reader of the picture files in a folder or a zip."""
  is_zip = path.is_file()
  names = _zip_names(path) if is_zip else _folder_names(path)
  visible = [n for n in names if not _is_hidden(n)]
  shown = [n for n in visible if _suffix(n) in pictures.SUFFIXES]
  if not shown:
    listed = ', '.join(visible[:_SHOWN]) or 'nothing'
    raise FileNotFoundError(
      f'{path} has no pictures: expected files that end in'
      f' {", ".join(pictures.SUFFIXES)}, there is {listed}'
    )
  captions, sources, unknown = _captions(path, visible, shown)
  used = {*shown, *sources}
  others = [n for n in visible if n not in used]
  taken = files.first(shown, limit)
  ids = files.stable_ids(shown)
  entries = tuple(
    files.ListedImage(path / n, ids[n], files.clean(captions.get(n, ())))
    for n in taken
  )
  captioned = sum(bool(entry.captions) for entry in entries)
  parts = [_pictures_text(len(shown)), _captions_text(captioned)]
  if captioned:
    parts[-1] += f' ({_sources_text(sources)})'
  if len(taken) < len(shown):
    parts[0] = f'the first {len(taken):,} of {parts[0]}'
  if others:
    parts.append(f'{len(others):,} skipped: {_names_text(others)}')
  if unknown:
    parts.append(f'captions of no picture here: {_names_text(unknown)}')
  return files.Files(
    path.resolve().name,
    entries,
    path,
    size,
    method,
    captioned=False,
    found=', '.join(parts),
    archive=path if is_zip else None,
  )


def _folder_names(folder: Path) -> list[str]:
  return sorted(
    path.relative_to(folder).as_posix()
    for path in folder.rglob('*')
    if path.is_file()
  )


def _zip_names(path: Path) -> list[str]:
  """Returns the names of a zip's files that stay inside of it, and are files.

  Raises:
    ValueError: It is no zip.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      infos = archive.infolist()
  except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
    raise ValueError(
      f'data: got {path}, expected a zip of pictures: {error}'
    ) from error
  return sorted(
    {
      info.filename
      for info in infos
      if not info.is_dir()
      and not stat.S_ISLNK(info.external_attr >> 16)
      and not {'..', ''} & {*info.filename.split('/')}
    }
  )


def _is_hidden(name: str) -> bool:
  """Whether a name is hidden, or a Mac's own within a zip."""
  return any(n.startswith('.') or n == '__MACOSX' for n in name.split('/'))


def _suffix(name: str) -> str:
  return PurePosixPath(name).suffix.lower()


def _captions(
  path: Path, names: list[str], shown: list[str]
) -> tuple[dict[str, list[str]], list[str], list[str]]:
  """Returns captions by picture, the files with them, and unknown names."""
  known, images = set(names), set(shown)
  captions: dict[str, list[str]] = {}
  sources: dict[str, None] = {}  # In their order.
  unknown: dict[str, None] = {}
  for name in CAPTION_FILES:
    if name not in known:
      continue
    sources[name] = None
    for number, line in enumerate(_text(path, name).splitlines()):
      picture, caption = _split_line(line)
      if picture in images:
        captions.setdefault(picture, []).append(caption)
      elif number and picture:  # The first line may be a heading.
        unknown[picture] = None
  for picture in shown:
    beside = str(PurePosixPath(picture).with_suffix('.txt'))
    if beside in known and beside not in sources and picture not in captions:
      sources[beside] = None
      captions[picture] = _text(path, beside).splitlines()
  return captions, [*sources], [*unknown]


def _text(path: Path, name: str) -> str:
  """Returns the text of a file in a folder or a zip.

  Raises:
    ValueError: It is no UTF-8.
  """
  if path.is_dir():
    content = pictures.contents(path / name)
  else:
    content = files.member(path, name)
  try:
    return content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path / name}: got bytes that are no UTF-8 ({error.reason}), expected'
      ' captions; save it as UTF-8'
    ) from error


def _split_line(line: str) -> tuple[str, str]:
  """Splits 'cat.jpg,A cat.', at a tab, a bar or a comma; else ('', '')."""
  for between in '\t|':
    if between in line:
      name, _, caption = line.partition(between)
      break
  else:
    cells = next(csv.reader([line]), [])
    if len(cells) < 2:
      return '', ''
    name, caption = cells[0], ','.join(cells[1:])
  # As in Flickr8k's lists: 'cat.jpg#0'.
  return re.sub(r'#\d+$', '', name.strip()), caption.strip()


def _pictures_text(count: int) -> str:
  return f'{count:,} picture{"" if count == 1 else "s"}'


def _captions_text(count: int) -> str:
  return f'{count:,} with captions' if count else 'without captions'


def _sources_text(sources: list[str]) -> str:
  beside = [n for n in sources if n not in CAPTION_FILES]
  lists = [n for n in sources if n in CAPTION_FILES]
  return ', '.join([*lists, *([f'{len(beside):,} .txt files'] * bool(beside))])


def _names_text(names: list[str]) -> str:
  more = ', ...' if len(names) > _SHOWN else ''
  return ', '.join(names[:_SHOWN]) + more
