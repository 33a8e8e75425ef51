"""Readers of datasets by name."""

import os
from pathlib import Path
import re
from typing import Any

from collab_jax import _validate, registry
from collab_jax.data import (
  coco_flickr,
  generated,
  jsonl_folder,
  path_reader,
  photographs,
  tfds_reader,
)

# Datasets that need no folder.
SHIPPED = ('scenes', 'photos')
# Readers of folders.
NAMES = {
  'coco': coco_flickr.coco,
  'flickr30k': coco_flickr.flickr30k,
  'jsonl': jsonl_folder.jsonl,
  'tfds': tfds_reader.tfds,
}


def make(
  name: str,
  folder: str | os.PathLike[str] = '',
  split: str = 'test',
  limit: int | None = None,
  size: int = 224,
  method: str = 'hf_bicubic',
) -> Any:
  """Makes a reader.

  Args:
    name: A name in `SHIPPED` or `NAMES`; the path of a folder, a list, a .zip
      or a picture, see `path_reader`; or 'package.module:Class', a dataset of
      one's own whose fields are the other arguments.
    folder: Folder of the dataset; '' for those in `SHIPPED` and for a path.
    split: A split of the dataset.
    limit: Largest number of pictures; None for all.
    size: Side in pixels of the pictures; those of 'scenes' have 64.
    method: Method of resizing, a name in `METHODS`.

  Returns:
    A reader with `name`, `__len__` and `__getitem__(int) -> Example`.

  Raises:
    ValueError: An unknown name, no folder, or the reader's own errors.
  """
  if not isinstance(name, str | os.PathLike):
    raise _validate.error('data', name, 'a name or a path', kind=TypeError)
  name = os.fspath(name)
  if name not in (*SHIPPED, *NAMES):
    if ':' in name and not Path(name).exists():
      own = registry.find({}, 'data', name)
      return own(folder, split, limit, size, method)
    if Path(name).exists():
      return path_reader.open_path(name, split, limit, size, method)
    raise _unknown(name)
  if name == 'scenes':
    return generated.scenes(split, limit)
  if name == 'photos':
    _validate.choice('split', split, ['test'])
    return photographs.photos(limit, size, method)
  if not os.fspath(folder):
    raise ValueError(
      f'data_dir: is empty, expected the folder of {name}, as in '
      f'--config.data_dir=/path/to/{name}'
    )
  return NAMES[name](folder, split, limit, size, method)


def check_name(name: str) -> None:
  """Raises ValueError for a name of no dataset; paths may be elsewhere.

  Args:
    name: As of `make`; a path, with a folder or an ending, is taken as it is.
  """
  is_name = re.fullmatch(r'\w*', name) and not Path(name or '?').exists()
  if is_name and name not in (*SHIPPED, *NAMES):
    raise _unknown(name)


def _unknown(name: str) -> ValueError:
  """Returns the error of a name of no dataset."""
  return _validate.unknown(
    'data',
    name,
    (*SHIPPED, *NAMES),
    'the path of a folder, a list, a .zip or a picture',
  )
