"""Tells the formats of checkpoints apart, and reads them all alike."""

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

# What a folder of ours holds.
WEIGHTS, CONFIG = 'model.npz', 'config.json'
# Names under which the vocabulary lies beside the weights: big_vision's last.
VOCABULARIES = (
  hf_tokenizer.MODEL,
  hf_tokenizer.TABLE,
  'paligemma_tokenizer.model',
)


class CheckpointSource(NamedTuple):
  """Where a checkpoint is.

  Attributes:
    format: 'npz', 'huggingface' or 'orbax'.
    weights: The npz, or the folder.
    folder: What holds config and vocabulary; None for an npz of its own.
  """

  format: str
  weights: pathlib.Path
  folder: pathlib.Path | None

  def config(self) -> paligemma.Config | None:
    """The dimensions that the folder says.

    Returns:
      The configuration, or None if there is none.

    Raises:
      ValueError: config.json is not one.
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
    """What `Tokenizer` reads of the folder, if it has a vocabulary.

    Returns:
      The folder, whose tokens may be in more than one file; big_vision's file,
      if that is all there is; or None.
    """
    if self.folder is None:
      return None
    *own, other = (self.folder / name for name in VOCABULARIES)
    if any(path.is_file() for path in own):
      return self.folder
    return other if other.is_file() else None

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
  """Finds out what kind of checkpoint a path is.

  Args:
    path: An npz, or a folder: ours (model.npz, or an Orbax checkpoint in img/
      and llm/), Hugging Face's, or one with a single npz in it.

  Returns:
    Where its parts are.

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
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return (', '.join(names[:5]) or 'nothing') + more


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
    source: From `find`.
    config: The dimensions expected.
    part: A key of `trees.PARTS`; nothing of the rest is read.
    dtype: Converts floating-point arrays; None keeps the stored dtype.
    put: (path, array) -> what becomes of it; None keeps it in NumPy.
    orders: Other orders of axes, see `trees.read`.

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
