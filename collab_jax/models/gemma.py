"""Gemma 1 and Gemma 2 decoders with an explicit key-value cache.

The parameter tree is big_vision's, layers stacked on axis 0 under `layers`.
Axes: B batch, T queries, S cache slots, D width, Q query heads, K key-value
heads, G = Q/K, E head dim, F mlp, V vocabulary.

Source: Gemma Team, arXiv 2403.08295 and 2408.00118; checked array by array
against numbers recorded from big_vision (tests/models/test_parity.py).
"""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from collab_jax import _platform, _renamed
from collab_jax.models import attention, common, lora
from collab_jax.models.gemma_layers import (
  TRANSPOSED_AXES,
  DecoderBlock,
  TextConfig,
)

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

Params = dict[str, Any]


class StackedCache(NamedTuple):
  """Keys and values of all layers, where a loop runs over these.

  Rows come first, as in the cache of a layer, so that taking, repeating and
  writing rows is the same for both.

  Attributes:
    k: Keys after RoPE.
    v: Values.
  """

  k: Float[Array, 'B L K E S']
  v: Float[Array, 'B L K S E']


# Per layer a pair: keys after RoPE [B K E S], values [B K S E]; or stacked.
Cache = tuple[tuple[jax.Array, jax.Array], ...] | StackedCache
# Cache slots to attend to: the same in all layers, or (even, odd layers).
Mask = Bool[Array, 'B S'] | tuple[Bool[Array, 'B S'], Bool[Array, 'B S']]

# Window of layers without one: no position is as large.
_NO_WINDOW = 1 << 30


def init(config: TextConfig, key: jax.Array) -> Params:
  """Returns fresh float32 parameters in the layout 'stacked'."""
  c = dataclasses.replace(config, layout='stacked', compute_dtype='float32')
  table_key, *layer_keys = jax.random.split(key, c.depth + 1)
  x = jnp.zeros((1, 1, c.width))

  def layer(key):
    rotation = attention.rotation(jnp.zeros((1, 1), jnp.int32), c.head_dim)
    mask = jnp.ones((1, 1, 1), bool)
    k = jnp.zeros((1, c.num_kv_heads, c.head_dim, 1))
    return DecoderBlock(c).init(key, x, rotation, k, k.mT, mask, method=_run)

  table = jax.random.normal(table_key, (c.vocab_size, c.width)) * c.width**-0.5
  return {
    'embedder': {'input_embedding': table},
    'layers': jax.vmap(layer)(jnp.stack(layer_keys))['params'],
    'final_norm': {'scale': jnp.zeros(c.width)},
  }


