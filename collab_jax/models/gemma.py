"""Gemma 1 and Gemma 2 decoders with an explicit key-value cache.

The parameter tree is big_vision's, layers stacked on axis 0 under `layers`.
Axes: B batch, T queries, S cache slots, D width, Q query heads, K key-value
heads, G = Q/K, E head dim, F mlp, V vocabulary.

Source: Gemma Team, arXiv 2403.08295 and 2408.00118; checked array by array
against numbers recorded from big_vision (tests/models/test_parity.py).
"""

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING, Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from collab_jax import _renamed
from collab_jax.models import attention, common, lora
from collab_jax.models.gemma_layers import (
  TRANSPOSED_AXES,
  DecoderBlock,
  TextConfig,
)

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

Params = dict[str, Any]
# Per layer a pair: keys after RoPE [B K E S], values [B K S E].
Cache = tuple[tuple[jax.Array, jax.Array], ...]
# Attention mask: the same in all layers, or (even layers, odd layers).
Mask = Bool[Array, '...'] | tuple[Bool[Array, '...'], Bool[Array, '...']]


def init(config: TextConfig, key: jax.Array) -> Params:
  """Returns fresh float32 parameters in the layout 'stacked'."""
  c = dataclasses.replace(config, layout='stacked')
  table_key, *layer_keys = jax.random.split(key, c.depth + 1)
  x = jnp.zeros((1, 1, c.width))

  def layer(key):
    position, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    k = jnp.zeros((1, c.num_kv_heads, c.head_dim, 1))
    return DecoderBlock(c).init(key, x, position, k, k.mT, mask, method=_run)

  table = jax.random.normal(table_key, (c.vocab_size, c.width)) * c.width**-0.5
  return {
    'embedder': {'input_embedding': table},
    'layers': jax.vmap(layer)(jnp.stack(layer_keys))['params'],
    'final_norm': {'scale': jnp.zeros(c.width)},
  }


def transpose_layers(config: TextConfig, params: Params) -> Params:
  """Returns the tree of `layout='transposed'`: unstacked, transposed weights.

  A decoding step reads every weight once. In this layout a CPU reads them at
  its memory's rate; stacked ones it copies first, and converts from bfloat16
  at each step.

  Args:
    config: The decoder's dimensions.
    params: The `llm` tree as it is stored in checkpoints.

  Returns:
    The tree; all other arrays are shared.
  """

  def transpose(path, w):
    order = TRANSPOSED_AXES.get('/'.join(key.key for key in path))
    return w if order is None else w.transpose(order)

  layers = unstack(dataclasses.replace(config, layout='stacked'), params)
  return params | {
    'layers': tuple(jax.tree.map_with_path(transpose, p) for p in layers)
  }


def _run(block: DecoderBlock, x, positions, k, v, mask):
  """Uses every parameter of a layer, for `init`."""
  block.keys_values(x, positions)
  return block(x, positions, k, v, mask)


def unstack(config: TextConfig, params: Params) -> tuple[Params, ...]:
  """Returns the parameters of each layer."""
  if config.transposed:
    return params['layers']
  return common.unstack(params['layers'], config.depth)


def embed(params: Params, tokens: Int[Array, '*B']) -> Float[Array, '*B D']:
  """Looks tokens up and scales them by sqrt(D), in the table's dtype."""
  table = params['embedder']['input_embedding']
  scale = jnp.sqrt(table.shape[-1]).astype(table.dtype)
  table, tokens = common.within_loop(table, tokens)
  return (table[tokens] * scale).astype(jnp.float32)


def forward(
  config: TextConfig,
  params: Params,
  x: Float[Array, 'B T D'],
  positions: Int[Array, 'B T'],
  mask: Mask,
) -> Float[Array, 'B T D']:
  """Runs all layers on whole sequences; the final norm is not applied.

  Args:
    config: The decoder's dimensions.
    params: The `llm` tree.
    x: Embedded sequence.
    positions: Position of each element.
    mask: bool[B T T], mask[b, i, j] is True if i attends to j.

  Returns:
    The last residual stream.
  """
  even, odd = mask if isinstance(mask, tuple) else (mask, mask)

  def body(x, layer, i):
    layer_mask = even if even is odd else jnp.where(i % 2, odd, even)

    def run(block, x):
      return block(x, positions, *block.keys_values(x, positions), layer_mask)

    return common.apply(
      DecoderBlock(config), lora.merged(layer), x, method=run
    ), None

  if config.transposed:
    for i, layer in enumerate(params['layers']):
      x, _ = body(x, layer, i)
    return x
  layers = params['layers']
  return common.scan_layers(
    body, x, layers, config.depth, config.unroll, config.remat
  )[0]


