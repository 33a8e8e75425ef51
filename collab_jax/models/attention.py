"""Attention over images and text, with RoPE and Gemma's soft-caps.

Implementations: 'blocks' runs everywhere and knows every mask; 'cudnn' is a
GPU's, for 16 bits without a mask; 'splash' a TPU's, for long sequences in
bfloat16 whose queries all see the same keys. By default the platform that a
program is traced for and the arguments decide.

Axes: B batch, T queries, S keys, Q query heads, K key-value heads, E head dim.
"""

import functools
from typing import NamedTuple

from flax import struct
import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from collab_jax import _platform
from collab_jax.models import common, splash

# Masked scores, as in big_vision and Gemma.
MASKED = -2.3819763e38

# Queries of a block.
_BLOCK = 256

# Sequences no longer than this are cut at trace time, or not at all; longer
# ones by a loop, whose program does not grow with them.
_SHORT = 512

# Scores of a block in a loop: 256 MB in float32. More is not faster, and with
# large batches of long sequences it would be gigabytes.
_SCORES = 1 << 26


@struct.dataclass
class PrefixLMMask:
  """Mask of a prefix-LM by its causal blocks, instead of an array [B T T].

  A query attends to the valid keys of its own and of earlier blocks. Rows are
  made where they are used, a block of queries at a time: at 896 px the array
  would be 17 MB per picture.

  Attributes:
    valid: False for padding.
    block: Number of the causal block of each element; 0 is the prefix.
    positions: Position of each element.
    window: Number of keys behind a query that it sees outside of the prefix;
      None for all.
    segment: Number of the text that each element belongs to, where several
      are packed into a row: they see their own and segment 0, which sees none
      of them. None where there is one text.
  """

  valid: Bool[Array, 'B T']
  block: Int[Array, 'B T']
  positions: Int[Array, 'B T']
  window: Int[Array, ''] | int | None = None
  segment: Int[Array, 'B T'] | None = None

  @property
  def queries(self) -> tuple[Int[Array, 'B T'], ...]:
    """Arguments of `rows` for all queries."""
    packed = () if self.segment is None else (self.segment,)
    return self.block, self.positions, *packed

  def rows(
    self,
    block: Int[Array, 'B t'],
    positions: Int[Array, 'B t'],
    segment: Int[Array, 'B t'] | None = None,
  ) -> Bool[Array, 'B t T']:
    """Returns the rows of queries with these blocks, positions, segments."""
    seen = self.block[:, None] <= block[:, :, None]
    if self.window is not None:
      near = positions[:, :, None] - self.positions[:, None] < self.window
      seen = seen & (near | (block == 0)[:, :, None])
    if self.segment is not None and segment is not None:
      keys = self.segment[:, None]
      seen = seen & ((keys == 0) | (keys == segment[:, :, None]))
    return seen & self.valid[:, None]


# Either kind says whether query i attends to key j.
Mask = Bool[Array, 'B #T S'] | PrefixLMMask


def full(
  q: Float[Array, 'B T Q E'],
  k: Float[Array, 'B S Q E'],
  v: Float[Array, 'B S Q E'],
  implementation: str | None = None,
) -> Float[Array, 'B T Q E']:
  """Computes full attention in the dtype of k and v.

  Args:
    q: Queries, not scaled.
    k: Keys.
    v: Values.
    implementation: 'blocks', 'cudnn' or 'splash'; None for the fastest.

  Returns:
    The averages of the values.
  """
  scale = q.shape[-1] ** -0.5
  implementation = implementation or _fastest(q, k.dtype, masked=False)
  if implementation == 'cudnn':
    return jax.nn.dot_product_attention(
      q.astype(k.dtype), k, v, implementation='cudnn'
    )
  if implementation == 'splash':
    q = (q * scale).astype(k.dtype)[:, :, :, None]
    return splash.attend(q, k, v, interpret=_interpreted())[:, :, :, 0]
  # Heads come first, so that the products are plain matrices.
  k, v = jnp.swapaxes(k, 1, 2).mT, jnp.swapaxes(v, 1, 2)

  def attend(q):
    q = (jnp.swapaxes(q, 1, 2) * scale).astype(k.dtype)
    return jnp.swapaxes(_average(_product(q, k), v), 1, 2)

  if q.shape[1] <= _SHORT:
    return attend(q)
  length = _length(q.shape[0] * q.shape[2] * k.shape[-1])
  return common.map_blocks(attend, q, length)


