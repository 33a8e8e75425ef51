"""Parameter trees: names, parts, and reading them array by array.

A format says which arrays a file holds and how each is read into given memory
(`StoredArray`); reading, converting and checking is done here, once for all.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, TypeAlias, cast

from absl import logging
import ml_dtypes
import numpy as np

from collab_jax import _validate

Tree: TypeAlias = Mapping[str, Any]
Window: TypeAlias = tuple[slice, ...]

PutWindows: TypeAlias = Callable[
  [str, tuple[int, ...], Callable[[Window], np.ndarray]], Any
]

# Parts that a process needs: all, the edge's or the server's. The projection to
# the decoder's width is in both, since the split decides which side runs it.
PARTS: dict[str | None, tuple[str, ...]] = {
  None: ('',),
  'edge': ('img/',),
  'server': ('llm/', 'img/head/'),
}

# The embedding table, the one array that may be shorter than the model's.
TABLE = 'llm/embedder/input_embedding'

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Dtypes to which parameters may be converted.
DTYPES = ('float32', 'bfloat16', 'float16')
_SHOWN = 5  # names in an error message
_CHECKED = 1 << 18  # numbers at a time, which stay in a CPU's cache
_ALIGNED = 64  # bytes; XLA takes aligned memory over without a copy


class CheckpointError(ValueError):
  """Raised for a file that is not the expected checkpoint."""


@dataclasses.dataclass(frozen=True)
class StoredArray:
  """An array in a file, not read yet.

  Attributes:
    shape: Its shape.
    dtype: Its dtype in the file.
    fill: Reads it into an array of that shape, in that array's dtype.
    window: Reads a part of it, in its own dtype: a slice with both ends for
      every axis. None where the format has no way to read less than all.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  fill: Callable[[np.ndarray], None]
  window: Callable[[Window], np.ndarray] | None = dataclasses.field(
    default=None, kw_only=True
  )


def flatten(tree: Tree, prefix: str = '') -> dict[str, Any]:
  """Turns nested dicts into {'a/b/c': leaf}, sorted by name."""
  flat = {}
  for name in sorted(tree):
    leaf, path = tree[name], f'{prefix}{name}'
    if isinstance(leaf, Mapping):
      flat |= flatten(leaf, f'{path}/')
    else:
      flat[path] = leaf
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Turns {'a/b/c': leaf} into nested dicts.

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
      raise CheckpointError(f'{path} is an array and a folder, or a duplicate')
    node[name] = leaf
  return tree


def wanted(name: str, part: str | None) -> bool:
  """Whether an array belongs to a part of the model.

  Args:
    name: Path of the array, 'img/...' or 'llm/...'.
    part: A key of `PARTS`.

  Returns:
    True if the part needs the array.

  Raises:
    ValueError: There is no such part.
  """
  _validate.choice('part', part, PARTS)
  return name.startswith(PARTS[part])


def select(tree: Tree, part: str | None) -> dict[str, Any]:
  """Returns the subtree of a part of the model."""
  flat = flatten(tree)
  return unflatten({k: v for k, v in flat.items() if wanted(k, part)})


def floats(dtype: Any) -> bool:
  """Whether a dtype is floating point, such as bfloat16."""
  return np.dtype(dtype) == BFLOAT16 or np.dtype(dtype).kind == 'f'


def as_dtype(dtype: Any, label: str = 'dtype') -> np.dtype | None:
  """Reads the dtype to which parameters are converted.

  Args:
    dtype: One of `DTYPES`, its NumPy dtype or type, or None.
    label: Name of the argument in errors.

  Returns:
    The dtype, in the machine's byte order; or None, to convert nothing.

  Raises:
    ValueError: Another dtype.
  """
  if dtype is None:
    return None
  try:
    name = np.dtype(dtype).name
  except (TypeError, ValueError, SyntaxError):
    name = None
  if name not in DTYPES:
    raise _validate.error(label, dtype, f'one of {", ".join(DTYPES)}')
  return np.dtype(name)


