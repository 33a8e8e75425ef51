"""Sharding of a model over a mesh with the axes 'data' and 'model'.

Parameters are split over 'model' by rules on their paths, batches over 'data'
by rows. Within a layer each device computes its own heads and its own part of
the MLP, and the devices add up what they have (Shoeybi et al., arXiv
1909.08053); the embedding table is split by its rows. Only the placement
changes: batches are put on the mesh of the parameters.
"""

from collections.abc import Callable, Sequence
import functools
import hashlib
import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import jax
from jax import numpy as jnp
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)
from jaxtyping import Array, Bool, Int, Num
import numpy as np

from collab_jax import _renamed, _validate, distributed, random_keys

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

AXES = ('data', 'model')

# A pattern of paths, and the mesh axis that splits each dimension.
Rule: TypeAlias = tuple[str, tuple[str | None, ...]]

# The first pattern that matches a path is used. Layers are stacked on axis 0,
# which is never split: a step needs all layers in sequence.
RULES: tuple[Rule, ...] = (
  # [V M], [L Q M E], [L 2 K M E], [L Q E M], [L 2 M F], [L F M]
  (r'^llm/embedder/input_embedding$', ('model',)),
  (r'^llm/layers/attn/q_einsum/w$', (None, 'model')),
  (r'^llm/layers/attn/kv_einsum/w$', (None, None, 'model')),
  (r'^llm/layers/attn/attn_vec_einsum/w$', (None, 'model')),
  (r'^llm/layers/mlp/gating_einsum$', (None, None, None, 'model')),
  (r'^llm/layers/mlp/linear$', (None, 'model')),
  # [L D Q E] and [L Q E], [L Q E D], [L D F] and [L F], [L F D]
  (r'^img/.*/(query|key|value)/kernel$', (None, None, 'model')),
  (r'^img/.*/(query|key|value)/bias$', (None, 'model')),
  (r'^img/.*/out/kernel$', (None, 'model')),
  (r'^img/.*/Dense_0/kernel$', (None, None, 'model')),
  (r'^img/.*/Dense_0/bias$', (None, 'model')),
  (r'^img/.*/Dense_1/kernel$', (None, 'model')),
  # Norms, biases, positions, the patches' kernel, the projection: small.
  (r'', ()),
)

_T = TypeVar('_T')


def make_mesh(data: int = 1, model: int = 1) -> Mesh:
  """Arranges devices in a mesh.

  Args:
    data: Number of devices over which the rows of a batch are spread; -1 for
      all that `model` leaves.
    model: Number of devices over which the parameters are split.

  Returns:
    The mesh, of the first data * model devices.

  Raises:
    ValueError: A size that is no integer or below 1, more devices than there
      are, or fewer than those of several processes.
  """
  if not _validate.is_integer(data) or (data < 1 and data != -1):
    raise _validate.error('mesh.data', data, 'at least 1, or -1 for all')
  if not _validate.is_integer(model) or model < 1:
    raise _validate.error('mesh.model', model, 'at least 1')
  devices = jax.devices()
  wanted = max(data, 1) * model
  if wanted > len(devices):
    kind = devices[0].platform
    hint = ''
    if kind == 'cpu':
      count = f'--xla_force_host_platform_device_count={wanted}'
      hint = f'; XLA_FLAGS={count} makes as many of a CPU'
    raise ValueError(
      f'mesh: got data={data}, model={model}, expected a product of at most'
      f' {len(devices)}, the number of devices ({kind}){hint}'
    )
  if data == -1:
    data = len(devices) // model
  if distributed.number() > 1 and data * model < len(devices):
    raise ValueError(
      f'mesh: got data={data}, model={model}, expected a product of'
      f' {len(devices)}, the devices of all {distributed.number()} processes,'
      ' each of which takes part'
    )
  return arrange(devices, data, model)


def arrange(devices: Sequence[Any], data: int, model: int) -> Mesh:
  """Arranges devices in a mesh of given sizes.

  Args:
    devices: Devices of a machine or topology, the first of which are used.
    data: Size of the axis 'data'.
    model: Size of the axis 'model'.
  """
  # By default the axes would be explicit, which the models are not written for.
  types, used = (AxisType.Auto,) * len(AXES), list(devices[: data * model])
  try:
    return jax.make_mesh((data, model), AXES, types, devices=used)
  except (AssertionError, NotImplementedError):
    # JAX arranges a TPU's chips by their places, and not three of four.
    grid = np.array(used).reshape(data, model)
    return Mesh(grid, AXES, axis_types=types)