def received(
  q: Float[Array, 'B Q T E'], k: Float[Array, 'B Q T E'], dtype: str
) -> Float[Array, 'B T']:
  """Computes the attention that each key receives from all queries.

  Args:
    q: Queries, not scaled.
    k: Keys.
    dtype: Dtype of the products.

  Returns:
    The means over queries and heads; those of a row add up to 1.
  """
  b, heads, t, e = q.shape

  def weigh(q):
    scores = common.product(q, k, 'bhte,bhse->bhts', dtype) * e**-0.5
    return jax.nn.softmax(scores, axis=-1)

  if t <= _SHORT:
    return weigh(q).mean((1, 2))
  length = _length(b * heads * t)
  count = -(-t // length)
  q = jnp.pad(q, ((0, 0), (0, 0), (0, count * length - t), (0, 0)))
  blocks = jnp.moveaxis(q.reshape(b, heads, count, length, e), 2, 0)
  real = (jnp.arange(count * length) < t).reshape(count, length, 1)

  def add(total, block):
    q, real = block
    return total + (weigh(q) * real).sum((1, 2)), None

  total, _ = jax.lax.scan(add, jnp.zeros((b, t)), (blocks, real))
  return total / (heads * t)


def _fastest(q, dtype, masked: bool) -> str:
  """Returns the implementation for queries that all see the same keys."""
  platform, (_, t, _, e) = _platform.target_platform(), q.shape
  if platform == 'tpu' and t > _SHORT and dtype == jnp.bfloat16:
    return 'splash'
  half = dtype in (jnp.bfloat16, jnp.float16) and e % 8 == 0 and e <= 128
  if platform == 'gpu' and half and not masked and _has_cudnn():
    return 'cudnn'
  return 'blocks'


def _has_cudnn() -> bool:
  """Whether this machine's GPU has cuDNN's attention: from Ampere on."""
  device = jax.devices()[0]
  if device.platform != 'gpu' or 'cuda' not in device.client.platform_version:
    return False
  return int(device.compute_capability.split('.')[0]) >= 8


def _interpreted() -> bool:
  """Whether a TPU's kernel has to be interpreted: for tests."""
  return _platform.target_platform() != 'tpu'


def _length(scores: int) -> int:
  """Returns the length of a block of queries with so many scores each."""
  length = _BLOCK
  while length > 16 and length * scores > _SCORES:
    length //= 2
  return length


def _product(a, b):
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _average(scores, v, product=_product):
  """Multiplies the softmax of the scores by v.

  The softmax is normalized after the product, on E numbers a query instead of
  S.
  """
  scores -= jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores)
  total = weights.sum(-1, keepdims=True)
  return (product(weights.astype(v.dtype), v) / total).astype(v.dtype)


class Rotation(NamedTuple):
  """Sines and cosines by which RoPE rotates, the same in all layers.

  Attributes:
    sin: Sine of position / 10000^(2i/E), for each i below E/2.
    cos: Cosine.
  """

  sin: Float[Array, 'B T half']
  cos: Float[Array, 'B T half']


def rotation(positions: Int[Array, 'B T'], head_dim: int) -> Rotation:
  """Computes RoPE's sines and cosines, once for all layers and heads.

  They are the slowest part of a layer to compile for a TPU.

  Args:
    positions: Position of each element.
    head_dim: E, numbers per head.
  """
  half = head_dim // 2
  wavelength = 10_000.0 ** (jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None].astype(jnp.float32) / wavelength
  # Not computed anew in the loop over each head.
  return Rotation(
    *jax.lax.optimization_barrier((jnp.sin(angle), jnp.cos(angle)))
  )