def check_stacked(params: Tree, source: str) -> None:
  """Refuses to write a model whose layers are not stacked.

  Args:
    params: {'img': ..., 'llm': ...}, or any other tree.
    source: Name of the tree in the error.

  Raises:
    CheckpointError: Layers are not stacked; no format holds them so.
  """
  for name, leaf in flatten(params).items():
    if isinstance(leaf, tuple | list):
      raise CheckpointError(
        f'{source}: {name}: got {len(leaf)} unstacked layers, expected stacked'
        " ones; load the model with layout='stacked' to save it"
      )


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Allocates an array that JAX on a CPU takes over without a copy."""
  dtype = np.dtype(dtype)
  size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
  memory = np.empty(size + _ALIGNED, np.uint8)
  start = -memory.ctypes.data % _ALIGNED
  return memory[start : start + size].view(dtype).reshape(shape)


def stack(
  name: str, layers: Mapping[int, StoredArray], source: str
) -> StoredArray:
  """Stacks a tower's layers, which are stored one by one, on axis 0.

  Args:
    name: Name of the layers in errors.
    layers: The arrays by layer.
    source: Name of the file in errors.

  Returns:
    The stacked array, not read yet.

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
        f'{source}: {name}: layer {i}: got {layer.shape}, expected'
        f' {layers[min(layers)].shape} as in the others'
      )
  return join([layer for layer in ordered if layer])


def join(entries: Sequence[StoredArray]) -> StoredArray:
  """Stacks stored arrays of equal shape on a new axis 0."""

  def fill(out: np.ndarray) -> None:
    for i, entry in enumerate(entries):
      entry.fill(out[i])

  def window(index: Window) -> np.ndarray:
    parts = [cast(Any, entry.window)(index[1:]) for entry in entries[index[0]]]
    return np.stack(parts).astype(dtype)

  dtype = functools.reduce(np.promote_types, [e.dtype for e in entries])
  sliced = all(entry.window is not None for entry in entries)
  shape = len(entries), *entries[0].shape
  return StoredArray(shape, dtype, fill, window=window if sliced else None)