def transpose_layers(config: TextConfig, params: Params) -> Params:
  """Returns the tree of `layout='transposed'`: unstacked, transposed weights.

  A decoding step reads every weight once. In this layout a CPU reads them at
  its memory's rate; stacked ones it copies first.

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


def _run(block: DecoderBlock, x, rotation, k, v, mask):
  """Uses every parameter of a layer, for `init`."""
  block.keys_values(x, rotation)
  return block(x, rotation, k, v, mask)


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
  mask: attention.PrefixLMMask,
  outputs: Int[Array, 'B t'] | None = None,
) -> Float[Array, 'B _ D']:
  """Runs all layers on whole sequences; the final norm is not applied.

  Args:
    config: The decoder's dimensions.
    params: The `llm` tree.
    x: Embedded sequence.
    positions: Position of each element.
    mask: Elements to attend to; even layers see those in `config.window` only.
    outputs: Indices of the elements whose output is returned: the top layer
      computes keys and values of all, and attention and MLP of these only.
      None for all elements.

  Returns:
    The last residual stream, of T elements or of t.
  """
  config = common.resolved(config, params)
  rotation = attention.rotation(positions, config.head_dim)

  def body(x, layer, i, top=False):
    layer_mask = mask
    if config.window:
      window = jnp.where(i % 2, _NO_WINDOW, config.window)
      layer_mask = dataclasses.replace(mask, window=window)

    def run(block, x):
      kv = block.keys_values(x, rotation)
      if not top:
        return block(x, rotation, *kv, layer_mask)
      queries = [q[..., None] for q in layer_mask.queries]
      x, by, queries = _rows((x, rotation, queries), outputs)
      seen = layer_mask.rows(*(q[..., 0] for q in queries))
      return block(x, by, *kv, seen)

    return common.apply(
      DecoderBlock(config), lora.merged(layer), x, method=run
    ), None

  layers, depth = params['layers'], config.depth
  if config.transposed:
    for i, layer in enumerate(layers):
      top = outputs is not None and i == depth - 1
      x, _ = body(x, layer, i, top)
    return x
  unroll = common.unrolled(config)
  if outputs is None:
    return common.scan_layers(body, x, layers, depth, unroll, config.remat)[0]
  below, top = (
    jax.tree.map(lambda p, at=at: p[at], layers) for at in (slice(-1), -1)
  )
  if depth > 1:
    x, _ = common.scan_layers(body, x, below, depth - 1, unroll, config.remat)
  return body(x, top, depth - 1, True)[0]


def prefill(
  config: TextConfig,
  params: Params,
  x: Float[Array, 'B T D'],
  positions: Int[Array, 'B T'],
  valid: Bool[Array, 'B T'],
  last: Int[Array, ' B'],
  cache_dtype: str | None = None,
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
    cache_dtype: Keys and values are rounded to it before they are used; None
      for the dtype of products.

  Returns:
    The last residual stream of that element, and the cache with S = T slots.
  """
  mask = valid[:, None]
  config = common.resolved(config, params)
  dtype = cache_dtype or config.compute_dtype
  rotation = attention.rotation(positions, config.head_dim)

  def run(layer, x, top=False):
    block = DecoderBlock(config)
    kv = common.apply(block, layer, x, rotation, method='keys_values')
    k, v = (common.rounded(t, dtype) for t in kv)
    x, by = _rows((x, rotation), last[:, None]) if top else (x, rotation)
    return common.apply(block, layer, x, by, k, v, mask), (k, v)

  if common.unrolled(config) or config.transposed:
    layers, cache = unstack(config, params), []
    for i, layer in enumerate(layers):
      x, kv = run(layer, x, top=i == config.depth - 1)
      cache.append(kv)
    return x[:, 0], tuple(cache)
  if scanned(config):
    return _scanned_prefill(config, run, x, params['layers'], dtype)
  x, (k, v) = common.scan_layers(
    lambda x, layer, _: run(layer, x), x, params['layers'], config.depth - 1
  )
  top = jax.tree.map(lambda p: p[-1], params['layers'])
  x, kv = run(top, x, top=True)
  return x[:, 0], (*zip(k, v, strict=True), kv)


def _scanned_prefill(config, run, x, layers, dtype):
  """Runs `prefill` by a loop that fills a stacked cache."""
  rows, slots = x.shape[:2]
  cache = empty_cache(config, rows, slots, dtype)

  def fill(cache, kv, layer):
    return StackedCache(
      *(
        jax.lax.dynamic_update_index_in_dim(whole, t[:, None], layer, 1)
        for whole, t in zip(cache, kv, strict=True)
      )
    )

  def body(carry, layer, i):
    x, cache = carry
    x, kv = run(layer, x)
    return (x, fill(cache, kv, i)), None

  (x, cache), _ = common.scan_layers(body, (x, cache), layers, config.depth - 1)
  top = jax.tree.map(lambda p: p[-1], layers)
  x, kv = run(top, x, top=True)
  return x[:, 0], fill(cache, kv, config.depth - 1)


def _rows(tree, index):
  """Takes elements of each row, i32[B t], from arrays [B T _]."""
  return jax.tree.map(
    lambda x: jnp.take_along_axis(x, index[:, :, None], axis=1), tree
  )


def empty_cache(config: TextConfig, rows: int, slots: int, dtype: str) -> Cache:
  """Returns a cache of zeros.

  Args:
    config: The decoder's dimensions.
    rows: Number of sequences B.
    slots: Number of slots S of each.
    dtype: Dtype of keys and values.
  """
  c = config
  stacked = scanned(c)
  lead = (rows, c.depth, c.num_kv_heads) if stacked else (rows, c.num_kv_heads)

  def pair():
    return (
      jnp.zeros((*lead, c.head_dim, slots), dtype),
      jnp.zeros((*lead, slots, c.head_dim), dtype),
    )

  return (
    StackedCache(*pair()) if stacked else tuple(pair() for _ in range(c.depth))
  )