def rope(x: Float[Array, 'B T H E'], by: Rotation) -> Float[Array, 'B T H E']:
  """Rotates the halves (i, i + E/2) of each head."""
  half = x.shape[-1] // 2
  sin, cos = (t[:, :, None] for t in by)
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
  mask: Mask,
  cap: float | None,
  implementation: str | None = None,
) -> Float[Array, 'B T Q E']:
  """Computes grouped-query attention; query head n reads kv head n // G.

  The mask is added to the scores, which gives the same numbers, and sequences
  are cut into blocks of queries, so that compilers fuse the products and the
  softmax between them and never hold all scores.

  Args:
    q: Queries, scaled.
    k: Keys, with positions last.
    v: Values.
    mask: Keys that queries attend to.
    cap: Soft-cap of the scores, or None.
    implementation: 'blocks' or 'splash', the latter for masks [B 1 S]; None for
      the fastest.

  Returns:
    The averages of the values.
  """
  t = q.shape[1]
  if implementation is None and _same_keys(mask):
    implementation = _fastest(q, k.dtype, masked=True)
  if implementation == 'splash':
    return _grouped_splash(q, k, v, mask, cap)
  if t > _SHORT:
    return _grouped_blocks(q, k, v, mask, cap)
  if isinstance(mask, PrefixLMMask):
    mask = mask.rows(*mask.queries)
  bias = _bias(mask)[:, None]
  if t == 1:
    return jax.lax.platform_dependent(
      q,
      k,
      v,
      bias,
      cpu=functools.partial(_single, cap=cap),
      default=functools.partial(_single_product, cap=cap),
    )
  q = jnp.swapaxes(q, 1, 2)
  k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))

  def block(at):
    scores = softcap(_product(q[:, :, at], k), cap)
    return _average(scores + (bias[:, :, at] if bias.shape[2] > 1 else bias), v)

  # A CPU's caches hold a block; elsewhere more blocks are more to compile.
  length = _BLOCK if _platform.target_platform() == 'cpu' else _SHORT
  blocks = [block(slice(i, i + length)) for i in range(0, t, length)]
  return jnp.swapaxes(jnp.concatenate(blocks, axis=2), 1, 2)


def _same_keys(mask: Mask) -> bool:
  """Whether all queries of a row attend to the same keys."""
  return not isinstance(mask, PrefixLMMask) and mask.shape[1] == 1


def _grouped_splash(q, k, v, mask, cap):
  """Computes `grouped` by a TPU's kernel."""
  b, t, heads, e = q.shape
  q = q.reshape(b, t, k.shape[1], -1, e).astype(k.dtype)
  k, v = k.transpose(0, 3, 1, 2), jnp.swapaxes(v, 1, 2)
  out = splash.attend(q, k, v, mask[:, 0], cap, _interpreted())
  return out.reshape(b, t, heads, e)


def _bias(rows: Bool[Array, 'B #T S']) -> Float[Array, 'B #T S']:
  """Returns the numbers that masking adds to scores."""
  return jnp.where(rows, 0.0, MASKED)


def _grouped_blocks(q, k, v, mask, cap):
  """Computes `grouped` by a loop over blocks, without repeating keys."""
  kv_heads, slots = v.shape[1:3]
  if isinstance(mask, PrefixLMMask):
    of_queries, rows_of = mask.queries, mask.rows
  elif _same_keys(mask):
    of_queries, rows_of = (), lambda: mask
  else:
    of_queries, rows_of = (mask,), lambda rows: rows

  def attend(block):
    q, of_block = block
    b, t, heads, e = q.shape
    q = q.reshape(b, t, kv_heads, heads // kv_heads, e)
    scores = softcap(_grouped_product('btkge,bkes->bkgts', q, k), cap)
    scores += _bias(rows_of(*of_block))[:, None, None]
    weigh = functools.partial(_grouped_product, 'bkgts,bkse->bkgte')
    out = _average(scores, v, weigh)
    return jnp.moveaxis(out, 3, 1).reshape(b, t, heads, e)

  length = _length(q.shape[0] * q.shape[2] * slots)
  return common.map_blocks(attend, (q, of_queries), length)


def _grouped_product(spec, a, b):
  return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _single(q, k, v, bias, cap):
  """Computes `grouped` for a single query: sums instead of matrix products.

  They are what a CPU is faster with.
  """
  b, _, heads, e = q.shape
  q = q.reshape(b, k.shape[1], -1, e, 1)
  scores = (q * k[:, :, None].astype(jnp.float32)).sum(3)
  scores = softcap(scores, cap) + bias
  weights = jnp.exp(scores - scores.max(-1, keepdims=True))
  out = (weights[..., None] * v[:, :, None].astype(jnp.float32)).sum(3)
  out = out / weights.sum(-1)[..., None]
  return out.reshape(b, 1, heads, e).astype(v.dtype)


def _single_product(q, k, v, bias, cap):
  """Computes `grouped` for a single query by products, in the dtype of k."""
  b, _, heads, e = q.shape
  q = q.reshape(b, k.shape[1], -1, e).astype(k.dtype)
  scores = softcap(_product(q, k), cap) + bias
  return _average(scores, v).reshape(b, 1, heads, e)
