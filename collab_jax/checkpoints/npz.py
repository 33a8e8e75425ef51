"""Files of big_vision's format: npz checkpoints.

A checkpoint is a flat npz whose names are paths, 'params/img/head/kernel', with
layers stacked on axis 0; the encoder's may be stored one by one as well.
bfloat16, which NumPy does not know, is stored as two-byte void.
"""

import collections
from collections.abc import Iterator
import contextlib
import lzma
import math
import os
import re
import struct
from typing import Any, cast
import zipfile
import zlib

import jax
import numpy as np

from collab_jax import jsonl
from collab_jax.checkpoints import trees
from collab_jax.checkpoints.trees import CheckpointError

# Prefixes of big_vision's parameters: alone, in a training state, or none.
PREFIXES = ('params/', 'opt/target/', '')

_VOID = np.dtype('V2')
_LAYER = re.compile(r'(img/.*encoderblock)_(0|[1-9]\d{0,3})(/.*)')
_BLOCK = 1 << 20  # numbers read at a time
# Exceptions of zipfile, its decompressors and NumPy on damaged bytes.
_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
_DAMAGE = (
  *_ARCHIVE,
  EOFError,
  OSError,
  OverflowError,
  RuntimeError,
  ValueError,
)
# A deflated byte becomes 1,032 at most.
_RATIO = 1032
# Header before a member's bytes; its last two fields are lengths behind it.
_LOCAL = struct.Struct('<4s5H3I2H')
_LONGEST = 2**48  # numbers on an axis


def load_npz(
  path: str | os.PathLike[str],
  shapes: trees.Tree | None = None,
  dtype: Any = None,
  part: str | None = None,
) -> dict[str, Any]:
  """Reads the parameters of a big_vision npz.

  Names and shapes are checked before any array is read; arrays are then read
  and converted block by block, so that the peak is the result.

  Args:
    path: The file. Its names may begin with 'params/', with 'opt/target/' (a
      training state, whose other entries are left out) or with neither.
    shapes: The expected tree, of objects with `.shape` and `.dtype`; None
      takes all arrays of the file.
    dtype: Converts floating-point arrays; None keeps the stored dtype.
    part: A key of `trees.PARTS`; other arrays are not read.

  Returns:
    Nested dicts of NumPy arrays, bfloat16 as ml_dtypes.bfloat16.

  Raises:
    FileNotFoundError: There is no such file.
    CheckpointError: The file is not an npz, is damaged, holds pickled objects,
      or has other names or shapes than expected.
  """
  with open_npz(path, part) as entries:
    return trees.read(entries, shapes, os.fspath(path), dtype)


@contextlib.contextmanager
def open_npz(
  path: str | os.PathLike[str], part: str | None = None
) -> Iterator[dict[str, trees.StoredArray]]:
  """Opens a big_vision npz; reads its headers only.

  Args:
    path: The file.
    part: A key of `trees.PARTS`; not even headers of other arrays are read.

  Yields:
    The arrays by path without prefix, to be read while the file is open.

  Raises:
    FileNotFoundError: There is no such file.
    CheckpointError: The file is not an npz, is damaged or holds no numbers.
  """
  path = os.fspath(path)
  with _guard(path):
    archive = _open(path)
  with archive:
    with _guard(path):
      entries = _entries(archive, path, part)
    yield entries


def save_npz(
  path: str | os.PathLike[str], params: trees.Tree, prefix: str = 'params/'
) -> None:
  """Writes parameters as big_vision does; the same tree gives the same bytes.

  The file appears complete or not at all.

  Args:
    path: The file; an existing one is replaced.
    params: Nested dicts of arrays, on any device; bfloat16 becomes V2.
    prefix: Prefix of every name.

  Raises:
    CheckpointError: The layers are not stacked.
  """
  path = os.fspath(path)
  trees.check_stacked(params, path)
  arrays = {}
  for name, leaf in trees.flatten(params, prefix).items():
    array = np.asarray(jax.device_get(leaf))
    if array.dtype == trees.BFLOAT16:
      array = array.view(_VOID)
    arrays[name] = array
  partial = f'{path}.partial'
  with jsonl.naming(path), open(partial, 'wb') as file:
    # Numbers alone, so that nothing is pickled; NumPy 2.1 has no flag for it.
    np.savez(file, **arrays)
  os.replace(partial, path)


@contextlib.contextmanager
def _guard(path: str) -> Iterator[None]:
  """Turns exceptions on damaged bytes into a CheckpointError."""
  try:
    yield
  except (CheckpointError, FileNotFoundError, PermissionError):
    raise
  except _DAMAGE as error:
    raise CheckpointError(
      f'{path} is damaged ({error}): fetch or write it again'
    ) from error


def _open(path: str) -> zipfile.ZipFile:
  """Opens an archive; a truncated one has an error of its own."""
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


