"""Attention over images and text, and what Gemma adds to it.

Axes: B batch, T queries, S keys, Q query heads, K key-value heads, E head dim.
"""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The value big_vision and Gemma give to masked scores.
MASKED = -2.3819763e38


def full(
  q: Float[Array, 'B T Q E'],
  k: Float[Array, 'B S Q E'],
  v: Float[Array, 'B S Q E'],
) -> Float[Array, 'B T Q E']:
  """Full attention; heads lead so that the products are plain matrices.

  The softmax is normalized after the second product, on E numbers a query
  instead of S.
  """
  q, k, v = (jnp.swapaxes(t, 1, 2) for t in (q, k, v))
  q = q * q.shape[-1] ** -0.5
  scores = jnp.matmul(
    q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32
  )
  scores -= jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores)
  total = weights.sum(-1, keepdims=True)
  out = jnp.matmul(
    weights.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  return jnp.swapaxes(out / total, 1, 2).astype(v.dtype)


def rope(
  x: Float[Array, 'B T H E'], positions: Int[Array, 'B T']
) -> Float[Array, 'B T H E']:
  """Rotates the halves (i, i + E/2) by position / 10000^(2i/E)."""
  half = x.shape[-1] // 2
  wavelength = 10_000.0 ** (jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None, None].astype(jnp.float32) / wavelength
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  first, second = x[..., :half], x[..., half:]
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], -1
  ).astype(x.dtype)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
  """Squashes x smoothly into (-cap, cap); None leaves it alone."""
  return x if cap is None else cap * jnp.tanh(x / cap)


def grouped(
  q: Float[Array, 'B T Q E'],
  k: Float[Array, 'B K S E'],
  v: Float[Array, 'B K S E'],
  mask: Bool[Array, 'B T S'],
  cap: float | None,
) -> Float[Array, 'B T Q E']:
  """Grouped-query attention; query head n reads key-value head n // G.

  The queries of a group are stacked into one matrix, and the softmax is
  normalized after the second product, on E numbers a query instead of S.
  """
  b, t, heads, e = q.shape
  groups = k.shape[1]
  q = q.reshape(b, t, groups, heads // groups, e).transpose(0, 2, 3, 1, 4)
  scores = jnp.matmul(
    q.reshape(b, groups, -1, e),
    jnp.swapaxes(k, -1, -2),
    preferred_element_type=jnp.float32,
  ).reshape(b, groups, heads // groups, t, -1)
  scores = jnp.where(mask[:, None, None], softcap(scores, cap), MASKED)
  scores -= jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores)
  total = weights.sum(-1, keepdims=True)
  out = jnp.matmul(
    weights.reshape(b, groups, -1, weights.shape[-1]).astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  ).reshape(b, groups, heads // groups, t, e)
  out = (out / total).transpose(0, 3, 1, 2, 4)
  return out.reshape(b, t, heads, e).astype(v.dtype)
