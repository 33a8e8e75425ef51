"""Attention over images and text, with RoPE and Gemma's soft-caps.

Axes: B batch, T queries, S keys, Q query heads, K key-value heads, E head dim.
"""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Masked scores, as in big_vision and Gemma.
MASKED = -2.3819763e38

# Queries of a block in `grouped`.
_BLOCK = 256


def full(
  q: Float[Array, 'B T Q E'],
  k: Float[Array, 'B S Q E'],
  v: Float[Array, 'B S Q E'],
) -> Float[Array, 'B T Q E']:
  """Computes full attention in the dtype of k and v.

  Heads come first, so that the products are plain matrices.
  """
  q, k, v = (jnp.swapaxes(t, 1, 2) for t in (q, k, v))
  q = (q * q.shape[-1] ** -0.5).astype(k.dtype)
  scores = _product(q, jnp.swapaxes(k, 2, 3))
  return jnp.swapaxes(_average(scores, v), 1, 2)


def _product(a, b):
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _average(scores, v):
  """Multiplies the softmax of the scores by v.

  The softmax is normalized after the product, on E numbers a query instead of
  S.
  """
  scores -= jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores)
  total = weights.sum(-1, keepdims=True)
  return (_product(weights.astype(v.dtype), v) / total).astype(v.dtype)


def rope(
  x: Float[Array, 'B T H E'], positions: Int[Array, 'B T']
) -> Float[Array, 'B T H E']:
  """Rotates the halves (i, i + E/2) by position / 10000^(2i/E)."""
  half = x.shape[-1] // 2
  wavelength = 10_000.0 ** (jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None, None].astype(jnp.float32) / wavelength
  # Computed once, not anew in the loop over each head.
  sin, cos = jax.lax.optimization_barrier((jnp.sin(angle), jnp.cos(angle)))
  first, second = x[..., :half], x[..., half:]
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], -1
  ).astype(x.dtype)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
  """Squashes x smoothly into (-cap, cap); None leaves it alone."""
  return x if cap is None else cap * jnp.tanh(x / cap)


def grouped(
  q: Float[Array, 'B T Q E'],
  k: Float[Array, 'B K E S'],
  v: Float[Array, 'B K S E'],
  mask: Bool[Array, 'B #T S'],
  cap: float | None,
) -> Float[Array, 'B T Q E']:
  """Computes grouped-query attention; query head n reads kv head n // G.

  The mask is added to the scores, which gives the same numbers, and long
  sequences are cut into blocks of queries, so that compilers fuse the products
  and the softmax between them and never hold all scores.
  """
  t, heads = q.shape[1:3]
  bias = jnp.where(mask, 0.0, MASKED)[:, None]
  q = jnp.swapaxes(q, 1, 2)
  if t == 1:
    return jnp.swapaxes(_single(q, k, v, bias, cap), 1, 2)
  k, v = (jnp.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))

  def block(at):
    scores = softcap(_product(q[:, :, at], k), cap)
    return _average(scores + (bias[:, :, at] if bias.shape[2] > 1 else bias), v)

  blocks = [block(slice(i, i + _BLOCK)) for i in range(0, t, _BLOCK)]
  return jnp.swapaxes(jnp.concatenate(blocks, axis=2), 1, 2)


def _single(q, k, v, bias, cap):
  """Computes `grouped` for a single query: sums instead of matrix products."""
  b, heads, _, e = q.shape
  q = q.reshape(b, k.shape[1], -1, e, 1)
  scores = (q * k[:, :, None].astype(jnp.float32)).sum(3)
  scores = softcap(scores, cap) + bias
  weights = jnp.exp(scores - scores.max(-1, keepdims=True))
  out = (weights[..., None] * v[:, :, None].astype(jnp.float32)).sum(3)
  out = out / weights.sum(-1)[..., None]
  return out.reshape(b, heads, 1, e).astype(v.dtype)
