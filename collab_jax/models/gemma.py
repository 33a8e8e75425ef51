"""Gemma 1 and Gemma 2 decoders with an explicit key-value cache.

The parameter tree is big_vision's, layers stacked on axis 0 under `layers`.
Axes: B batch, T queries, S cache slots, D width, Q query heads, K key-value
heads, G = Q/K, E head dim, F mlp, V vocabulary.

Source: Gemma Team, arXiv 2403.08295 and 2408.00118; checked array by array
against numbers recorded from big_vision (tests/models/test_parity.py).
"""

import dataclasses
from typing import Any

from flax import linen as nn
import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from collab_jax.models import attention, linen

Params = dict[str, Any]
# Per layer a pair: keys after RoPE [B K E S], values [B K S E].
Cache = tuple[tuple[jax.Array, jax.Array], ...]
# What may be seen: the same in all layers, or (even layers, odd layers).
Mask = Bool[Array, '...'] | tuple[Bool[Array, '...'], Bool[Array, '...']]


@dataclasses.dataclass(frozen=True)
class Config:
  """Dimensions of the decoder.

  Attributes:
    width: M, numbers per token.
    depth: Number of layers.
    mlp_dim: Hidden width of each of the two MLP branches.
    num_heads: Query heads.
    num_kv_heads: Key-value heads; divides num_heads.
    head_dim: Numbers per head, even.
    vocab_size: Rows of the embedding table.
    norm_eps: Added to the mean square in RMSNorm.
    attn_softcap: Gemma 2's cap on the attention scores, or None.
    final_softcap: Gemma 2's cap on the logits, or None.
    post_norms: Gemma 2's norms after attention and MLP.
    query_scale: Factor on the queries; None means head_dim ** -0.5.
    window: Keys that text sees in layers 0, 2, ..., as Hugging Face runs Gemma
      2; None for all, as big_vision trained PaliGemma 2.
    unroll: Trace each layer on its own: faster for small models, slower to
      compile for deep ones.
  """

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int
  norm_eps: float = 1e-6
  attn_softcap: float | None = None
  final_softcap: float | None = None
  post_norms: bool = False
  query_scale: float | None = None
  window: int | None = None
  unroll: bool = False

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads {self.num_heads} is not a multiple of num_kv_heads'
        f' {self.num_kv_heads}'
      )


class RMSNorm(nn.Module):
  """Root-mean-square norm; the stored scale is the offset from one."""

  eps: float

  @nn.compact
  def __call__(self, x: Float[Array, '*B D']) -> Float[Array, '*B D']:
    """Returns the normalized x."""
    scale = self.param('scale', nn.initializers.zeros, (x.shape[-1],))
    mean = jnp.mean(jnp.square(x), -1, keepdims=True)
    return x * jax.lax.rsqrt(mean + self.eps) * (1 + scale)


class Attention(nn.Module):
  """Projections around `attention.grouped`."""

  config: Config

  def setup(self):
    """Names the weights."""
    c = self.config
    q, e = c.num_heads, c.head_dim
    self.q_einsum = linen.Einsum((q, c.width, e), c.width)
    self.kv_einsum = linen.Einsum((2, c.num_kv_heads, c.width, e), c.width)
    self.attn_vec_einsum = linen.Einsum((q, e, c.width), q * e)

  def keys_values(
    self, x: Float[Array, 'B T D'], positions: Int[Array, 'B T']
  ) -> tuple[Float[Array, 'B K E T'], Float[Array, 'B K T E']]:
    """Returns the keys (after RoPE) and values of x."""
    k, v = jnp.einsum('BTD,cKDE->cBTKE', x, self.kv_einsum())
    k = attention.rope(k, positions)
    return k.transpose(0, 2, 3, 1), jnp.swapaxes(v, 1, 2)

  def __call__(self, x, positions, k, v, mask) -> Float[Array, 'B T D']:
    """Attends from x to keys and values."""
    c = self.config
    q = attention.rope(
      jnp.einsum('BTD,QDE->BTQE', x, self.q_einsum()), positions
    )
    scale = c.query_scale or c.head_dim**-0.5
    out = attention.grouped(q * scale, k, v, mask, c.attn_softcap)
    return jnp.einsum('BTQE,QED->BTD', out, self.attn_vec_einsum())