def prefill(
  config: TextConfig,
  params: Params,
  x: Float[Array, 'B T D'],
  positions: Int[Array, 'B T'],
  valid: Bool[Array, 'B T'],
  last: Int[Array, ' B'],
  cache_dtype: str = 'float32',
) -> tuple[Float[Array, 'B D'], Cache]:
  """Runs the prefix, with full attention, and caches keys and values.

  Only the last element's output is needed, so the top layer computes keys and
  values of the whole prefix, but attention and MLP of that element only.

  Args:
    config: The decoder's dimensions.
    params: The `llm` tree.
    x: Embedded prefix.
    positions: Position of each element.
    valid: False for padding, which is masked.
    last: Index of the element whose output is returned, per row.
    cache_dtype: Keys and values are rounded to it before they are used.

  Returns:
    The last residual stream of that element, and the cache with S = T slots.
  """
  mask = valid[:, None]

  def layer_step(layer, x, top=False):
    block = DecoderBlock(config)
    kv = common.apply(block, layer, x, positions, method='keys_values')
    kv = tuple(t.astype(cache_dtype) for t in kv)
    k, v = (t.astype(x.dtype) for t in kv)
    at = positions
    if top:
      x = jnp.take_along_axis(x, last[:, None, None], axis=1)
      at = jnp.take_along_axis(at, last[:, None], axis=1)
    return common.apply(block, layer, x, at, k, v, mask), kv

  if config.unroll or config.transposed:
    layers, cache = unstack(config, params), []
    for i, layer in enumerate(layers):
      x, kv = layer_step(layer, x, top=i == config.depth - 1)
      cache.append(kv)
    return x[:, 0], tuple(cache)
  x, (k, v) = common.scan_layers(
    lambda x, layer, _: layer_step(layer, x),
    x,
    params['layers'],
    config.depth,
    unroll=False,
  )
  last = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
  return last, tuple(zip(k, v, strict=True))


def extend(cache: Cache, slots: int) -> Cache:
  """Returns the cache with room for that many more tokens."""
  none, free = (0, 0), (0, slots)
  return tuple(
    (
      jnp.pad(k, (none, none, none, free)),
      jnp.pad(v, (none, none, free, none)),
    )
    for k, v in cache
  )


def step(
  config: TextConfig,
  layers: Sequence[Params],
  x: Float[Array, 'B D'],
  positions: Int[Array, ' B'],
  cache: Cache,
  slot: Int[Array, ''],
  mask: Mask,
) -> tuple[Float[Array, 'B D'], Cache]:
  """Runs one token per row against the cache.

  Args:
    config: The decoder's dimensions.
    layers: The parameters from `unstack`.
    x: Embedded tokens.
    positions: Their positions.
    cache: Keys and values of the earlier tokens.
    slot: Index of the new keys and values, the same in all rows.
    mask: bool[B S], the slots to attend to, the new one included.

  Returns:
    The last residual stream, and the cache with the new slot filled.
  """
  x, positions = x[:, None], positions[:, None]
  masks = mask if isinstance(mask, tuple) else (mask, mask)
  new = []
  for i, (layer, old) in enumerate(zip(layers, cache, strict=True)):
    block = DecoderBlock(config)
    kv = common.apply(block, layer, x, positions, method='keys_values')
    kv = tuple(
      jax.lax.dynamic_update_slice_in_dim(o, t.astype(o.dtype), slot, axis)
      for o, t, axis in zip(old, kv, (3, 2), strict=True)
    )
    new.append(kv)
    k, v = (t.astype(x.dtype) for t in kv)
    layer_mask = masks[i % 2][:, None]
    x = common.apply(block, layer, x, positions, k, v, layer_mask)
  return x[:, 0], tuple(new)


def unembed(
  config: TextConfig, params: Params, x: Float[Array, '*B D'], cap: bool = True
) -> Float[Array, '*B V']:
  """Computes the tied logits, soft-capped if configured and `cap`."""
  x = common.apply(common.RMSNorm(config.norm_eps), params['final_norm'], x)
  table = params['embedder']['input_embedding']
  if config.transposed:
    rows = common.linear(x.reshape(-1, x.shape[-1]), table)
    logits = rows.reshape(*x.shape[:-1], -1)
  else:
    logits = x @ table.T.astype(x.dtype)
  return attention.softcap(logits, config.final_softcap if cap else None)