def extend(cache: Cache, slots: int) -> Cache:
  """Returns the cache with room for that many more tokens."""

  def pad(k, v):
    rows = ((0, 0),) * (k.ndim - 2)
    none, free = (0, 0), (0, slots)
    return jnp.pad(k, (*rows, none, free)), jnp.pad(v, (*rows, free, none))

  if isinstance(cache, StackedCache):
    return StackedCache(*pad(*cache))
  return tuple(pad(k, v) for k, v in cache)


def scanned(config: TextConfig) -> bool:
  """Whether a decoding step runs a loop over stacked layers and caches.

  A CPU copies the slices of stacked weights at each step; compilers for
  accelerators read them in place, and compile one layer instead of all.
  """
  return not config.transposed and _platform.target_platform() != 'cpu'


def step(
  config: TextConfig,
  layers: Any,
  x: Float[Array, 'B D'],
  positions: Int[Array, ' B'],
  cache: Cache,
  slot: Int[Array, ''],
  mask: Mask,
) -> tuple[Float[Array, 'B D'], Cache]:
  """Runs one token per row against the cache.

  Args:
    config: The decoder's dimensions.
    layers: The parameters from `step_layers`.
    x: Embedded tokens.
    positions: Their positions.
    cache: Keys and values of the earlier tokens.
    slot: Index of the new keys and values, the same in all rows.
    mask: bool[B S], the slots to attend to, the new one included.

  Returns:
    The last residual stream, and the cache with the new slot filled.
  """
  x = x[:, None]
  rotation = attention.rotation(positions[:, None], config.head_dim)
  even, odd = mask if isinstance(mask, tuple) else (mask, mask)
  block = DecoderBlock(common.resolved(config, layers))

  def keys_values(layer, x):
    return common.apply(block, layer, x, rotation, method='keys_values')

  def attend(layer, x, kv, mask):
    return common.apply(block, layer, x, rotation, *kv, mask[:, None])

  if isinstance(cache, StackedCache):

    def body(carry, layer, i):
      x, cache = carry
      new = keys_values(layer, x)
      cache = StackedCache(*_write_layer(cache, new, i, slot))
      kv = (jax.lax.dynamic_index_in_dim(t, i, 1, False) for t in cache)
      layer_mask = even if even is odd else jnp.where(i % 2, odd, even)
      return (attend(layer, x, kv, layer_mask), cache), None

    (x, cache), _ = common.scan_layers(body, (x, cache), layers, config.depth)
    return x[:, 0], cache
  written = []
  for i, (layer, old) in enumerate(zip(layers, cache, strict=True)):
    new = keys_values(layer, x)
    kv = tuple(
      jax.lax.dynamic_update_slice_in_dim(
        o, common.rounded(t, o.dtype.name), slot, axis
      )
      for o, t, axis in zip(old, new, (3, 2), strict=True)
    )
    written.append(kv)
    x = attend(layer, x, kv, odd if i % 2 else even)
  return x[:, 0], tuple(written)


def step_layers(config: TextConfig, params: Params) -> Any:
  """Returns the layers for `step`: stacked where it scans, else a tuple."""
  return params['layers'] if scanned(config) else unstack(config, params)


def _write_layer(cache: StackedCache, new, layer, slot):
  """Writes the keys and values of a token into a layer's slot."""
  k, v = (common.rounded(t[:, None], cache.k.dtype.name) for t in new)
  zero = jnp.zeros_like(slot)
  layer = layer.astype(slot.dtype)
  return (
    jax.lax.dynamic_update_slice(cache.k, k, (zero, layer, zero, zero, slot)),
    jax.lax.dynamic_update_slice(cache.v, v, (zero, layer, zero, slot, zero)),
  )


def unembed(
  config: TextConfig, params: Params, x: Float[Array, '*B D'], cap: bool = True
) -> Float[Array, '*B V']:
  """Computes the tied logits, soft-capped if configured and `cap`."""
  x = common.apply(common.RMSNorm(config.norm_eps), params['final_norm'], x)
  table = params['embedder']['input_embedding']
  dtype = common.compute_dtype(config, params)
  if config.transposed:
    rows = common.linear(x.reshape(-1, x.shape[-1]), table, dtype)
    logits = rows.reshape(*x.shape[:-1], -1)
  else:
    if table.dtype != jnp.float32:
      table, x = common.within_loop(table, x)
    logits = common.matmul(x, table.T, dtype)
  return attention.softcap(logits, config.final_softcap if cap else None)
