"""Safetensors files of Hugging Face: their tensors and index.

Names are canonical here: 'model.vision_tower.vision_model.post_layernorm.bias'
is 'vision_tower.post_layernorm.bias'.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import math
import pathlib
import re
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from collab_jax.checkpoints import trees
from collab_jax.checkpoints.trees import CheckpointError
from collab_jax.models import feature_statistics

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
_VARIANT = re.compile(
  r'model\.safetensors\.index\.([\w-]+)\.json'
  r'|model\.([\w-]+?)(?:-\d{5}-of-\d{5})?\.safetensors'
  r'|model-\d{5}-of-\d{5}\.([\w-]+)\.safetensors'
)
# Canonical names of an output layer, which files may have.
HEADS = ('lm_head.weight', 'language_model.lm_head.weight')

_SPELLING = re.compile(
  r'(?:model\.)?'
  r'(?:(vision_tower\.)(?:vision_model\.)?|(language_model\.)(?:model\.)?)?'
)
# Prefixes of a part's tensors; see `trees.PARTS`.
_PARTS = {
  None: ('',),
  'edge': ('vision_tower.', 'multi_modal_projector.'),
  'server': ('language_model.', 'multi_modal_projector.', *HEADS[:1]),
}
# Buffers in old files, which are no parameters.
_BUFFERS = ('embeddings.position_ids', 'rotary_emb.inv_freq')
_DTYPES = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': ml_dtypes.bfloat16,
  'I64': np.int64,
  'I32': np.int32,
  'I16': np.int16,
  'I8': np.int8,
  'U8': np.uint8,
  'BOOL': np.bool_,
}
_BLOCK = 1 << 26  # bytes copied at a time
_JSON = 1 << 26  # bytes of a JSON file, some hundred times the largest index


@dataclasses.dataclass(frozen=True)
class Tensor(trees.StoredArray):
  """A tensor in a safetensors file, not read yet.

  Attributes:
    rows: (start, stop) -> the rows of a tensor with at least one axis.
  """

  rows: Callable[[int, int], np.ndarray]


def canonical(name: str) -> str:
  """Returns the canonical name of any of four spellings."""
  return _SPELLING.sub(lambda m: m[1] or m[2] or '', name, count=1)


def released(name: str) -> str:
  """Returns the spelling of 2024 of a canonical name."""
  name = re.sub(r'^vision_tower\.', 'vision_tower.vision_model.', name)
  return re.sub(r'^language_model\.', 'language_model.model.', name)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON file that holds a dict.

  Raises:
    FileNotFoundError: There is no such file.
    CheckpointError: The file is something else.
  """
  if not path.exists():
    raise FileNotFoundError(f'{path} is missing')
  if not path.is_file():
    raise CheckpointError(f'{path} is a folder or device, expected a JSON file')
  if path.stat().st_size > _JSON:
    raise CheckpointError(
      f'{path} has {path.stat().st_size:,} bytes, expected at most {_JSON:,}'
    )
  try:
    fields = json.loads(path.read_text('utf-8-sig'))
  except (ValueError, RecursionError) as error:
    raise CheckpointError(f'{path} is not a JSON file: {error}') from error
  if not isinstance(fields, dict):
    raise CheckpointError(
      f'{path} holds a {type(fields).__name__}, expected a dict'
    )
  return fields


def spelled(name: str, variant: str | None) -> str:
  """Returns the name of a variant's file: 'model.fp16.safetensors'."""
  stem, _, suffix = name.rpartition('.')
  return f'{stem}.{variant}.{suffix}' if variant else name


def weights_of(
  folder: pathlib.Path, variant: str | None = None
) -> pathlib.Path | None:
  """Finds the file that says where a folder's weights are.

  The order is transformers': a single file before an index, which may be of an
  earlier save.

  Args:
    folder: The folder.
    variant: 'fp16' and the like; None for the files without a variant.

  Returns:
    The single file or the index; None if neither is there.
  """
  for name in (SINGLE, INDEX):
    path = folder / spelled(name, variant)
    if path.exists():
      return path
  return None