def read(
  entries: Mapping[str, StoredArray],
  shapes: Tree | None,
  source: str,
  dtype: Any = None,
  put: Callable[[str, np.ndarray], Any] | None = None,
  orders: Mapping[str, tuple[int, ...]] | None = None,
  put_windows: PutWindows | None = None,
) -> dict[str, Any]:
  """Reads a tree.

  Names and shapes are checked first. Then arrays are read one by one, the
  largest first, so that peak memory is the result and the needs of `put` for
  the largest array.

  Args:
    entries: The arrays of the file.
    shapes: The expected tree, of objects with `.shape` and `.dtype`; None
      takes all arrays.
    source: Name of the file in errors.
    dtype: One of `DTYPES`, converts floating-point arrays; None keeps the
      stored dtype.
    put: Puts each array on a device, put(name, array); None keeps it in NumPy.
    orders: Orders of axes by name of array; arrays are read into memory in
      that order, without another copy.
    put_windows: Puts parts of each array on devices, put_windows(name, shape,
      read), where read(window) reads a part; arrays whose format cannot do
      that are read as a whole. None reads all of them so.

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
    if put_windows is not None and entry.window is not None:
      read_window = _window_reader(
        entry, dtype if convert else None, f'{source}: {name}'
      )
      flat[name] = put_windows(name, entry.shape, read_window)
      continue
    order = (orders or {}).get(name, tuple(range(len(entry.shape))))
    shape = tuple(entry.shape[axis] for axis in order)
    array = empty(shape, dtype if convert else entry.dtype)
    entry.fill(array.transpose(np.argsort(order)))
    check_finite(array, f'{source}: {name}')
    flat[name] = array if put is None else put(name, array)
    del array
  return unflatten(flat)


def _window_reader(
  entry: StoredArray, dtype: np.dtype | None, label: str
) -> Callable[[Window], np.ndarray]:
  """Returns a function that reads, converts and checks a part of an array."""

  def read_window(window: Window) -> np.ndarray:
    part = cast(Any, entry.window)(window)
    part = part.astype(entry.dtype if dtype is None else dtype, copy=False)
    check_finite(part, label)
    return part

  return read_window


def check_finite(array: np.ndarray, label: str) -> None:
  """Refuses weights that are not finite.

  Args:
    array: Any array; integers are finite.
    label: File and name of the array in the error.

  Raises:
    CheckpointError: A number is NaN or infinite.
  """
  if not floats(array.dtype) or array.dtype.itemsize > 4:
    return
  bits = np.dtype(f'u{array.dtype.itemsize}')
  # Numbers that are not finite have all bits of the exponent.
  exponent = np.array(np.inf, array.dtype).view(bits)[()]
  flat = array.ravel(order='K').view(bits)
  for start in range(0, flat.size, _CHECKED):
    block = flat[start : start + _CHECKED] & exponent
    if block.max() == exponent:
      at = start + int(np.argmax(block == exponent))
      raise CheckpointError(
        f'{label}: got {float(flat[at : at + 1].view(array.dtype)[0])},'
        ' expected finite numbers; fetch or write the file again, from a'
        ' training that did not diverge'
      )


def too_short(got: tuple[int, ...], want: tuple[int, ...]) -> bool:
  """Whether a table has the right width and too few rows."""
  return got[1:] == tuple(want[1:]) and 0 < (*got, 0)[0] < want[0]


def grow(
  entry: StoredArray, shape: tuple[int, ...], source: str
) -> StoredArray:
  """Adds the rows that a vocabulary without PaliGemma's own tokens lacks.

  New rows are drawn with a standard deviation of 0.02, as in big_vision.

  Args:
    entry: The embedding table of the file.
    shape: The table's shape in the model.
    source: Name of the file in the log.

  Returns:
    The table, unchanged unless it is `too_short`.
  """
  if not too_short(entry.shape, shape):
    return entry
  rows = entry.shape[0]

  def fill(out: np.ndarray) -> None:
    entry.fill(out[:rows])
    noise = np.random.default_rng(0).standard_normal(out[rows:].shape)
    out[rows:] = 0.02 * noise

  def window(index: Window) -> np.ndarray:
    whole = np.empty(shape, entry.dtype)
    fill(whole)
    return whole[index]

  logging.warning(
    '%s: the vocabulary has %d rows, the model %d; the others are drawn',
    source,
    rows,
    shape[0],
  )
  return StoredArray(tuple(shape), entry.dtype, fill)


def check_shapes(shapes: Tree, params: Tree, source: str) -> None:
  """Compares a tree with the expected one.

  Args:
    shapes: The expected tree, of objects with `.shape` and `.dtype`.
    params: The tree.
    source: Name of the tree in errors.

  Raises:
    CheckpointError: Names, shapes or kinds of numbers differ; lists the first
      differences. Or layers are not stacked.
  """
  check_stacked(params, source)
  check(flatten(shapes), flatten(params), source)


def check(want: Mapping[str, Any], got: Mapping[str, Any], source: str) -> None:
  """Compares flat trees; see `check_shapes`."""
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
  """Describes the difference between an array and the expected one, if any."""
  sizes = ['nothing' if x is None else tuple(x.shape) for x in (got, want)]
  if sizes[0] != sizes[1]:
    return f'got {sizes[0]}, expected {sizes[1]}'
  if floats(want.dtype) and not floats(got.dtype):
    return f'got {got.dtype}, expected floating-point numbers'
  return None


def _size(entry: StoredArray) -> int:
  return int(np.prod(entry.shape, dtype=np.int64)) * entry.dtype.itemsize
