"""Books as safetensors files, and what tells that one is whole."""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np
import safetensors
from safetensors import numpy as files

from collab_jax import jsonl

FORMAT = 'collab_jax book 1'
# In place of a transform: there is one, and the file does not say which.
SOME = 'unknown'

# No book is larger; a header may claim anything.
_LARGEST = 2**31


class QuantizerParamsError(ValueError):
  """A book that is missing, damaged, or for other vectors."""


@dataclasses.dataclass(frozen=True)
class QuantizerParams:
  """What a file holds.

  Attributes:
    kind: What it is for: 'linear', 'codebook', 'places' or 'scales'.
    width: Numbers of each vector that it is for.
    model: Fingerprint of the image encoder whose features it was trained on;
      '' for any.
    split: Where the features were taken, 'encoder' or 'head'; '' for any.
    transform: In whose coordinates the vectors are, as `PCA.coordinates` says
      it; '' for the features' own, `SOME` if it is not known which.
    fingerprint: Of the arrays and their names.
    arrays: By name; not to be written to.
    notes: How it was made, in words.
  """

  kind: str
  width: int
  model: str
  split: str
  transform: str
  fingerprint: str
  arrays: Mapping[str, np.ndarray]
  notes: Mapping[str, str]


def write(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes a file, at once; of equal books to the byte the same.

  Args:
    path: Where; its folder is made.
    arrays: What it holds.
    metadata: What it says of them, but for format and fingerprint.
  """
  arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
  kind, width = metadata['kind'], int(metadata['width'])
  told = {
    **metadata,
    'format': FORMAT,
    'fingerprint': fingerprint(kind, width, arrays),
  }
  data = files.save(arrays, told)
  # The header comes in any order.
  end = 8 + int.from_bytes(data[:8], 'little')
  header = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()
  header += b' ' * (-len(header) % 8)
  length = len(header).to_bytes(8, 'little')
  jsonl.write_atomically(path, length + header + data[end:])


@functools.lru_cache(maxsize=32)
def read(path: str, changed: int, size: int) -> QuantizerParams:
  """Reads a file, once.

  Args:
    path: Where it is.
    changed: When it was written; another time means another file.
    size: Its bytes.

  Raises:
    BookError: It is damaged, or no book.
  """
  del changed
  if size > _LARGEST:
    raise QuantizerParamsError(
      f'{path}: {size} bytes, a book has less than {_LARGEST}'
    )
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise QuantizerParamsError(
      f'{path} is damaged or no safetensors: {error}'
    ) from error
  if metadata.get('format') != FORMAT:
    raise QuantizerParamsError(
      f'{path} is no book: its metadata say format'
      f' {metadata.get("format")!r}, expected {FORMAT!r}'
    )
  kind, width = metadata.get('kind', ''), metadata.get('width', '')
  number = int(width) if width.isdecimal() and len(width) < 8 else 0
  found = fingerprint(kind, number, arrays)
  if found != metadata.get('fingerprint'):
    raise QuantizerParamsError(
      f'{path} is damaged: its fingerprint is {found}, expected'
      f' {metadata.get("fingerprint")}; get it anew'
    )
  for value in arrays.values():
    value.setflags(write=False)
  return QuantizerParams(
    kind,
    number,
    metadata.get('model', ''),
    metadata.get('split', ''),
    metadata.get('transform', SOME if metadata.get('notes.transform') else ''),
    found,
    arrays,
    {
      k.removeprefix('notes.'): v
      for k, v in metadata.items()
      if k.startswith('notes.')
    },
  )


def fingerprint(kind: str, width: int, arrays: Mapping[str, np.ndarray]) -> str:
  """Returns what arrays are known by."""
  digest = hashlib.sha256(f'{kind} {width}'.encode())
  for name in sorted(arrays):
    value = arrays[name]
    digest.update(f'{name} {value.dtype} {value.shape}'.encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]