def sizes(mesh: Mesh | None) -> dict[str, int]:
  """Returns the size of each axis of a mesh; None is a single device."""
  return dict(mesh.shape) if mesh else dict.fromkeys(AXES, 1)


def describe(mesh: Mesh | None) -> str:
  """Returns the devices of a mesh in words, '8 devices: mesh 8 x 1'.

  Args:
    mesh: The mesh; None for a single device.
  """
  count, there = mesh.size if mesh else 1, len(jax.devices())
  used = f'{count}' if count == there else f'{count} of {there}'
  plural = '' if there == 1 else 's'
  hosts = distributed.number()
  of_hosts = f' of {hosts} processes' if hosts > 1 else ''
  shape = ' x '.join(str(size) for size in sizes(mesh).values())
  return f'{used} device{plural}{of_hosts}: mesh {shape}'


def spec(
  path: str,
  shape: Sequence[int],
  mesh: Mesh | AbstractMesh,
  rules: Sequence[Rule] = RULES,
) -> PartitionSpec:
  """Returns the partition of an array by the rules.

  Args:
    path: Path of the array, 'llm/layers/mlp/linear'.
    shape: Shape of the array.
    mesh: The mesh.
    rules: Rules, the first of which whose pattern matches the path is used.

  Returns:
    The axis of each dimension. A dimension that an axis does not divide, such
    as a single key-value head, is replicated on every device.

  Raises:
    ValueError: No rule matches the path; or the rule has more dimensions than
      the array, or an axis that the mesh does not have.
  """
  rule = next((r for r in rules if re.search(r[0], path)), None)
  if rule is None:
    raise ValueError(
      f"{path}: no sharding rule is for it, expected one; ('', ()) at the end"
      ' keeps whatever is left whole'
    )
  pattern, axes = rule
  if len(axes) > len(shape):
    raise ValueError(
      f'{path}: got shape {tuple(shape)}, expected at least {len(axes)}'
      f' dimensions, as in the sharding rule {pattern!r}: {axes}'
    )
  for axis in axes:
    if axis is not None and axis not in mesh.shape:
      raise ValueError(
        f'sharding rule {pattern!r}: got the axis {axis!r}, expected one of'
        f' {tuple(mesh.shape)}'
      )
  return PartitionSpec(
    *(
      axis if axis is not None and size % mesh.shape[axis] == 0 else None
      for axis, size in zip(axes, shape, strict=False)
    )
  )


def put(
  path: str,
  array: Any,
  mesh: Mesh | None,
  rules: Sequence[Rule] = RULES,
) -> jax.Array:
  """Places an array, and waits for the copy: the caller may free its memory.

  Args:
    path: Path of the array, for the rules.
    array: The array; each device gets only its part.
    mesh: The mesh; None for JAX's default device.
    rules: See `spec`.

  Returns:
    The array on its devices.
  """
  if mesh is None:
    # A CPU takes the memory over, where `jnp.asarray` would copy it.
    return jax.block_until_ready(jax.device_put(array))
  where = NamedSharding(mesh, spec(path, array.shape, mesh, rules))
  return jax.block_until_ready(_put(array, where))


def put_windows(
  path: str,
  shape: tuple[int, ...],
  read: Callable[[tuple[slice, ...]], np.ndarray],
  mesh: Mesh,
  rules: Sequence[Rule] = RULES,
) -> jax.Array:
  """Places an array, of which each process reads what its devices hold.

  Args:
    path: Path of the array, for the rules.
    shape: Shape of the array.
    read: Reads a part: a slice with both ends for every axis.
    mesh: The mesh.
    rules: See `spec`.

  Returns:
    The array on its devices.
  """
  parts: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

  def part(index):
    ends = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    if ends not in parts:
      parts[ends] = read(tuple(slice(*end) for end in ends))
    return parts[ends]

  where = NamedSharding(mesh, spec(path, shape, mesh, rules))
  return jax.block_until_ready(
    jax.make_array_from_callback(tuple(shape), where, part)
  )