def unnamed(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns files of weights that no index names, of no variant or adapter."""
  return sorted(
    path
    for path in folder.glob('*.safetensors')
    if not path.name.startswith('adapter_')
    and path.name != feature_statistics.FILE
    and variant_of(path) is None
  )


def variant_of(path: pathlib.Path) -> str | None:
  """Returns the variant in a file's name, if it has one."""
  match = _VARIANT.fullmatch(path.name)
  return next(filter(None, match.groups()), None) if match else None


def find(
  folder: pathlib.Path, part: str | None, variant: str | None = None
) -> dict[str, Tensor]:
  """Finds the tensors of a part of the model, in one file or many.

  Args:
    folder: The folder.
    part: A key of `trees.PARTS`; files without tensors of the part are not
      opened, and may be missing.
    variant: See `weights_of`.

  Returns:
    The tensors by canonical name, not read yet.

  Raises:
    FileNotFoundError: There are no safetensors.
    CheckpointError: A file is missing, damaged, or differs from the index.
  """
  index = weights_of(folder, variant)
  if index is None:
    paths = unnamed(folder) if variant is None else []
    if not paths:
      raise FileNotFoundError(f'{folder} holds no safetensors')
    wanted: dict[pathlib.Path, list[str] | None] = {**dict.fromkeys(paths)}
  elif index.suffix == '.json':
    wanted = {**_indexed(index, part)}
  else:
    wanted = {index: None}
  tensors: dict[str, Tensor] = {}
  for path, names in wanted.items():
    with _Opened(path) as file:
      known = set(file.keys())
      for name in known if names is None else names:
        if name not in known:
          raise CheckpointError(
            f'{index}: {name} is not in {path.name}: the files are not of one'
            ' checkpoint'
          )
        if _wanted(name, part):
          if canonical(name) in tensors:
            raise CheckpointError(f'{path}: {canonical(name)} is a duplicate')
          tensors[canonical(name)] = _entry(file, name, path)
  return tensors


def read_file(path: pathlib.Path) -> dict[str, Tensor]:
  """Finds the tensors of one file by the names that it has.

  Raises:
    FileNotFoundError: There is no such file.
    CheckpointError: The file is damaged.
  """
  with _Opened(path) as file:
    names = [*file.keys()]
    return {name: _entry(file, name, path) for name in names}


def belongs(name: str, part: str | None) -> bool:
  """Whether a tensor of a canonical name belongs to a part of the model."""
  return name.startswith(_PARTS[part])


def _wanted(name: str, part: str | None) -> bool:
  name = canonical(name)
  return name.startswith(_PARTS[part]) and not name.endswith(_BUFFERS)


def _indexed(
  index: pathlib.Path, part: str | None
) -> dict[pathlib.Path, list[str]]:
  """Returns the files of an index, and the names of their tensors."""
  weights = read_json(index).get('weight_map')
  if not isinstance(weights, dict) or not weights:
    raise CheckpointError(f'{index} has no weight_map: write it again')
  files: dict[pathlib.Path, list[str]] = {}
  for name, file in weights.items():
    inside = isinstance(file, str) and 0 < len(file) < 256 and file != '..'
    if not inside or pathlib.PurePath(file).name != file:
      raise CheckpointError(
        f'{index} names the file {file!r}, expected one beside it'
      )
    if _wanted(name, part):
      files.setdefault(index.parent / file, []).append(name)
  missing = [path.name for path in files if not path.exists()]
  if missing:
    raise CheckpointError(
      f'{index} names {", ".join(missing[:5])}, of which there '
      f'{"is no file" if len(missing) == 1 else "are no files"} in the folder: '
      'fetch what is missing'
    )
  return files


class _Opened:
  """A safetensors file, mapped into memory while it is open."""

  def __init__(self, path: pathlib.Path):
    self._path = path

  def __enter__(self) -> Any:
    try:
      self._file = safetensors.safe_open(self._path, framework='numpy')
      return self._file.__enter__()
    except FileNotFoundError:
      raise
    except (safetensors.SafetensorError, OSError) as error:
      raise CheckpointError(
        f'{self._path} is truncated, damaged or not a safetensors file '
        f'({error}): fetch or write it again'
      ) from error

  def __exit__(self, *error: Any) -> None:
    self._file.__exit__(*error)


def _entry(file: Any, name: str, path: pathlib.Path) -> Tensor:
  """Describes a tensor, for which the file is opened again.

  The pages of a mapped file that were read count as resident memory, so the
  file is mapped for a single tensor only.
  """
  header = file.get_slice(name)
  shape, kind = tuple(header.get_shape()), header.get_dtype()
  if kind not in _DTYPES:
    raise CheckpointError(
      f'{path}: {name} is stored as {kind}, expected one of {list(_DTYPES)}'
    )

  def fill(out: np.ndarray) -> None:
    with _Opened(path) as opened:
      tensor = opened.get_slice(name)
      if out.shape[1:] != shape[1:] or out.ndim != len(shape) or not shape:
        out[...] = tensor[:].reshape(out.shape)
        return
      row = max(1, out[:1].nbytes)
      step = max(1, _BLOCK // row)
      for start in range(0, len(out), step):
        stop = min(start + step, len(out))
        out[start:stop] = tensor[start:stop]

  def rows(start: int, stop: int) -> np.ndarray:
    with _Opened(path) as opened:
      return opened.get_slice(name)[start:stop]

  def window(index: trees.Window) -> np.ndarray:
    with _Opened(path) as opened:
      return np.array(opened.get_slice(name)[index])

  return Tensor(
    shape, np.dtype(_DTYPES[kind]), fill, rows, window=window if shape else None
  )


def check_tied(head: Tensor, table: Tensor, source: str) -> None:
  """Compares the output layer with the table, block by block.

  Args:
    head: The output layer, which may have more rows.
    table: The table, all of whose rows are compared.
    source: Name of the folder in errors.

  Raises:
    CheckpointError: Output layer and table differ: the model is no PaliGemma.
  """
  rows, *width = table.shape
  step = max(1, _BLOCK // (table.dtype.itemsize * max(1, math.prod(width))))
  tied = list(head.shape[1:]) == width and (*head.shape, 0)[0] >= rows
  for start in range(0, rows, step):
    stop = min(start + step, rows)
    tied = tied and _equal(*(x.rows(start, stop) for x in (head, table)))
  if not tied:
    raise CheckpointError(
      f'{source}: lm_head.weight {head.shape} is not embed_tokens.weight '
      f'{table.shape}; PaliGemma ties them, and an output layer of its own is '
      'not supported'
    )


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
  """Whether numbers are equal in float32; NaNs are equal, too."""
  a, b = a.astype(np.float32), b.astype(np.float32)
  return np.array_equal(a, b, equal_nan=True)


def plan(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
  """Distributes tensors over files.

  Args:
    sizes: Bytes by name.
    limit: Most bytes in a file, unless a single tensor has more.

  Returns:
    Names by file.
  """
  groups: list[list[str]] = [[]]
  used = 0
  for name, size in sizes.items():
    if groups[-1] and used + size > limit:
      groups.append([])
      used = 0
    groups[-1].append(name)
    used += size
  if len(groups) == 1:
    return {SINGLE: groups[0]}
  n = len(groups)
  return {
    f'model-{i + 1:05d}-of-{n:05d}.safetensors': group
    for i, group in enumerate(groups)
  }


def write_index(
  folder: pathlib.Path, sizes: Mapping[str, int], limit: int
) -> None:
  """Writes the index, if there is more than one file."""
  files = plan(sizes, limit)
  if SINGLE in files:
    return
  index = {
    'metadata': {'total_size': sum(sizes.values())},
    'weight_map': {
      released(name): file for file, names in files.items() for name in names
    },
  }
  (folder / INDEX).write_text(json.dumps(index, indent=1) + '\n')