def _entries(
  archive: zipfile.ZipFile, path: str, part: str | None
) -> dict[str, trees.StoredArray]:
  """Returns the arrays of a part by path, the encoder's layers stacked."""
  members: dict[str, zipfile.ZipInfo] = {}
  for info in archive.infolist():
    name = info.filename.removesuffix('.npy')
    if name in members:
      raise CheckpointError(f'{path} holds {name} twice: write it again')
    members[name] = info
  if not members:
    raise CheckpointError(f'{path} holds no arrays')
  prefix = next(p for p in PREFIXES if any(k.startswith(p) for k in members))
  entries: dict[str, trees.StoredArray] = {}
  layers = collections.defaultdict(dict)
  for member, info in members.items():
    name = member.removeprefix(prefix)
    if not member.startswith(prefix) or not trees.wanted(name, part):
      continue
    entry = _entry(archive, info, path)
    if match := _LAYER.fullmatch(name):
      layers[match[1] + match[3]][int(match[2])] = entry
    else:
      entries[name] = entry
  for name, rows in layers.items():
    if name in entries:
      raise CheckpointError(f'{path}: {name} is stacked and layer by layer')
    entries[name] = trees.stack(name, rows, path)
  return entries


def _entry(
  archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str
) -> trees.StoredArray:
  """Reads the header of an array."""
  name = info.filename.removesuffix('.npy')
  try:
    with archive.open(info) as file:
      shape, fortran, dtype = _header(file)
  except (OSError, *_ARCHIVE):
    raise
  # A header is parsed as Python's text: no list has all that may be raised.
  except Exception as error:
    raise CheckpointError(
      f'{path}: {name} is not a NumPy array ({error!s:.200})'
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
  if not all(type(n) is int and 0 <= n < _LONGEST for n in shape):
    raise CheckpointError(
      f'{path}: {name} says the shape {shape!r:.80}, expected lengths'
    )
  size = int(np.prod(shape, dtype=object)) * dtype.itemsize
  ratio = _RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1
  held_bytes = min(info.compress_size, os.path.getsize(path))
  known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
  if known and info.file_size > ratio * held_bytes + _BLOCK:
    raise CheckpointError(
      f'{path}: {name} claims {info.file_size:,} bytes, more than the'
      f' {held_bytes:,} that are stored can be'
    )
  if not 0 <= size < info.file_size:
    raise CheckpointError(
      f'{path}: {name} says {shape} {dtype}, {size:,} bytes, but '
      f'{info.file_size:,} are stored'
    )
  if dtype == _VOID:
    dtype = trees.BFLOAT16
  # JAX has no long double, and no other byte order than the machine's.
  held = np.dtype(np.float64) if dtype.char == 'g' else dtype.newbyteorder('=')

  def fill(out: np.ndarray) -> None:
    with _guard(path), archive.open(info) as file:
      _header(file)
      if fortran:
        transposed = np.empty(shape[::-1], dtype)
        _stream(file, transposed, dtype)
        out[...] = transposed.T
      else:
        _stream(file, out, dtype)
      # At the end of a member zipfile checks its CRC.
      if file.read(1):
        raise CheckpointError(f'{path}: {name} goes on after its array')

  def window(index: trees.Window) -> np.ndarray:
    with _guard(path):
      start = _data_start(archive, info)
      stored = np.memmap(path, dtype, 'r', start, shape)
      return np.array(stored[index], held)

  # Of a member that is stored as it is, and in the order of its axes.
  plain = info.compress_type == zipfile.ZIP_STORED and not fortran and size
  return trees.StoredArray(shape, held, fill, window=window if plain else None)


def _data_start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
  """Returns where the numbers of a stored member begin in the file."""
  with archive.open(info) as file:
    _header(file)
    header_size = file.tell()
  with open(cast(str, archive.filename), 'rb') as file:
    file.seek(info.header_offset)
    local = file.read(_LOCAL.size)
  name_length, extra_length = _LOCAL.unpack(local)[-2:]
  start = info.header_offset + _LOCAL.size + name_length + extra_length
  return start + header_size


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Reads shape, order and dtype of the array that follows."""
  version = np.lib.format.read_magic(file)
  read = (
    np.lib.format.read_array_header_1_0
    if version == (1, 0)
    else np.lib.format.read_array_header_2_0
  )
  return read(file)


def _stream(file: Any, out: np.ndarray, dtype: np.dtype) -> None:
  """Reads and converts numbers block by block."""
  if not out.flags.c_contiguous and out.ndim > 2:
    for part in out:
      _stream(file, part, dtype)
    return
  rows = out.reshape(-1) if out.flags.c_contiguous else out
  step = max(1, _BLOCK // max(1, math.prod(rows.shape[1:])))
  for start in range(0, len(rows), step):
    block = rows[start : start + step]
    data = file.read(block.size * dtype.itemsize)
    if len(data) < block.size * dtype.itemsize:
      raise EOFError('the array ends early')
    block[...] = np.frombuffer(data, dtype).reshape(block.shape)
