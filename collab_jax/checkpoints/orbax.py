"""Folders of the package's own with an Orbax checkpoint for each tower.

  img/, llm/        arrays by big_vision's names
  config.json       fields that `paligemma.Config.from_dict` reads
  tokenizer.model   the vocabulary

The edge needs a folder without `llm`.
"""

import importlib
import os
import pathlib
from typing import Any

import jax
import numpy as np

from collab_jax.checkpoints import trees
from collab_jax.checkpoints.trees import CheckpointError

TOWERS = ('img', 'llm')
_METADATA = '_METADATA'
# Exceptions of Orbax and TensorStore on damaged files.
_DAMAGE = (ValueError, TypeError, AttributeError, KeyError, OSError)


def _library() -> Any:
  """Imports Orbax when it is used: it takes as long as all other imports."""
  return importlib.import_module('orbax.checkpoint')


def is_folder(path: str | os.PathLike[str]) -> bool:
  """Whether a folder holds a tower in this format."""
  return any((pathlib.Path(path) / t / _METADATA).exists() for t in TOWERS)


def entries(
  folder: str | os.PathLike[str], part: str | None = None
) -> dict[str, trees.StoredArray]:
  """Finds the arrays of a folder; only metadata are read.

  Args:
    folder: The folder.
    part: A key of `trees.PARTS`; a tower without arrays of the part may be
      missing.

  Returns:
    The arrays by path; a missing tower has none.

  Raises:
    CheckpointError: The metadata are damaged.
  """
  arrays: dict[str, trees.StoredArray] = {}
  for tower in TOWERS:
    path = pathlib.Path(folder).absolute() / tower
    if not (path / _METADATA).exists():
      continue
    try:
      metadata = _library().PyTreeCheckpointer().metadata(path).item_metadata
      described = trees.flatten(metadata.tree, f'{tower}/')
      for name, array in described.items():
        if trees.wanted(name, part):
          arrays[name] = _entry(path, name, array)
    except _DAMAGE as error:
      raise _damaged(path, error) from error
  return arrays


def _damaged(path: pathlib.Path, error: Exception) -> CheckpointError:
  # The library's own mistakes on damaged files do not describe the file.
  internal = isinstance(error, TypeError | AttributeError | KeyError)
  first = '' if internal else (str(error).splitlines() or [''])[0]
  return CheckpointError(
    f'{path} is damaged, cut short or not an Orbax checkpoint'
    f'{f" ({first})" if first else ""}: write it again'
  )


def _entry(path: pathlib.Path, name: str, array: Any) -> trees.StoredArray:
  """Describes an array, which is restored by itself."""
  below = name.partition('/')[2]

  def tree(leaf: Any) -> dict[str, Any]:
    return trees.unflatten({below: leaf})

  def fill(out: np.ndarray) -> None:
    ocp = _library()
    try:
      restored = ocp.PyTreeCheckpointer().restore(
        path,
        args=ocp.args.PyTreeRestore(
          item=tree(0),
          restore_args=tree(ocp.RestoreArgs(restore_type=np.ndarray)),
          partial_restore=True,
        ),
      )
      out[...] = trees.flatten(restored)[below]
    except _DAMAGE as error:
      raise _damaged(path, error) from error

  return trees.StoredArray(tuple(array.shape), np.dtype(array.dtype), fill)


def save(folder: str | os.PathLike[str], params: trees.Tree) -> None:
  """Writes the towers.

  Args:
    folder: Made if missing; a tower in it is replaced.
    params: {'img': ..., 'llm': ...} or one of them, written in their dtype.

  Raises:
    CheckpointError: The layers are not stacked.
  """
  trees.check_stacked(params, os.fspath(folder))
  ocp = _library()
  folder = pathlib.Path(folder).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  for tower, arrays in params.items():
    arrays = jax.tree.map(np.asarray, jax.device_get(arrays))
    ocp.PyTreeCheckpointer().save(
      folder / tower, args=ocp.args.PyTreeSave(arrays), force=True
    )
