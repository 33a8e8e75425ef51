"""Checksums of a model's weights, equal in every layout and on any devices."""

from collections.abc import Iterator, Sequence
import hashlib
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from collab_jax import sharding
from collab_jax.models import common, gemma
from collab_jax.wire import checksum

# Numbers of each array that are read for `sampled`, about so many.
_SAMPLES = 4096
# Numbers up to which a model is read as a whole, some tenths of a second.
_WHOLE = 1 << 26
_LAYER = 'llm/layers/', 'layers/'


class _Stack(NamedTuple):
  """Array of big_vision's tree, in one piece or layer by layer.

  Attributes:
    path: Its path.
    shape: Its shape, layers stacked.
    parts: The array, or those of its layers.
    order: Order of the stored axes of each part; None for that of the tree.
  """

  path: str
  shape: tuple[int, ...]
  parts: Sequence[Any]
  order: tuple[int, ...] | None


def sampled(params: Any) -> str:
  """Returns a checksum of some 4096 numbers of each array.

  It tells checkpoints apart, and is cheap on billions of parameters.

  Args:
    params: The parameters, or the tree of a tower, in any layout.

  Returns:
    16 hexadecimal digits, in layout 'stacked' those of `sharding.fingerprint`.
  """
  digest = hashlib.sha256()
  for path, shape, parts, order in _stacks(params):
    step = max(1, math.prod(shape) // _SAMPLES)
    digest.update(f'{path}{shape}'.encode())
    for i, part in enumerate(parts):
      values = sharding.sample(part, step, -i * part.size % step, order)
      digest.update(values.tobytes())
  return digest.hexdigest()[:16]


def whole(params: Any) -> str | None:
  """Returns a checksum of all numbers, in float32.

  Args:
    params: As of `sampled`.

  Returns:
    The CRC-32C, 8 hexadecimal digits; None above 67 million numbers.
  """
  if sum(leaf.size for leaf in jax.tree.leaves(params)) > _WHOLE:
    return None
  crc = 0
  for path, shape, parts, order in _stacks(params):
    crc = checksum.crc32c(f'{path}{shape}'.encode(), start=crc)
    for part in parts:
      array = np.asarray(sharding.gather(part), np.float32)
      if order is not None:
        array = array.transpose(np.argsort(order))
      data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
      crc = checksum.crc32c(data, start=crc)
  return f'{crc:08x}'


def _stacks(params: Any) -> Iterator[_Stack]:
  """Yields the arrays of a tree in big_vision's order."""
  leaves = jax.tree_util.tree_leaves_with_path(
    common.with_stacked_names(params), is_leaf=lambda x: isinstance(x, tuple)
  )
  for path, leaf in leaves:
    name, order = jax.tree_util.keystr(path), None
    if not isinstance(leaf, tuple):
      yield _Stack(name, leaf.shape, (leaf,), None)
      continue
    plain = jax.tree_util.keystr(path, simple=True, separator='/')
    if plain.startswith(_LAYER):
      order = gemma.TRANSPOSED_AXES.get(plain.partition('layers/')[2])
    shape = leaf[0].shape
    if order is not None:
      shape = tuple(shape[axis] for axis in np.argsort(order))
    yield _Stack(name, (len(leaf), *shape), leaf, order)
