"""Flax modules and loops over layers that both towers use."""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any, TypeVar

from flax import linen as nn
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from collab_jax import _platform

_T = TypeVar('_T')

_NO_TRANSPOSED_BFLOAT16 = jax.__version_info__ < (0, 8, 3)

# Names of the matrices of both towers; norms, biases and positions are none.
_MATRICES = {'kernel', 'w', 'gating_einsum', 'linear', 'input_embedding'}


def apply(
  module: nn.Module, params: Any, *args: Any, method: Any = None
) -> Any:
  """Calls a module, or a method of it, with its parameters; no state."""
  return module.apply({'params': params}, *args, method=method)


class Einsum(nn.Module):
  """A weight of a given shape under the name `w`."""

  shape: tuple[int, ...]
  fan_in: int
  order: tuple[int, ...] | None = None  # Of the axes of a transposed weight.

  @nn.compact
  def __call__(self) -> jax.Array:
    """Returns the weight."""
    init = nn.initializers.normal(self.fan_in**-0.5)
    return self.param('w', init, permuted(self.shape, self.order))


def permuted(
  shape: tuple[int, ...], order: tuple[int, ...] | None
) -> tuple[int, ...]:
  """Returns a shape with its axes in another order; None keeps the order."""
  return shape if order is None else tuple(shape[axis] for axis in order)


def unrolled(config: Any) -> bool:
  """Whether the layers of a tower are traced one by one.

  On a CPU small models are faster so, and the config says which are small.
  Elsewhere layers are scanned: the program is compiled 10 to 20 times faster.
  """
  return config.unroll and _platform.target_platform() == 'cpu'


def scan_layers(
  body,
  x: Any,
  layers: Any,
  depth: int,
  unroll: bool = False,
  remat: bool = False,
):
  """Scans over stacked layers.

  Args:
    body: (x, layer, i) -> (x, y).
    x: The first carry.
    layers: Parameters stacked on axis 0, of as many layers or more.
    depth: Number of layers to run.
    unroll: Trace each layer on its own.
    remat: Compute a layer again where its gradient is taken, instead of keeping
      its intermediate results; the gradients of layers are then stacked, too.

  Returns:
    The last carry, and the ys stacked.
  """
  numbers, on_cpu = jnp.arange(depth), _platform.target_platform() == 'cpu'
  whole = all(len(p) == depth for p in jax.tree.leaves(layers))
  # So that gradients of layers are stacked, not added up in stacks of zeros.
  if unroll or remat or (whole and not on_cpu):
    run = jax.checkpoint(body) if remat else body
    xs, unrolled = (layers, numbers), depth if unroll else 1
    return jax.lax.scan(lambda x, at: run(x, *at), x, xs, unroll=unrolled)

  def step(x, i):
    stacked, number = within_loop(layers, i) if on_cpu else (layers, i)
    layer = jax.tree.map(
      lambda p: jax.lax.dynamic_index_in_dim(p, number, keepdims=False), stacked
    )
    return body(x, layer, i)

  return jax.lax.scan(step, x, numbers)


