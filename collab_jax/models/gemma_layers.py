"""Decoder layers of Gemma 1 and Gemma 2; axes as in `gemma`."""

import dataclasses

from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float

from collab_jax import _platform, _validate
from collab_jax.models import attention, common


@dataclasses.dataclass(frozen=True)
class TextConfig:
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
    unroll: Trace each layer on its own where a CPU runs it: faster for small
      models, slower to compile for deep ones. Elsewhere layers are scanned.
    layout: Weight layout: 'stacked', or 'transposed' for a tuple of layers
      whose weights have their axes in `TRANSPOSED_AXES`, see
      `gemma.transpose_layers`.
    compute_dtype: Dtype of products, which are summed in float32: 'float32',
      'bfloat16' or 'float16'; '' for the widest in which matrices are stored.
    remat: Compute each layer again where its gradient is taken: training then
      keeps one residual stream per layer.
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
  layout: str = 'stacked'
  remat: bool = False
  compute_dtype: str = ''

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise _validate.error(
        'num_heads',
        self.num_heads,
        f'a multiple of num_kv_heads, {self.num_kv_heads}',
      )
    if self.head_dim % 2:
      raise _validate.error(
        'head_dim', self.head_dim, 'an even number: RoPE rotates pairs'
      )

  @property
  def transposed(self) -> bool:
    """Whether the layers are a tuple of transposed weights."""
    return self.layout == 'transposed'


# Tokens that the MLP takes at a time: at 896 px the hidden values of all are
# half a gigabyte per picture.
_BLOCK = 1024

# Axes of a layer's weights in the layout 'transposed', contracted ones last.
TRANSPOSED_AXES = {
  'attn/q_einsum/w': (0, 2, 1),
  'attn/kv_einsum/w': (0, 1, 3, 2),
  'attn/attn_vec_einsum/w': (2, 0, 1),
  'mlp/gating_einsum': (0, 2, 1),
  'mlp/linear': (1, 0),
}


class Attention(nn.Module):
  """Projections around `attention.grouped`."""

  config: TextConfig

  def setup(self):
    """Creates the weights."""
    c = self.config
    q, e = c.num_heads, c.head_dim

    def weight(name, shape, fan_in):
      order = TRANSPOSED_AXES[f'attn/{name}/w'] if c.transposed else None
      return common.Einsum(shape, fan_in, order)

    self.q_einsum = weight('q_einsum', (q, c.width, e), c.width)
    kv = (2, c.num_kv_heads, c.width, e)
    self.kv_einsum = weight('kv_einsum', kv, c.width)
    self.attn_vec_einsum = weight('attn_vec_einsum', (q, e, c.width), q * e)

  def _product(self, spec, x, w):
    c = self.config
    return common.product(x, w(), spec, c.compute_dtype, c.transposed)

  def keys_values(
    self, x: Float[Array, 'B T D'], rotation: attention.Rotation
  ) -> tuple[Float[Array, 'B K E T'], Float[Array, 'B K T E']]:
    """Returns the keys (after RoPE) and values of x."""
    kv = self._product('BTD,cKDE->BTcKE', x, self.kv_einsum)
    k, v = jnp.moveaxis(kv, 2, 0)
    k = attention.rope(k, rotation)
    return k.transpose(0, 2, 3, 1), jnp.swapaxes(v, 1, 2)

  def __call__(self, x, rotation, k, v, mask) -> Float[Array, 'B T D']:
    """Attends from x to keys and values, of any dtype."""
    c = self.config
    q = self._product('BTD,QDE->BTQE', x, self.q_einsum)
    q = attention.rope(q, rotation)
    scale = c.query_scale or c.head_dim**-0.5
    q, k, v = (common.rounded(t, c.compute_dtype) for t in (q * scale, k, v))
    out = attention.grouped(q, k, v, mask, c.attn_softcap)
    return self._product('BTQE,QED->BTD', out, self.attn_vec_einsum)


class FeedForward(nn.Module):
  """The gated MLP."""

  config: TextConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    """Returns gelu(x gate) * (x up), projected back."""
    d, f = self.config.width, self.config.mlp_dim
    init, transposed = nn.initializers.normal, self.config.transposed
    dtype = self.config.compute_dtype

    def weight(name, shape):
      order = TRANSPOSED_AXES[f'mlp/{name}'] if transposed else None
      return self.param(
        name, init(shape[-2] ** -0.5), common.permuted(shape, order)
      )

    w, linear = weight('gating_einsum', (2, d, f)), weight('linear', (f, d))

    def run(x):
      gate, up = self._gate_up(x, w)
      y = nn.gelu(gate, approximate=True) * up
      return common.product(y, linear, 'BTF,FD->BTD', dtype, transposed)

    return common.map_blocks(run, x, _BLOCK) if x.shape[1] > _BLOCK else run(x)

  def _gate_up(self, x, w):
    """Returns both branches of the hidden layer."""
    transposed, dtype = self.config.transposed, self.config.compute_dtype
    if transposed or _platform.target_platform() != 'cpu':
      # Taken apart, a layer's weights would be copied out of those of all.
      gate_up = common.product(x, w, 'BTD,cDF->BTcF', dtype, transposed)
      return gate_up[..., 0, :], gate_up[..., 1, :]
    return tuple(common.matmul(x, w[i], dtype) for i in range(2))


class DecoderBlock(nn.Module):
  """Decoder layer: attention and gated MLP, each behind a norm."""

  config: TextConfig

  def setup(self):
    """Creates the sublayers."""
    c = self.config
    self.pre_attention_norm = common.RMSNorm(c.norm_eps)
    self.attn = Attention(c)
    self.pre_ffw_norm = common.RMSNorm(c.norm_eps)
    self.mlp = FeedForward(c)
    if c.post_norms:
      self.post_attention_norm = common.RMSNorm(c.norm_eps)
      self.post_ffw_norm = common.RMSNorm(c.norm_eps)

  def keys_values(self, x, rotation):
    """Returns keys and values of the residual stream x, for the cache."""
    return self.attn.keys_values(self.pre_attention_norm(x), rotation)

  def __call__(self, x, rotation, k, v, mask) -> Float[Array, 'B T D']:
    """Returns the residual stream of x, which attends to k and v."""
    y = self.attn(self.pre_attention_norm(x), rotation, k, v, mask)
    x = x + (self.post_attention_norm(y) if self.config.post_norms else y)
    y = self.mlp(self.pre_ffw_norm(x))
    return x + (self.post_ffw_norm(y) if self.config.post_norms else y)