class FeedForward(nn.Module):
  """The gated MLP."""

  config: Config

  @nn.compact
  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    """Returns gelu(x gate) * (x up), projected back."""
    d, f = self.config.width, self.config.mlp_dim
    init = nn.initializers.normal
    gate, up = self.param('gating_einsum', init(d**-0.5), (2, d, f))
    y = nn.gelu(x @ gate, approximate=True) * (x @ up)
    return y @ self.param('linear', init(f**-0.5), (f, d))


class Block(nn.Module):
  """One decoder layer."""

  config: Config

  def setup(self):
    """Names the parts."""
    c = self.config
    self.pre_attention_norm = RMSNorm(c.norm_eps)
    self.attn = Attention(c)
    self.pre_ffw_norm = RMSNorm(c.norm_eps)
    self.mlp = FeedForward(c)
    if c.post_norms:
      self.post_attention_norm = RMSNorm(c.norm_eps)
      self.post_ffw_norm = RMSNorm(c.norm_eps)

  def keys_values(self, x, positions):
    """Returns what this layer caches for the residual stream x."""
    return self.attn.keys_values(self.pre_attention_norm(x), positions)

  def __call__(self, x, positions, k, v, mask) -> Float[Array, 'B T D']:
    """Returns the residual stream of x, which attends to k and v."""
    y = self.attn(self.pre_attention_norm(x), positions, k, v, mask)
    x = x + (self.post_attention_norm(y) if self.config.post_norms else y)
    y = self.mlp(self.pre_ffw_norm(x))
    return x + (self.post_ffw_norm(y) if self.config.post_norms else y)


def init(config: Config, key: jax.Array) -> Params:
  """Returns fresh float32 parameters."""
  c = config
  first, *rest = jax.random.split(key, c.depth + 1)
  x = jnp.zeros((1, 1, c.width))

  def layer(key):
    position, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    k = jnp.zeros((1, c.num_kv_heads, c.head_dim, 1))
    return Block(c).init(key, x, position, k, k.mT, mask, method=_whole)

  table = jax.random.normal(first, (c.vocab_size, c.width)) * c.width**-0.5
  return {
    'embedder': {'input_embedding': table},
    'layers': jax.vmap(layer)(jnp.stack(rest))['params'],
    'final_norm': {'scale': jnp.zeros(c.width)},
  }


def _whole(block: Block, x, positions, k, v, mask):
  """Touches every parameter of a layer, for `init`."""
  block.keys_values(x, positions)
  return block(x, positions, k, v, mask)


def unstack(config: Config, params: Params) -> list[Params]:
  """Returns the parameters of each layer on its own."""
  return [
    jax.tree.map(lambda p, i=i: p[i], params['layers'])
    for i in range(config.depth)
  ]


def embed(params: Params, tokens: Int[Array, '*B']) -> Float[Array, '*B D']:
  """Looks tokens up and scales them by sqrt(D), in the table's dtype."""
  table = params['embedder']['input_embedding']
  scale = jnp.sqrt(table.shape[-1]).astype(table.dtype)
  return (table[tokens] * scale).astype(jnp.float32)