def _put(array: Any, where: NamedSharding) -> jax.Array:
  """Places an array that every process has as a whole."""
  if where.is_fully_addressable or not _is_local(array):
    return jax.device_put(array, where)
  # `jax.device_put` would compare the arrays of all processes.
  host = np.asarray(array)
  return jax.make_array_from_callback(host.shape, where, lambda i: host[i])


def _is_local(array: Any) -> bool:
  """Whether an array lies in this process alone, on its host or devices."""
  return not isinstance(array, jax.Array) or array.is_fully_addressable


def place(tree: _T, mesh: Mesh, rules: Sequence[Rule] = RULES) -> _T:
  """Spreads a parameter tree {'img': ..., 'llm': ...} over a mesh."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: put(_name(path), x, mesh, rules), tree
  )


def replicate(tree: _T, mesh: Mesh | None) -> _T:
  """Copies to every device what does not lie on the mesh yet.

  Args:
    tree: Arrays, some of them on the mesh, such as a state of a training.
    mesh: The mesh; None returns the tree unchanged.

  Returns:
    The tree, all of it on the mesh.
  """
  if mesh is None:
    return tree
  everywhere = NamedSharding(mesh, PartitionSpec())

  def leaf(x):
    where = getattr(x, 'sharding', None)
    lies_there = isinstance(where, NamedSharding) and where.mesh == mesh
    return x if lies_there else _put(x, everywhere)

  return jax.tree.map(leaf, tree)


def abstract(
  tree: Any,
  mesh: Mesh | AbstractMesh,
  dtype: Any = None,
  rules: Sequence[Rule] = RULES,
) -> Any:
  """Returns shapes and shardings of a tree, without its numbers.

  Args:
    tree: Objects with `.shape` and `.dtype`, such as `paligemma.shapes`.
    mesh: The mesh, with devices or without.
    dtype: Dtype in the place of the tree's; None keeps it.
    rules: See `spec`.

  Returns:
    A tree of `jax.ShapeDtypeStruct` with their shardings, from which programs
    can be lowered and compiled.
  """

  def leaf(path, x):
    where = NamedSharding(mesh, spec(_name(path), x.shape, mesh, rules))
    return jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=where)

  return jax.tree_util.tree_map_with_path(leaf, tree)


def device_bytes(array: Any) -> int:
  """Returns the bytes of an array, real or abstract, on each device."""
  shape = array.sharding.shard_shape(tuple(array.shape))
  return math.prod(shape) * array.dtype.itemsize


def mesh_of(params: Any) -> Mesh | None:
  """Returns the mesh of parameters, or None for a single device."""
  for leaf in jax.tree.leaves(params)[:1]:
    where = getattr(leaf, 'sharding', None)
    if isinstance(where, NamedSharding) and isinstance(where.mesh, Mesh):
      return where.mesh
  return None


def divides(mesh: Mesh, rows: int) -> bool:
  """Whether a batch of so many rows, of all processes, is spread."""
  return rows % mesh.shape.get('data', 1) == 0


def padded(rows: int, params: Any) -> int:
  """Rounds a number of rows up to one that is spread evenly."""
  mesh = mesh_of(params)
  size = mesh.shape.get('data', 1) if mesh else 1
  return -(-rows // size) * size


def spans_processes(mesh: Mesh | None) -> bool:
  """Whether a mesh has devices of several processes."""
  return mesh is not None and mesh.is_multi_process


def process_rows(mesh: Mesh | None, count: int) -> Int[np.ndarray, ' b']:
  """Returns which rows of a batch lie on devices of this process.

  Args:
    mesh: The mesh; without one, or in a single process, these are all.
    count: Number of rows of all processes, which 'data' divides.

  Returns:
    Their indices, ascending.
  """
  if mesh is None or not spans_processes(mesh):
    return np.arange(count)
  if not divides(mesh, count):
    raise _validate.error(
      'rows', count, f'a multiple of {mesh.shape["data"]}, the mesh over data'
    )
  size = count // mesh.shape['data']
  places = _places(mesh)
  return (places[:, None] * size + np.arange(size)).ravel()


def process_part(batch: _T, mesh: Mesh | None) -> _T:
  """Cuts the rows of this process out of a batch that every process has."""
  if not spans_processes(mesh):
    return batch
  return jax.tree.map(lambda x: x[process_rows(mesh, len(x))], batch)


def owned_rows(mesh: Mesh | None, count: int) -> Bool[np.ndarray, ' b']:
  """Returns which of its `process_rows` this process answers for.

  With parameters spread over processes a row lies in several of them.
  """
  if mesh is None or not spans_processes(mesh):
    return np.ones(count, bool)
  size = count // mesh.shape['data']
  owners = [
    min(d.process_index for d in _column(mesh, place))
    for place in _places(mesh)
  ]
  return np.repeat(np.array(owners) == jax.process_index(), size)


def _column(mesh: Mesh, place: int) -> list[Any]:
  """Returns the devices of a place on 'data'."""
  axis = mesh.axis_names.index('data')
  return [*np.take(mesh.devices, place, axis).flat]


def _places(mesh: Mesh) -> np.ndarray:
  """Returns the places on 'data' where this process has devices."""
  mine = jax.process_index()
  return np.array(
    [
      place
      for place in range(mesh.shape['data'])
      if any(d.process_index == mine for d in _column(mesh, place))
    ]
  )


def row_count(batch: Any) -> int:
  """Returns how many rows of an array this process has."""
  if _is_local(batch):
    return len(batch)
  if batch.sharding.spec[:1] == ('data',):
    mesh = batch.sharding.mesh
    return len(batch) // mesh.shape['data'] * len(_places(mesh))
  return len(batch)


def rows(batch: _T, params: Any) -> _T:
  """Puts a batch on the parameters' mesh, its rows spread over 'data'.

  Rows that 'data' does not divide are replicated: the same numbers, no faster
  than on a single device; so is what has no rows, such as a single key. Of a
  mesh over several processes each gives the rows of its own devices (see
  `process_rows`); rows that do not fill these are replicated, and must be the
  same in all processes.

  Args:
    batch: A tree of arrays with rows on the first axis.
    params: The parameters; on a single device the batch is returned unchanged.

  Returns:
    The batch.
  """
  mesh = mesh_of(params)
  if mesh is None:
    return batch
  if spans_processes(mesh):
    return jax.tree.map(functools.partial(_process_rows_put, mesh), batch)

  def leaf(x):
    even = 'data' in mesh.shape and x.ndim and divides(mesh, len(x))
    axes = PartitionSpec('data') if even else PartitionSpec()
    return jax.device_put(x, NamedSharding(mesh, axes))

  return jax.tree.map(leaf, batch)


def _process_rows_put(mesh: Mesh, x: Any) -> jax.Array:
  """Puts the rows of this process on a mesh over several."""
  if not _is_local(x):
    even = x.ndim and divides(mesh, len(x))
    axes = PartitionSpec('data') if even else PartitionSpec()
    return jax.device_put(x, NamedSharding(mesh, axes))
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    words = _process_rows_put(mesh, jax.random.key_data(x))
    return jax.random.wrap_key_data(words, impl=random_keys.IMPL)
  host, places = np.asarray(x), _places(mesh)
  if not host.ndim or len(host) % len(places):
    return _put(host, NamedSharding(mesh, PartitionSpec()))
  size = len(host) // len(places)

  def part(index):
    place = (index[0].start or 0) // size
    first = int(np.searchsorted(places, place)) * size
    return host[first : first + size]

  shape = (size * mesh.shape['data'], *host.shape[1:])
  where = NamedSharding(mesh, PartitionSpec('data'))
  return jax.make_array_from_callback(shape, where, part)


def settle(batch: _T, params: Any) -> _T:
  """Spreads what a program returned over several processes as `rows` does.

  The compiler chooses where results lie; `fetch` has to know. Elsewhere the
  batch is returned unchanged.
  """
  spans = spans_processes(mesh_of(params))
  return rows(batch, params) if spans else batch


def fetch(tree: Any) -> Any:
  """Copies a tree of arrays to the host, of spread ones this process's rows.

  Args:
    tree: Arrays, whose rows are spread as `rows` does it, or replicated.

  Returns:
    The tree, of NumPy arrays.
  """

  def leaf(x):
    if _is_local(x) or x.is_fully_replicated:
      return jax.device_get(x)
    shards = {
      shard.index[0].start or 0: shard.data for shard in x.addressable_shards
    }
    return np.concatenate(
      [np.asarray(shards[start]) for start in sorted(shards)]
    )

  return jax.tree.map(leaf, tree)


def gather(array: Any) -> np.ndarray:
  """Copies an array to the host as a whole; all processes call it.

  Args:
    array: The array, spread in any way.
  """
  if not _is_local(array) and not array.is_fully_replicated:
    everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
    array = jax.device_put(array, everywhere)
  return np.asarray(jax.device_get(array))


def gather_tree(tree: _T) -> _T:
  """Copies a tree to the host as `gather` does, where processes share it."""
  if distributed.number() == 1:
    return tree
  return jax.tree.map(gather, tree)


def map_rows(fn: Callable[..., Any], mesh: Mesh | None, count: int) -> Any:
  """Lets each device run a function on its own rows.

  For functions without split parameters, such as k-means: the compiler would
  run a loop over rows on all devices for every row.

  Args:
    fn: `(shared, *batched) -> batched`; a row's result depends only on that
      row and the shared arguments.
    mesh: The mesh, or None.
    count: Number of rows.

  Returns:
    A function like `fn`.
  """
  if mesh is None or 'data' not in mesh.shape or not divides(mesh, count):
    return fn

  def spread(shared, *batched):
    data = PartitionSpec('data')
    return jax.shard_map(
      fn,
      mesh=mesh,
      in_specs=(PartitionSpec(), *(data for _ in batched)),
      out_specs=data,
      check_vma=False,
    )(shared, *batched)

  return spread


def sample(
  array: Num[Array, '...'],
  step: int,
  first: int = 0,
  order: Sequence[int] | None = None,
) -> Num[np.ndarray, ' n']:
  """Reads every step-th number of an array without gathering it.

  Args:
    array: The array, on one or several devices.
    step: Distance of the numbers in the array's flat order.
    first: Index of the first number.
    order: Axes of another array, whose transpose on one device this is: the
      numbers are counted in that one's flat order. None for its own.

  Returns:
    f32, the numbers first, first + step, first + 2 step, ... Of an array that
    is spread over processes all of them call it.
  """
  if not isinstance(getattr(array, 'sharding', None), NamedSharding):
    # On a CPU this is no copy, and nothing is compiled.
    host = jax.default_backend() == 'cpu'
    here = np.asarray(array) if host else array
    if order is None:
      return np.asarray(here.reshape(-1)[first::step], np.float32)
    shape = [array.shape[axis] for axis in np.argsort(order)]
    at = np.unravel_index(np.arange(first, array.size, step), shape)
    return np.asarray(here[tuple(at[axis] for axis in order)], np.float32)
  # Flattening would gather the array on every device.
  at = np.unravel_index(np.arange(first, array.size, step), array.shape)
  out = np.empty(len(at[0]) if at else 1, np.float32)
  filled = np.zeros(len(out), bool)
  read = set()
  for shard in array.addressable_shards:
    if (key := str(shard.index)) in read:
      continue
    read.add(key)
    ranges = [
      s.indices(n) for s, n in zip(shard.index, array.shape, strict=True)
    ]
    inside = np.ones(len(out), bool)
    for i, (first, end, _) in zip(at, ranges, strict=True):
      inside &= (first <= i) & (i < end)
    local = tuple(i[inside] - r[0] for i, r in zip(at, ranges, strict=True))
    out[inside] = np.asarray(shard.data[local], np.float32)
    filled |= inside
  if array.is_fully_addressable or array.is_fully_replicated:
    return out
  places = np.flatnonzero(filled)
  for where, values in distributed.gather(
    [places.tolist(), out[places].tolist()]
  ):
    out[where] = values
  return out


def fingerprint(params: Any, samples: int | None = 4096) -> str:
  """Returns a short fingerprint of a parameter tree, on any devices.

  Args:
    params: Arrays of numbers.
    samples: Approximate number of samples of each array: the default is enough
      to distinguish checkpoints, and cheap on billions of parameters. None
      reads all.
  """
  digest = hashlib.sha256()
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for path, leaf in leaves:
    step = max(1, leaf.size // samples) if samples else 1
    values = sample(leaf, step)
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(f'{leaf.shape}'.encode())
    digest.update(values.tobytes())
  return digest.hexdigest()[:16]


def _name(path: Any) -> str:
  """Returns a JAX key path as 'llm/layers/mlp/linear'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')
