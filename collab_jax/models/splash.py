"""Splash attention: a TPU's kernel that never writes scores to memory.

JAX's own Pallas kernel, for queries that all see the same keys, as those of a
picture and of a prefix do. It is checked against plain attention in Pallas's
interpreter, gradients included, and compiles for a v5e; no TPU was at hand to
time it.

Axes: B batch, T queries, S keys, K key-value heads, G queries' heads of each, E
head dim.
"""

import math
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool, Float

# Queries and keys of a block in the kernel; and lanes of a TPU, to which the
# head dim is filled up.
_BLOCK, _LANES = 512, 128


def attend(
  q: Float[Array, 'B T K G E'],
  k: Float[Array, 'B S K E'],
  v: Float[Array, 'B S K E'],
  valid: Bool[Array, 'B S'] | None = None,
  cap: float | None = None,
  interpret: bool = False,
) -> Float[Array, 'B T K G E']:
  """Computes attention to the valid keys.

  Args:
    q: Queries, scaled.
    k: Keys.
    v: Values.
    valid: False for keys that are masked in all rows; None for no mask.
    cap: Soft-cap of the scores.
    interpret: Run the kernel in Pallas's interpreter, on a CPU.

  Returns:
    The averages of the values.
  """
  b, t, kv_heads, groups, e = q.shape
  if valid is None:
    valid = jnp.ones(k.shape[:2], bool)
  block = min(_BLOCK, -(-max(t, k.shape[1]) // _LANES) * _LANES)
  q = _pad(_pad(q.transpose(0, 2, 3, 1, 4), block, 3), _LANES, 4)
  k, v = (
    _pad(_pad(jnp.swapaxes(x, 1, 2), block, 2), _LANES, 3) for x in (k, v)
  )
  # Queries have the number 0, and see keys with the same number.
  hidden = 1 - _pad(valid, block, 1).astype(jnp.int32)

  def local(q, k, v, hidden):
    rows, *heads = q.shape[:3]
    sizes = heads[0] * heads[1], q.shape[3], k.shape[2], block
    run: Any = _kernel(*sizes, cap, interpret)
    q = q.reshape(rows, -1, *q.shape[3:])
    return jax.vmap(run)(q, k, v, hidden).reshape(rows, *heads, *q.shape[2:])

  out = _on_mesh(local, (b, kv_heads, groups), q)(q, k, v, hidden)
  return out[:, :, :, :t, :e].transpose(0, 3, 1, 2, 4)


def _pad(x, multiple, axis):
  """Fills an axis up with zeros."""
  more = [(0, 0)] * x.ndim
  more[axis] = (0, -x.shape[axis] % multiple)
  return jnp.pad(x, more)


def _kernel(heads, queries, keys, block, cap, interpret):
  """Returns the kernel of a row: (q, k, v, hidden) -> averages."""
  # Pallas takes long to import, and only this needs it.
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  sizes = kernels.BlockSizes(
    block_q=block,
    block_kv=block,
    block_kv_compute=block,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_kv_dkv_compute=block,
    block_q_dq=block,
    block_kv_dq=block,
  )

  def run(q, k, v, hidden):
    kernel = kernels.make_splash_mha(
      masks.MultiHeadMask([masks.FullMask((queries, keys))] * heads),
      block_sizes=sizes,
      head_shards=1,
      q_seq_shards=1,
      attn_logits_soft_cap=cap,
      interpret=interpret,
    )
    seen = jnp.zeros(queries, jnp.int32)
    return kernel(q, k, v, kernels.SegmentIds(seen, hidden))

  return run


def _on_mesh(local, sizes, x):
  """Lets each device of a mesh attend in its own rows and heads.

  A compiler cannot split a kernel. Heads are split as the weights are, by key
  heads where these are enough, else by the queries' heads of each.
  """
  mesh = jax.typeof(x).sharding.mesh
  # Within a `shard_map` an axis is split already.
  axes = {
    axis: mesh.shape[axis]
    for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind != AxisType.Manual
  }
  if math.prod(axes.values()) == 1:
    return local

  def split(axis, size):
    return axis in axes and size % axes[axis] == 0

  rows, kv_heads, groups = sizes
  data = 'data' if split('data', rows) else None
  of_keys = 'model' if split('model', kv_heads) else None
  of_queries = 'model' if not of_keys and split('model', groups) else None
  queries = PartitionSpec(data, of_keys, of_queries)
  keys, valid = PartitionSpec(data, of_keys), PartitionSpec(data)
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(queries, keys, keys, valid),
    out_specs=queries,
    axis_names=set(axes),
    check_vma=False,
  )
