"""Reads and writes big_vision's npz checkpoints.

A checkpoint is a flat npz whose names are paths, 'params/img/head/kernel', with
layers stacked on axis 0. bfloat16, which NumPy does not know, is stored as
two-byte void.
"""

from collections.abc import Iterator, Mapping
import lzma
import os
import struct
from typing import Any, TypeAlias
import zipfile
import zlib

import jax
import ml_dtypes
import numpy as np

# Where big_vision keeps parameters: alone, in a training state, or bare.
PREFIXES = ('params/', 'opt/target/', '')

Tree: TypeAlias = Mapping[str, Any]
_VOID = np.dtype('V2')
_SHOWN = 5  # names in an error message
# What zipfile, its decompressors and NumPy raise on broken bytes.
_DAMAGE = (
  zipfile.BadZipFile,
  zlib.error,
  lzma.LZMAError,
  struct.error,
  EOFError,
  OSError,
  OverflowError,
  RuntimeError,
  ValueError,
)


class CheckpointError(ValueError):
  """A file is not the checkpoint that was asked for."""


def flatten(tree: Tree, prefix: str = '') -> dict[str, Any]:
  """Nested dicts to {'a/b/c': leaf}, names sorted."""
  flat = {}
  for name in sorted(tree):
    leaf, path = tree[name], f'{prefix}{name}'
    if isinstance(leaf, Mapping):
      flat |= flatten(leaf, f'{path}/')
    else:
      flat[path] = leaf
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{'a/b/c': leaf} to nested dicts.

  Args:
    flat: Leaves by path.

  Returns:
    The tree.

  Raises:
    CheckpointError: A name is both a leaf and a folder.
  """
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *folders, name = path.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
      if not isinstance(node, dict):
        raise CheckpointError(f'{path}: {folder} is an array and a folder')
    if name in node:
      raise CheckpointError(f'{path} is an array and a folder, or there twice')
    node[name] = leaf
  return tree


def load_npz(
  path: str | os.PathLike[str],
  shapes: Tree | None = None,
  dtype: Any = None,
) -> dict[str, Any]:
  """Reads the parameters of a big_vision npz.

  Names and shapes are checked before any array is read; arrays are then read
  and converted one by one, so that the peak is the result and one array.

  Args:
    path: The file. Its names may begin with 'params/', with 'opt/target/' (a
      training state, whose other entries are left out) or with neither.
    shapes: The tree expected, of anything with a `.shape`; None takes whatever
      the file holds.
    dtype: Converts floating-point arrays; None keeps the stored dtype.

  Returns:
    Nested dicts of NumPy arrays, bfloat16 as ml_dtypes.bfloat16.

  Raises:
    FileNotFoundError: There is no such file.
    CheckpointError: It is not an npz, is damaged, holds pickled objects, or
      its names or shapes are not the ones expected.
  """
  path = os.fspath(path)
  try:
    with _open(path) as archive:
      members = dict(_members(archive, path))
      prefix = next(
        p for p in PREFIXES if any(k.startswith(p) for k in members)
      )
      members = {
        name.removeprefix(prefix): member
        for name, member in members.items()
        if name.startswith(prefix)
      }
      if shapes is not None:
        want = {name: tuple(x.shape) for name, x in flatten(shapes).items()}
        _check(
          want, {name: shape for name, (_, shape) in members.items()}, path
        )
      return unflatten(
        {
          name: _cast(_read(archive, info, path), dtype)
          for name, (info, _) in members.items()
        }
      )
  except (CheckpointError, FileNotFoundError, PermissionError):
    raise
  except _DAMAGE as error:
    raise CheckpointError(
      f'{path} is damaged ({error}): fetch or write it again'
    ) from error


def save_npz(
  path: str | os.PathLike[str], params: Tree, prefix: str = 'params/'
) -> None:
  """Writes parameters as big_vision does; the same tree gives the same bytes.

  The file appears complete or not at all.

  Args:
    path: Where to; an existing file is replaced.
    params: Nested dicts of arrays, on any device; bfloat16 becomes V2.
    prefix: In front of every name.
  """
  path = os.fspath(path)
  arrays = {}
  for name, leaf in flatten(params, prefix).items():
    array = np.asarray(jax.device_get(leaf))
    if array.dtype == ml_dtypes.bfloat16:
      array = array.view(_VOID)
    arrays[name] = array
  partial = f'{path}.partial'
  with open(partial, 'wb') as file:
    np.savez(file, allow_pickle=False, **arrays)
  os.replace(partial, path)


def _open(path: str) -> zipfile.ZipFile:
  """Opens an archive, telling a cut one from something else."""
  with open(path, 'rb') as file:
    magic = file.read(4)
  try:
    return zipfile.ZipFile(path)
  except zipfile.BadZipFile as error:
    if magic == b'PK\x03\x04':
      raise CheckpointError(
        f'{path} is truncated at {os.path.getsize(path):,} bytes: fetch or '
        'write it again'
      ) from error
    raise CheckpointError(
      f'{path} is not an npz file: it begins with {magic!r}, expected '
      "b'PK\\x03\\x04'"
    ) from error


def _members(
  archive: zipfile.ZipFile, path: str
) -> Iterator[tuple[str, tuple[zipfile.ZipInfo, tuple[int, ...]]]]:
  """Yields name, place and shape of every array, reading headers only."""
  if not archive.infolist():
    raise CheckpointError(f'{path} holds no arrays')
  for info in archive.infolist():
    name = info.filename.removesuffix('.npy')
    try:
      with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = (
          np.lib.format.read_array_header_1_0
          if version == (1, 0)
          else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    except (ValueError, SyntaxError, TypeError) as error:
      raise CheckpointError(
        f'{path}: {name} is not a NumPy array ({error})'
      ) from error
    if dtype.hasobject:
      raise CheckpointError(
        f'{path}: {name} is pickled objects, which are never read; expected '
        'an array of numbers'
      )
    if dtype != _VOID and dtype.kind not in 'fiub':
      raise CheckpointError(
        f'{path}: {name} is {dtype}, expected numbers or V2 (bfloat16)'
      )
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not 0 <= size < info.file_size:
      raise CheckpointError(
        f'{path}: {name} says {shape} {dtype}, {size:,} bytes, but '
        f'{info.file_size:,} are stored'
      )
    yield name, (info, shape)


def _read(
  archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str
) -> np.ndarray:
  """Reads one array to the end of its member, where zipfile checks the CRC."""
  with archive.open(info) as file:
    array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
      raise CheckpointError(f'{path}: {info.filename} goes on after its array')
  return array


def check_shapes(shapes: Tree, params: Tree, source: str) -> None:
  """Compares a tree with the one expected.

  Args:
    shapes: The tree expected, of anything with a `.shape`.
    params: The tree at hand.
    source: What to call it in the error.

  Raises:
    CheckpointError: Names or shapes differ; lists the first of them.
  """
  _check(_shapes(shapes), _shapes(params), source)


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
  return {name: tuple(leaf.shape) for name, leaf in flatten(tree).items()}


def _check(
  want: dict[str, tuple[int, ...]], got: dict[str, tuple[int, ...]], path: str
) -> None:
  """Compares names and shapes with the ones expected."""
  problems = [
    f'{name}: got {got.get(name, "nothing")}, expected '
    f'{want.get(name, "nothing")}'
    for name in sorted(want | got)
    if want.get(name) != got.get(name)
  ]
  if not problems:
    return
  shown = problems[:_SHOWN]
  if len(problems) > _SHOWN:
    shown.append(f'and {len(problems) - _SHOWN} more')
  raise CheckpointError(
    f'{path} does not fit the config: {len(problems)} of {len(want)} arrays '
    'differ\n  ' + '\n  '.join(shown)
  )


def _cast(array: np.ndarray, dtype: Any) -> np.ndarray:
  """Names bfloat16 and converts floating-point arrays."""
  if array.dtype == _VOID:
    array = array.view(ml_dtypes.bfloat16)
  bfloat16 = array.dtype == ml_dtypes.bfloat16
  if dtype is None or not (bfloat16 or array.dtype.kind == 'f'):
    return array
  return array.astype(np.dtype(dtype))
