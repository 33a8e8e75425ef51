"""Parameter trees: their names, their parts, and reading them array by array.

A format says which arrays a file holds and how each is read into given memory
(`StoredArray`); reading, converting and checking is done here, once for all.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, TypeAlias

from absl import logging
import ml_dtypes
import numpy as np

Tree: TypeAlias = Mapping[str, Any]

# What a process needs: all of it, what the edge runs, or what the server runs.
# The projection to the decoder's width is run by either, as the cut demands.
PARTS: dict[str | None, tuple[str, ...]] = {
  None: ('',),
  'edge': ('img/',),
  'server': ('llm/', 'img/head/'),
}

# The embedding table, the one array that may be shorter than the model's.
TABLE = 'llm/embedder/input_embedding'

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# What parameters may be converted to.
DTYPES = ('float32', 'bfloat16', 'float16')
_SHOWN = 5  # names in an error message
_ALIGNED = 64  # bytes, from which XLA takes memory over without a copy


class CheckpointError(ValueError):
  """A file is not the checkpoint that was asked for."""


@dataclasses.dataclass(frozen=True)
class StoredArray:
  """An array in a file, not read yet.

  Attributes:
    shape: Its shape.
    dtype: As which it is stored.
    fill: Writes it into an array of that shape, in that array's dtype.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  fill: Callable[[np.ndarray], None]


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


def wanted(name: str, part: str | None) -> bool:
  """Whether an array belongs to a part of the model.

  Args:
    name: Its path, 'img/...' or 'llm/...'.
    part: A key of `PARTS`.

  Returns:
    True if the part needs it.

  Raises:
    ValueError: There is no such part.
  """
  if part not in PARTS:
    raise ValueError(f'part: got {part!r}, expected one of {list(PARTS)}')
  return name.startswith(PARTS[part])


def select(tree: Tree, part: str | None) -> dict[str, Any]:
  """The subtree that a part of the model needs."""
  flat = flatten(tree)
  return unflatten({k: v for k, v in flat.items() if wanted(k, part)})


def floats(dtype: Any) -> bool:
  """Whether a dtype is floating point, bfloat16 among them."""
  return np.dtype(dtype) == BFLOAT16 or np.dtype(dtype).kind == 'f'


def as_dtype(dtype: Any, what: str = 'dtype') -> np.dtype | None:
  """Reads the dtype that parameters are to be converted to.

  Args:
    dtype: One of `DTYPES`, what NumPy takes for one, or None.
    what: What an error calls it.

  Returns:
    It, in the machine's byte order; or None, to convert nothing.

  Raises:
    ValueError: It is something else.
  """
  if dtype is None:
    return None
  try:
    name = np.dtype(dtype).name
  except (TypeError, ValueError, SyntaxError):
    name = None
  if name not in DTYPES:
    raise ValueError(
      f'{what}: got {dtype!r}, expected one of {", ".join(DTYPES)}'
    )
  return np.dtype(name)


