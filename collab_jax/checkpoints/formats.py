"""Formats of checkpoints: finding out which a path has, and reading it."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from collab_jax import jsonl
from collab_jax.checkpoints import huggingface, npz, orbax, shards, trees
from collab_jax.models import (
  hf_tokenizer,
  paligemma,
)

# Files of a folder in the package's own format.
WEIGHTS, CONFIG = 'model.npz', 'config.json'
# Files of the vocabulary beside the weights, big_vision's last.
VOCABULARIES = (
  hf_tokenizer.MODEL,
  hf_tokenizer.TABLE,
  'paligemma_tokenizer.model',
)


class CheckpointSource(NamedTuple):
  """Files of a checkpoint.

  Attributes:
    format: 'npz', 'huggingface' or 'orbax'.
    weights: The npz, or the folder.
    folder: Folder of config and vocabulary; None for a single npz.
  """

  format: str
  weights: pathlib.Path
  folder: pathlib.Path | None

  def config(self) -> paligemma.Config | None:
    """Reads the dimensions in the folder.

    Returns:
      The configuration, or None if there is none.

    Raises:
      ValueError: config.json is no configuration.
      FileNotFoundError: A Hugging Face folder has no config.json.
    """
    if self.folder is None:
      return None
    if self.format == 'huggingface':
      return huggingface.read_config(self.folder)
    path = self.folder / CONFIG
    if not path.exists():
      return None
    fields = shards.read_json(path)
    if 'text_config' in fields:
      return huggingface.read_config(self.folder)
    return paligemma.Config.from_dict(fields)

  def vocabulary(self) -> pathlib.Path | None:
    """Finds the vocabulary that `Tokenizer` reads.

    Returns:
      The folder, whose tokens may be in more than one file; big_vision's file,
      if it is the only one; or None.
    """
    if self.folder is None:
      return None
    *paths, big_vision = (self.folder / name for name in VOCABULARIES)
    if any(path.is_file() for path in paths):
      return self.folder
    return big_vision if big_vision.is_file() else None

  @contextlib.contextmanager
  def open(
    self, config: paligemma.Config, part: str | None
  ) -> Iterator[dict[str, trees.StoredArray]]:
    """Finds the arrays of a part; yields them by path."""
    if self.format == 'npz':
      with npz.open_npz(self.weights, part) as entries:
        yield entries
    elif self.format == 'orbax':
      yield orbax.entries(self.weights, part)
    else:
      yield huggingface.entries(self.weights, config, part)


def find(path: str | os.PathLike[str]) -> CheckpointSource:
  """Finds out the format of a checkpoint.

  Args:
    path: An npz, or a folder: the package's own (model.npz, or an Orbax
      checkpoint in img/ and llm/), Hugging Face's, or one with a single npz.

  Returns:
    Its format and files.

  Raises:
    FileNotFoundError: There is no checkpoint.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'no such checkpoint: {path}')
  if not path.is_dir():
    return CheckpointSource('npz', path, None)
  if (path / WEIGHTS).exists():
    return CheckpointSource('npz', path / WEIGHTS, path)
  if orbax.is_folder(path):
    return CheckpointSource('orbax', path, path)
  if (path / shards.INDEX).exists() or any(path.glob('*.safetensors')):
    return CheckpointSource('huggingface', path, path)
  files = sorted(path.glob('*.npz'))
  if len(files) == 1:
    return CheckpointSource('npz', files[0], path)
  raise FileNotFoundError(
    f'{path} holds no checkpoint: expected {WEIGHTS}, one npz, '
    f'{shards.SINGLE} or {shards.INDEX}, or Orbax folders '
    f'{" and ".join(orbax.TOWERS)}; got {_listing(path)}'
  )


def _listing(path: pathlib.Path) -> str:
  names = sorted(p.name for p in path.iterdir())
  suffix = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return (', '.join(names[:5]) or 'nothing') + suffix


def read(
  source: CheckpointSource,
  config: paligemma.Config,
  part: str | None = None,
  dtype: Any = None,
  put: Callable[[str, np.ndarray], Any] | None = None,
  orders: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Any]:
  """Reads parameters in any format.

  Args:
    source: Result of `find`.
    config: The expected dimensions.
    part: A key of `trees.PARTS`; other arrays are not read.
    dtype: Converts floating-point arrays; None keeps the stored dtype.
    put: (path, array) -> array on a device; None keeps NumPy arrays.
    orders: Orders of axes, see `trees.read`.

  Returns:
    big_vision's tree, or the part of it.

  Raises:
    CheckpointError: The file is damaged, or not the config's.
    FileNotFoundError: A file is missing.
  """
  shapes = trees.select(paligemma.shapes(config), part)
  with source.open(config, part) as entries:
    return trees.read(entries, shapes, str(source.weights), dtype, put, orders)


def write_config(
  folder: pathlib.Path, config: paligemma.Config | dict[str, Any]
) -> None:
  """Writes config.json as `CheckpointSource.config` reads it."""
  if isinstance(config, paligemma.Config):
    config = config.to_dict()
  jsonl.write_json(folder / CONFIG, config)