def map_blocks(fn: Callable[[Any], jax.Array], xs: Any, length: int) -> Any:
  """Maps a function over blocks of elements, one after the other.

  Where gradients are taken a block is computed again: intermediate results of
  no more than a block are ever in memory.

  Args:
    fn: From a block of `xs` to the block's output [B t ...]; an element's
      output depends on no other element of the block.
    xs: A tree of arrays [B T ...].
    length: Most elements of a block, a multiple of 8. All have the same number;
      the last one is filled up with zeros.

  Returns:
    The outputs, [B T ...].
  """
  b, t = jax.tree.leaves(xs)[0].shape[:2]
  count = -(-t // length)
  length = -(-t // (8 * count)) * 8

  def split(x):
    more = ((0, 0), (0, count * length - t), *((0, 0),) * (x.ndim - 2))
    x = jnp.pad(x, more).reshape(b, count, length, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  out = jax.lax.map(jax.checkpoint(fn), jax.tree.map(split, xs))
  out = jnp.moveaxis(out, 0, 1)
  return out.reshape(b, count * length, *out.shape[3:])[:, :t]


def unstack(layers: Any, depth: int) -> tuple[Any, ...]:
  """Returns the parameters of each of the stacked layers."""
  return tuple(jax.tree.map(lambda p, i=i: p[i], layers) for i in range(depth))


def with_stacked_names(params: Any) -> Any:
  """Returns a tree of parameters with the names of the layout 'stacked'.

  Args:
    params: The tree of a model or of a tower, in any layout.

  Returns:
    The tree; in the place of each stacked array a tuple of the layers' arrays
    if these are not stacked.
  """
  if isinstance(params, tuple):
    return jax.tree.map(lambda *layers: layers, *params)
  if isinstance(params, dict):
    return {name: with_stacked_names(tree) for name, tree in params.items()}
  return params


def within_loop(weights: Any, varying: Any) -> Any:
  """Ties weights to a value that changes in a loop.

  Weights stored in another dtype than that of products are converted where they
  are used, and XLA moves constant computations out of loops: at each call it
  would copy all weights.
  """
  return jax.lax.optimization_barrier((weights, varying))


class RMSNorm(nn.Module):
  """Root-mean-square norm; the stored scale is the offset from one."""

  eps: float

  @nn.compact
  def __call__(self, x: Float[Array, '*B D']) -> Float[Array, '*B D']:
    """Returns the normalized x."""
    scale = self.param('scale', nn.initializers.zeros, (x.shape[-1],))
    mean = jnp.mean(jnp.square(x), -1, keepdims=True)
    scale = 1 + scale.astype(x.dtype)
    return x * jax.lax.rsqrt(mean + self.eps) * scale


def stored_dtypes(weights: Any) -> tuple[str, ...]:
  """Returns the names of the dtypes in which matrices are stored, sorted."""
  return tuple(
    sorted(
      {
        leaf.dtype.name
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
        if getattr(path[-1], 'key', None) in _MATRICES
      }
    )
  )


def compute_dtype(config: Any, weights: Any) -> str:
  """Returns the dtype of a tower's products.

  Args:
    config: The tower's dimensions, with a field `compute_dtype`.
    weights: The tower's parameters, or a part of them.

  Returns:
    The field; if it is '', the widest dtype in which matrices are stored.
  """
  if config.compute_dtype:
    return config.compute_dtype
  stored = map(jnp.dtype, stored_dtypes(weights) or ('float32',))
  return functools.reduce(jnp.promote_types, stored).name


def resolved(config: _T, weights: Any) -> _T:
  """Returns a tower's config with the dtype of its products filled in."""
  dtype = compute_dtype(config, weights)
  return dataclasses.replace(config, compute_dtype=dtype)  # type: ignore


def rounded(x: Float[Array, '...'], dtype: str) -> Float[Array, '...']:
  """Rounds a factor to the dtype of products.

  Hidden values of a large decoder may exceed the largest float16, 65,504: they
  saturate, where infinity would become NaN.
  """
  if dtype == 'float16':
    top = float(jnp.finfo(dtype).max)
    x = jnp.clip(x, -top, top)
  return x.astype(dtype)


def _factors(x, w, dtype: str):
  """Rounds both factors to the dtype of products.

  A CPU's XLA before JAX 0.8.3 cannot multiply by transposed bfloat16 weights.
  There the factors are rounded in float32, which the products are as well: they
  are exact.
  """
  cpu = _platform.target_platform() == 'cpu'
  if _NO_TRANSPOSED_BFLOAT16 and dtype == 'bfloat16' and cpu:
    floats = x.astype(jnp.float32), w.astype(jnp.float32)
    return tuple(jax.lax.reduce_precision(f, 8, 7) for f in floats)
  return rounded(x, dtype), w.astype(dtype)


def matmul(
  x: Float[Array, '*B D'], w: Float[Array, 'D F'], dtype: str
) -> Float[Array, '*B F']:
  """Multiplies in a dtype, and sums in float32."""
  x, w = _factors(x, w, dtype)
  return jnp.matmul(x, w, preferred_element_type=jnp.float32)


def product(
  x: Float[Array, '...'],
  w: Float[Array, '...'],
  spec: str,
  dtype: str,
  transposed: bool = False,
) -> Float[Array, '...']:
  """Multiplies by a weight of either layout, and sums in float32.

  Args:
    x: The factor, whose last axes are contracted.
    w: The weight; if transposed, its last axes are contracted.
    spec: The einsum for w as it is stored in a checkpoint, '...->xw': the axes
      of x that stay, then those of w.
    dtype: Dtype to which both factors are rounded.
    transposed: Whether w has its contracted axes last.

  Returns:
    The product, float32.
  """
  if not transposed:
    x, w = _factors(x, w, dtype)
    return jnp.einsum(spec, x, w, preferred_element_type=jnp.float32)
  inputs, out = spec.split('->')
  n = sum(axis not in out for axis in inputs.split(',')[0])
  lead, out = x.shape[: x.ndim - n], w.shape[: w.ndim - n]
  rows = x.reshape(math.prod(lead), -1)
  y = linear(rows, w.reshape(math.prod(out), -1), dtype)
  return y.reshape(*lead, *out)


def linear(
  x: Float[Array, 'R D'], w: Float[Array, 'F D'], dtype: str
) -> Float[Array, 'R F']:
  """Multiplies rows by a transposed weight, and sums in float32.

  One row of bfloat16 is multiplied twice: the kernel that a CPU has for one
  is ten times as slow as that for two.
  """
  rows, (x, w) = len(x), _factors(x, w, dtype)
  if rows == 1 and dtype == 'bfloat16':
    x = jnp.concatenate([x, x])
  contracted = ((1,), (1,)), ((), ())
  return jax.lax.dot_general(
    x, w, contracted, preferred_element_type=jnp.float32
  )[:rows]


def dot_general(dtype: str) -> Any:
  """Returns the `dot_general` of Flax layers; None for its default."""
  if dtype == 'float32':
    return None
  return functools.partial(_half_dot_general, dtype)


def _half_dot_general(
  dtype, x, w, dimensions, precision=None, preferred_element_type=None
):
  """Multiplies in 16 bits and sums in float32.

  Flax has converted the weight to float32; XLA leaves out both conversions.
  """
  del precision, preferred_element_type
  x, w = _factors(x, w, dtype)
  return jax.lax.dot_general(
    x, w, dimensions, preferred_element_type=jnp.float32
  )
