"""Reader of a folder of pictures with a JSONL list."""

import os
from pathlib import Path
from typing import Any

from collab_jax import _validate
from collab_jax.data import files


def jsonl(
  folder: str | os.PathLike[str],
  split: str = 'test',
  limit: int | None = None,
  size: int = 224,
  method: str = 'hf_bicubic',
  captioned: bool = True,
) -> files.Files:
  """Makes a reader of pictures in a folder, listed with their captions.

  A line of the list; the id may be left out in all lines, and is then the
  line's number from 0:

    {"image": "beach/01.jpg", "captions": ["A dog.", "A wet dog."], "id": 7}

  Args:
    folder: Holds `<split>.jsonl` and the pictures, named from the folder.
    split: Name of the list.
    limit: Largest number of pictures; None for all.
    size: Side of the pictures in pixels.
    method: Method of resizing, a name in `pictures.METHODS`.
    captioned: Whether each line must have captions.

  Returns:
    A reader named by the folder and the split.

  Raises:
    FileNotFoundError: The list or a picture is missing.
    ValueError: A line is no JSON or has other fields; a picture has no
      captions.
  """
  folder = Path(folder)
  listing = folder / f'{split}.jsonl'
  if not listing.is_file():
    known = [path.stem for path in folder.glob('*.jsonl')]
    if known:
      raise ValueError(
        f'split: got {split!r}, but there is no {listing}'
        f'{_validate.suggest(split, known)}'
      )
    raise files.missing(folder, [listing.name], 'list of pictures')
  lines = [
    (number, line)
    for number, line in enumerate(listing.read_bytes().splitlines(), 1)
    if line.strip()
  ]
  entries = []
  numbered = False
  for index, (number, line) in enumerate(files.first(lines, limit)):
    where = f'{listing}:{number}'
    item = files.parse(line, where)
    path = files.inside(folder, files.field(item, 'image', str, where), where)
    captions = [] if _lacks(item, captioned) else _captions(item, where)
    if index and ('id' in item) != numbered:
      raise ValueError(f"{where}: expected an 'id' in all lines or in none")
    numbered = 'id' in item
    image_id = files.field(item, 'id', int, where) if numbered else index
    entries.append(files.ListedImage(path, image_id, files.clean(captions)))
  name = f'{folder.resolve().name}/{split}'
  return files.Files(name, tuple(entries), listing, size, method, captioned)


def _lacks(item: dict[str, Any], captioned: bool) -> bool:
  """Whether a line lacks captions, and may."""
  return not captioned and not item.get('captions')


def _captions(item: dict[str, Any], where: str) -> list[str]:
  """Returns the captions of a line, which may be a single string."""
  captions = item.get('captions')
  if isinstance(captions, str):
    return [captions]
  if isinstance(captions, list) and all(isinstance(c, str) for c in captions):
    return captions
  raise ValueError(
    f"{where}: got {captions!r:.60}, expected 'captions' to be a list of texts"
  )
