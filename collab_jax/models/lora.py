"""Low-rank adapters of the decoder's matrices.

An adapted matrix is W + (alpha / rank) A B. The adapters lie beside the
layers that they are for, `layers/lora`, stacked on the same axis; a layer is
merged when it is computed, so that no more than one merged layer is in memory.

Source: Hu et al. 2021, arXiv 2106.09685, section 4.1: A is drawn, B is zero.
"""

import math
from typing import Any

import jax
from jax import numpy as jnp

Params = dict[str, Any]

NAME = 'lora'

# Contracted and resulting axes of a layer's matrices; other axes are batches.
AXES = {
  'attn/q_einsum/w': ((1,), (0, 2)),
  'attn/kv_einsum/w': ((2,), (1, 3)),
  'attn/attn_vec_einsum/w': ((0, 1), (2,)),
  'mlp/gating_einsum': ((1,), (2,)),
  'mlp/linear': ((0,), (1,)),
}


def init(layers: Params, key: jax.Array, rank: int, alpha: float) -> Params:
  """Returns adapters that change nothing yet.

  Args:
    layers: The decoder's layers in the layout 'stacked'.
    key: Key from which A is drawn.
    rank: Columns of A and rows of B.
    alpha: Scale of the product, times rank.

  Returns:
    {path: {'a': f32[L, ..., in, rank], 'b': f32[L, ..., rank, out]}} as a tree,
    and 'scale', f32[L].
  """
  adapters: Params = {}
  for number, (path, axes) in enumerate(AXES.items()):
    w = _get(layers, path)
    depth, shape = w.shape[0], w.shape[1:]
    batch, ins, outs = _split(shape, axes)
    d_in, d_out = (math.prod(shape[i] for i in part) for part in (ins, outs))
    lead = (depth, *(shape[i] for i in batch))
    noise = jax.random.normal(
      jax.random.fold_in(key, number), (*lead, d_in, rank)
    )
    adapters[path.replace('/', '.')] = {
      'a': noise * d_in**-0.5,
      'b': jnp.zeros((*lead, rank, d_out)),
    }
  depth = _get(layers, 'mlp/linear').shape[0]
  return {**adapters, 'scale': jnp.full(depth, alpha / rank)}


def merged(layer: Params) -> Params:
  """Returns a layer with its adapters, if any, added to its matrices.

  A sum has the wider of both dtypes: bfloat16 would round most changes away.
  """
  if NAME not in layer:
    return layer
  adapters = layer[NAME]
  layer = {name: part for name, part in layer.items() if name != NAME}
  for path, axes in AXES.items():
    factors = adapters[path.replace('/', '.')]
    change = _product(factors, _get(layer, path).shape, axes)
    change = change * adapters['scale']
    layer = _add(layer, path.split('/'), change)
  return layer


def merge(layers: Params, dtype: Any = None) -> Params:
  """Returns stacked layers with their adapters added, as they are saved.

  Args:
    layers: The decoder's layers, with or without adapters.
    dtype: Dtype of the sums; None for that of each matrix.
  """
  if NAME not in layers:
    return layers
  sums = jax.vmap(merged)(layers)
  frozen = {name: part for name, part in layers.items() if name != NAME}
  return jax.tree.map(lambda x, w: x.astype(dtype or w.dtype), sums, frozen)


def _product(factors: Params, shape: tuple[int, ...], axes: Any) -> jax.Array:
  """Multiplies A by B, in the axes of the matrix."""
  order = tuple(axis for part in _split(shape, axes) for axis in part)
  product = factors['a'] @ factors['b']
  product = product.reshape([shape[axis] for axis in order])
  return product.transpose([order.index(axis) for axis in range(len(shape))])


def _split(shape, axes):
  ins, outs = axes
  batch = tuple(i for i in range(len(shape)) if i not in (*ins, *outs))
  return batch, ins, outs


def _get(tree: Params, path: str) -> jax.Array:
  node: Any = tree
  for name in path.split('/'):
    node = node[name]
  return node


def _add(tree: Any, path: list[str], change: jax.Array) -> Any:
  if not path:
    return tree + change
  name, *inner = path
  return {**tree, name: _add(tree[name], inner, change)}