def check_stacked(params: Tree, source: str) -> None:
  """Refuses to write a model whose layers are apart.

  Args:
    params: {'img': ..., 'llm': ...}, or any other tree.
    source: What to call it in the error.

  Raises:
    CheckpointError: No format holds them so.
  """
  for name, leaf in flatten(params).items():
    if isinstance(leaf, tuple | list):
      raise CheckpointError(
        f'{source}: {name} are {len(leaf)} layers apart, expected stacked '
        "ones: load the model with layout='stacked' to save it"
      )


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Memory for an array, which JAX on a CPU takes over without a copy."""
  dtype = np.dtype(dtype)
  size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
  memory = np.empty(size + _ALIGNED, np.uint8)
  start = -memory.ctypes.data % _ALIGNED
  return memory[start : start + size].view(dtype).reshape(shape)


def stack(
  name: str, layers: Mapping[int, StoredArray], source: str
) -> StoredArray:
  """Joins the layers of a tower, which are stored one by one, on axis 0.

  Args:
    name: What they are called, for the error.
    layers: The arrays by layer.
    source: The file, for the error.

  Returns:
    The stacked array, which is not read yet either.

  Raises:
    CheckpointError: A layer is missing, or has another shape than the first.
  """
  ordered = [layers.get(i) for i in range(max(layers) + 1)]
  for i, layer in enumerate(ordered):
    if layer is None:
      raise CheckpointError(
        f'{source}: {name}: layer {i} of {len(ordered)} is missing'
      )
    if layer.shape != layers[min(layers)].shape:
      raise CheckpointError(
        f'{source}: {name}: layer {i} is {layer.shape}, expected '
        f'{layers[min(layers)].shape} as in the others'
      )
  return join([layer for layer in ordered if layer])


def join(entries: Sequence[StoredArray]) -> StoredArray:
  """Stacks entries of one shape on a new axis 0."""

  def fill(out: np.ndarray) -> None:
    for i, entry in enumerate(entries):
      entry.fill(out[i])

  dtype = functools.reduce(np.promote_types, [e.dtype for e in entries])
  return StoredArray((len(entries), *entries[0].shape), dtype, fill)


def read(
  entries: Mapping[str, StoredArray],
  shapes: Tree | None,
  source: str,
  dtype: Any = None,
  put: Callable[[str, np.ndarray], Any] | None = None,
  orders: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Any]:
  """Reads a tree.

  Names and shapes are checked first. Then arrays are read one by one, the
  largest first, so that the peak is the result and what `put` needs for one of
  them while the others are still unread.

  Args:
    entries: What the file holds.
    shapes: The tree expected, of anything with `.shape` and `.dtype`; None
      takes whatever there is.
    source: What to call the file in an error.
    dtype: One of `DTYPES`, converts floating-point arrays; None keeps the
      stored dtype.
    put: What becomes of each array, put(name, array): a copy on a device.
    orders: Arrays, by name, that are wanted with their axes in another order;
      they are written into memory in that order, with no copy in between.

  Returns:
    Nested dicts.

  Raises:
    CheckpointError: Names or shapes differ from those expected, or the file is
      damaged.
    ValueError: An unknown dtype.
  """
  dtype = as_dtype(dtype)
  if shapes is not None:
    want = flatten(shapes)
    entries = dict(entries)
    if TABLE in entries and TABLE in want:
      entries[TABLE] = grow(entries[TABLE], want[TABLE].shape, source)
    check(want, entries, source)
  flat = dict.fromkeys(sorted(entries))
  for name, entry in sorted(entries.items(), key=lambda e: -_size(e[1])):
    convert = dtype is not None and floats(entry.dtype)
    order = (orders or {}).get(name, tuple(range(len(entry.shape))))
    shape = tuple(entry.shape[axis] for axis in order)
    array = empty(shape, dtype if convert else entry.dtype)
    entry.fill(array.transpose(np.argsort(order)))
    flat[name] = array if put is None else put(name, array)
    del array
  return unflatten(flat)


def too_short(got: tuple[int, ...], want: tuple[int, ...]) -> bool:
  """Whether a table has the right width and too few rows."""
  return got[1:] == tuple(want[1:]) and 0 < (*got, 0)[0] < want[0]


def grow(
  entry: StoredArray, shape: tuple[int, ...], source: str
) -> StoredArray:
  """Adds rows that a vocabulary without PaliGemma's own tokens lacks.

  They are drawn with a standard deviation of 0.02, as big_vision draws them.

  Args:
    entry: The embedding table of the file.
    shape: The table's shape in the model.
    source: The file, for the log.

  Returns:
    The entry itself, unless it is `too_short`.
  """
  if not too_short(entry.shape, shape):
    return entry
  rows = entry.shape[0]

  def fill(out: np.ndarray) -> None:
    entry.fill(out[:rows])
    noise = np.random.default_rng(0).standard_normal(out[rows:].shape)
    out[rows:] = 0.02 * noise

  logging.warning(
    '%s: the vocabulary has %d rows, the model %d; the others are drawn',
    source,
    rows,
    shape[0],
  )
  return StoredArray(tuple(shape), entry.dtype, fill)


def check_shapes(shapes: Tree, params: Tree, source: str) -> None:
  """Compares a tree with the one expected.

  Args:
    shapes: The tree expected, of anything with `.shape` and `.dtype`.
    params: The tree at hand.
    source: What to call it in the error.

  Raises:
    CheckpointError: Names, shapes or kinds of numbers differ; lists the first
      of them. Or the decoder's layers are apart.
  """
  check_stacked(params, source)
  check(flatten(shapes), flatten(params), source)


def check(want: Mapping[str, Any], got: Mapping[str, Any], source: str) -> None:
  """Like `check_shapes`, of flat trees."""
  problems = [
    f'{name}: {fault}'
    for name in sorted({**want, **got})
    if (fault := _fault(want.get(name), got.get(name)))
  ]
  if not problems:
    return
  if len(problems) == 1:
    raise CheckpointError(f'{source} does not fit the config: {problems[0]}')
  shown = problems[:_SHOWN]
  if len(problems) > _SHOWN:
    shown.append(f'and {len(problems) - _SHOWN} more')
  raise CheckpointError(
    f'{source} does not fit the config: {len(problems)} of {len(want)} arrays '
    'differ\n  ' + '\n  '.join(shown)
  )


def _fault(want: Any, got: Any) -> str | None:
  """What is wrong with an array, if anything is."""
  sizes = ['nothing' if x is None else tuple(x.shape) for x in (got, want)]
  if sizes[0] != sizes[1]:
    return f'got {sizes[0]}, expected {sizes[1]}'
  if floats(want.dtype) and not floats(got.dtype):
    return f'got {got.dtype}, expected floating-point numbers'
  return None


def _size(entry: StoredArray) -> int:
  return int(np.prod(entry.shape, dtype=np.int64)) * entry.dtype.itemsize
