"""Readers of COCO captions and Flickr30k, from folders as downloaded.

COCO: https://cocodataset.org (annotations CC BY 4.0, the pictures under their
owners' Flickr licences). Flickr30k: https://shannon.cs.illinois.edu/
DenotationGraph (pictures on request). The splits that captioning papers
report are those of Karpathy and Fei-Fei (arXiv 1412.2306, section 4):
dataset_coco.json and dataset_flickr30k.json of caption_datasets.zip at
https://cs.stanford.edu/people/karpathy/deepimagesent.
"""

import collections
from collections.abc import Callable
import os
from pathlib import Path
from typing import Any

from collab_jax import _validate
from collab_jax.data import files

# Folders of lists and pictures, relative to the dataset's folder.
_LISTS = ('', 'annotations', 'karpathy', 'caption_datasets')
_PICTURES = ('', 'images')
_FLICKR = ('flickr30k-images', 'flickr30k_images', 'images', '')


def coco(
  folder: str | os.PathLike[str],
  split: str = 'val',
  limit: int | None = None,
  size: int = 224,
  method: str = 'hf_bicubic',
) -> files.Files:
  """Makes a reader of COCO captions.

  Args:
    folder: Holds the pictures in val2014, train2014, ..., and in itself or in
      `annotations` dataset_coco.json or captions_val2014.json.
    split: Karpathy's 'train' (113,287 pictures, 'restval' included),
      'restval', 'val' or 'test' (5,000 each); or COCO's own 'val2014'
      (40,504), 'train2014', 'val2017', 'train2017'. Without
      dataset_coco.json, 'val' and 'train' are those of 2014, and the reader
      and its records are named so.
    limit: Largest number of pictures, in the list's order; None for all.
    size: Side of the pictures in pixels.
    method: Method of resizing, a name in `pictures.METHODS`.

  Returns:
    A reader whose ids are COCO's.

  Raises:
    FileNotFoundError: A list or a picture is missing.
    ValueError: An unknown split; a list that is no JSON or has other fields; a
      picture without captions.
  """
  folder = Path(folder)
  official = {
    path.stem.removeprefix('captions_'): path
    for place in reversed(_LISTS)
    for path in sorted((folder / place).glob('captions_*.json'))
  }
  karpathy = _list(folder, 'dataset_coco.json')
  if split not in official and karpathy is None:
    split = f'{split}2014' if f'{split}2014' in official else split
  if split in official:
    listing = official[split]
    pictures = _first_folder(folder, _PICTURES, split)
    entries = _official(listing, pictures, limit)
  elif karpathy is not None:
    listing = karpathy
    places: dict[str, Path] = {}

    def locate(item, where):
      part = files.field(item, 'filepath', str, where)
      if part not in places:
        files.inside(folder, part, where)
        places[part] = _first_folder(folder, _PICTURES, part)
      name = files.field(item, 'filename', str, where)
      path = files.inside(places[part], name, where)
      return path, files.field(item, 'cocoid', int, where)

    entries = _karpathy(listing, split, limit, locate)
  elif official:
    names = ', '.join(sorted(official))
    raise ValueError(
      f'split: got {split!r}, {folder} has lists of {names}; '
      "splits without a year are Karpathy's and need dataset_coco.json"
    )
  else:
    names = ('dataset_coco.json', 'captions_val2014.json')
    raise files.missing(folder, names, 'list of COCO captions')
  return files.Files(f'coco/{split}', entries, listing, size, method)


def flickr30k(
  folder: str | os.PathLike[str],
  split: str = 'test',
  limit: int | None = None,
  size: int = 224,
  method: str = 'hf_bicubic',
) -> files.Files:
  """Makes a reader of Flickr30k captions in Karpathy's splits.

  Args:
    folder: Holds dataset_flickr30k.json, and the pictures in
      `flickr30k-images`, `flickr30k_images`, `images` or itself.
    split: 'train' (29,000 pictures), 'val' (1,014) or 'test' (1,000).
    limit: Largest number of pictures, in the list's order; None for all.
    size: Side of the pictures in pixels.
    method: Method of resizing, a name in `pictures.METHODS`.

  Returns:
    A reader whose ids are the list's `imgid`.

  Raises:
    FileNotFoundError: The list or a picture is missing.
    ValueError: As `coco`.
  """
  folder = Path(folder)
  listing = _list(folder, 'dataset_flickr30k.json')
  if listing is None:
    raise files.missing(folder, ['dataset_flickr30k.json'], 'list of Flickr30k')
  pictures = _first_folder(folder, _FLICKR)

  def locate(item, where):
    name = files.field(item, 'filename', str, where)
    path = files.inside(pictures, name, where)
    return path, files.field(item, 'imgid', int, where)

  entries = _karpathy(listing, split, limit, locate)
  return files.Files(f'flickr30k/{split}', entries, listing, size, method)


def _list(folder: Path, name: str) -> Path | None:
  paths = (folder / place / name for place in _LISTS)
  return next((path for path in paths if path.is_file()), None)


def _first_folder(folder: Path, places: tuple[str, ...], part='') -> Path:
  """Returns the first of the folders that exists, or the first."""
  folders = [folder / place / part for place in places]
  return next((f for f in folders if f.is_dir()), folders[0])


def _official(
  listing: Path, folder: Path, limit: int | None
) -> tuple[files.ListedImage, ...]:
  """Reads COCO's own list, which has captions apart from pictures."""
  name = str(listing)
  table = files.parse(listing.read_bytes(), name)
  captions = collections.defaultdict(list)
  for i, item in enumerate(files.field(table, 'annotations', list, name)):
    where = f'{name}: annotations[{i}]'
    captions[files.field(item, 'image_id', int, where)].append(
      files.field(item, 'caption', str, where)
    )
  entries = []
  items = files.field(table, 'images', list, name)
  for i, item in enumerate(files.first(items, limit)):
    where = f'{name}: images[{i}]'
    image_id = files.field(item, 'id', int, where)
    file = files.field(item, 'file_name', str, where)
    path = files.inside(folder, file, where)
    entries.append(
      files.ListedImage(path, image_id, files.clean(captions[image_id]))
    )
  return tuple(entries)


def _karpathy(
  listing: Path,
  split: str,
  limit: int | None,
  locate: Callable[[Any, str], tuple[Path, int]],
) -> tuple[files.ListedImage, ...]:
  """Reads Karpathy's list; `locate` returns path and id of a picture."""
  name = str(listing)
  table = files.parse(listing.read_bytes(), name)
  chosen, known = [], set()
  for i, item in enumerate(files.field(table, 'images', list, name)):
    where = f'{name}: images[{i}]'
    splits = {files.field(item, 'split', str, where)}
    if 'restval' in splits:
      splits.add('train')
    known |= splits
    if split in splits:
      chosen.append((item, where))
  if split not in known:
    raise ValueError(
      f'split: got {split!r}, which is not in {name}'
      f'{_validate.suggest(split, known)}'
    )
  entries = []
  for item, where in files.first(chosen, limit):
    path, image_id = locate(item, where)
    sentences = files.field(item, 'sentences', list, where)
    captions = [files.field(s, 'raw', str, where) for s in sentences]
    entries.append(files.ListedImage(path, image_id, files.clean(captions)))
  return tuple(entries)