def forward(
  config: Config,
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
    mask: bool[B T T], mask[b, i, j]: may i see j?

  Returns:
    The last residual stream.
  """
  even, odd = mask if isinstance(mask, tuple) else (mask, mask)

  def body(x, at):
    layer, i = at
    seen = even if even is odd else jnp.where(i % 2, odd, even)

    def run(block, x):
      return block(x, positions, *block.keys_values(x, positions), seen)

    return linen.apply(Block(config), layer, x, method=run), None

  layers = params['layers'], jnp.arange(config.depth)
  unroll = config.depth if config.unroll else 1
  return jax.lax.scan(body, x, layers, unroll=unroll)[0]


def prefill(
  config: Config,
  params: Params,
  x: Float[Array, 'B T D'],
  positions: Int[Array, 'B T'],
  valid: Bool[Array, 'B T'],
  last: Int[Array, ' B'],
  cache_dtype: str = 'float32',
) -> tuple[Float[Array, 'B D'], Cache]:
  """Runs the prefix, all of which sees all of it, and keeps keys and values.

  Only the last element's output is wanted, so the top layer computes keys and
  values for all of the prefix, but its attention and MLP for that element.

  Args:
    config: The decoder's dimensions.
    params: The `llm` tree.
    x: Embedded prefix.
    positions: Position of each element.
    valid: False for padding, which nobody sees.
    last: Index of the element whose output is returned, per row.
    cache_dtype: Keys and values are rounded to it before they are used.

  Returns:
    The last residual stream of that element, and the cache with S = T slots.
  """
  mask = valid[:, None]

  def layer_step(layer, x, top=False):
    block = Block(config)
    kv = linen.apply(block, layer, x, positions, method='keys_values')
    kv = tuple(t.astype(cache_dtype) for t in kv)
    k, v = (t.astype(x.dtype) for t in kv)
    at = positions
    if top:
      x = jnp.take_along_axis(x, last[:, None, None], axis=1)
      at = jnp.take_along_axis(at, last[:, None], axis=1)
    return linen.apply(block, layer, x, at, k, v, mask), kv

  if config.unroll:
    layers, cache = unstack(config, params), []
    for i, layer in enumerate(layers):
      x, kv = layer_step(layer, x, top=i == config.depth - 1)
      cache.append(kv)
    return x[:, 0], tuple(cache)
  x, (k, v) = jax.lax.scan(
    lambda x, layer: layer_step(layer, x), x, params['layers']
  )
  last = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
  return last, tuple(zip(k, v, strict=True))


def extend(cache: Cache, slots: int) -> Cache:
  """Returns the cache with room for that many more tokens."""
  whole, more = (0, 0), (0, slots)
  return tuple(
    (
      jnp.pad(k, (whole, whole, whole, more)),
      jnp.pad(v, (whole, whole, more, whole)),
    )
    for k, v in cache
  )


def step(
  config: Config,
  layers: list[Params],
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
    cache: Keys and values of what came before.
    slot: Where the new keys and values are written, the same in all rows.
    mask: bool[B S], the slots that may be seen, the new one among them.

  Returns:
    The last residual stream, and the cache with the new slot filled.
  """
  x, positions = x[:, None], positions[:, None]
  masks = mask if isinstance(mask, tuple) else (mask, mask)
  new = []
  for i, (layer, old) in enumerate(zip(layers, cache, strict=True)):
    block = Block(config)
    kv = linen.apply(block, layer, x, positions, method='keys_values')
    kv = tuple(
      jax.lax.dynamic_update_slice_in_dim(o, t.astype(o.dtype), slot, axis)
      for o, t, axis in zip(old, kv, (3, 2), strict=True)
    )
    new.append(kv)
    k, v = (t.astype(x.dtype) for t in kv)
    seen = masks[i % 2][:, None]
    x = linen.apply(block, layer, x, positions, k, v, seen)
  return x[:, 0], tuple(new)


def unembed(
  config: Config, params: Params, x: Float[Array, '*B D'], cap: bool = True
) -> Float[Array, '*B V']:
  """Final norm and tied logits, soft-capped if configured and wanted."""
  x = linen.apply(RMSNorm(config.norm_eps), params['final_norm'], x)
  logits = x @ params['embedder']['input_embedding'].T.astype(x.dtype)
  return attention.softcap(logits, config.final_softcap if cap else None)
