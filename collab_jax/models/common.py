"""Flax modules and loops over layers that both towers use."""

import math
from typing import Any

from flax import linen as nn
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from collab_jax import _platform


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
  numbers = jnp.arange(depth)
  if unroll or remat:
    run = jax.checkpoint(body) if remat else body
    xs, unrolled = (layers, numbers), depth if unroll else 1
    return jax.lax.scan(lambda x, at: run(x, *at), x, xs, unroll=unrolled)
  on_cpu = _platform.target_platform() == 'cpu'

  def step(x, i):
    stacked, number = within_loop(layers, i) if on_cpu else (layers, i)
    layer = jax.tree.map(
      lambda p: jax.lax.dynamic_index_in_dim(p, number, keepdims=False), stacked
    )
    return body(x, layer, i)

  return jax.lax.scan(step, x, numbers)


def unstack(layers: Any, depth: int) -> tuple[Any, ...]:
  """Returns the parameters of each of the stacked layers."""
  return tuple(jax.tree.map(lambda p, i=i: p[i], layers) for i in range(depth))


def within_loop(weights: Any, varying: Any) -> Any:
  """Ties weights to a value that changes in a loop.

  A CPU converts bfloat16 weights where they are used, and XLA moves constant
  computations out of loops: at each call it would copy all weights in float32.
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
    return x * jax.lax.rsqrt(mean + self.eps) * (1 + scale)


def product(x: jax.Array, w: jax.Array, spec: str, transposed: bool = False):
  """Multiplies by a weight of either layout.

  Args:
    x: The factor, whose last axes are contracted.
    w: The weight; if transposed, its last axes are contracted.
    spec: The einsum for w as it is stored in a checkpoint, '...->xw': the axes
      of x that stay, then those of w.
    transposed: Whether w has its contracted axes last.

  Returns:
    The product.
  """
  if not transposed:
    return jnp.einsum(spec, x, w)
  inputs, out = spec.split('->')
  n = sum(axis not in out for axis in inputs.split(',')[0])
  lead, out = x.shape[: x.ndim - n], w.shape[: w.ndim - n]
  y = linear(x.reshape(math.prod(lead), -1), w.reshape(math.prod(out), -1))
  return y.reshape(*lead, *out)


def linear(
  x: Float[Array, 'R D'], w: Float[Array, 'F D']
) -> Float[Array, 'R F']:
  """Multiplies rows by a transposed weight.

  By a weight in bfloat16, rows are rounded to bfloat16 and products added up
  in float32. One row is multiplied twice: the kernel that a CPU has for one
  row of bfloat16 is ten times as slow as that for two.
  """
  contract = (((1,), (1,)), ((), ()))
  if w.dtype != jnp.bfloat16:
    return jax.lax.dot_general(x, w.astype(x.dtype), contract)
  rows, x = len(x), x.astype(w.dtype)
  if rows == 1:
    x = jnp.concatenate([x, x])
  return jax.lax.dot_general(
    x, w, contract, preferred_element_type=jnp.float32
  )[:rows]


def dot_general(compute_dtype: str) -> Any:
  """Returns the `dot_general` of Flax layers; None for its default."""
  return _bfloat16_dot_general if compute_dtype == 'bfloat16' else None


def _bfloat16_dot_general(
  x, w, dimensions, precision=None, preferred_element_type=None
):
  """Multiplies in bfloat16 and sums in float32.

  Flax has converted the weight to float32; XLA leaves out both conversions.
  """
  del precision, preferred_element_type
  x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
  return jax.lax.dot_general(
    x, w, dimensions, preferred_element_type=jnp.float32
  )
