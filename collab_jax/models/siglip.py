"""SigLIP's vision transformer without pooling, as PaliGemma uses it.

The parameter tree is big_vision's: layers are stacked on axis 0 under
`Transformer/encoderblock`, and `head`, the projection to the decoder's width,
is part of the image tower.

Source: Zhai et al., arXiv 2303.15343; checked array by array against numbers
recorded from big_vision (tests/models/test_parity.py).
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from flax import linen as nn
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from collab_jax import _renamed, _validate
from collab_jax.models import attention, common

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """Dimensions of the vision tower.

  Attributes:
    image_size: Side of the square input picture in pixels.
    patch_size: Side of a patch in pixels; divides image_size.
    width: D, numbers per image token.
    depth: Number of transformer blocks.
    num_heads: Attention heads; divides width.
    mlp_dim: Hidden width of the MLP.
    out_dim: M, the decoder's width, where `head` projects to.
    unroll: Trace each block on its own where a CPU runs it: faster for small
      models, slower to compile for deep ones. Elsewhere blocks are scanned.
    layout: Weight layout: 'stacked', or 'transposed' for a tuple of blocks, see
      `unstack_blocks`.
    remat: Compute each block again where its gradient is taken.
    compute_dtype: Dtype of products, which are summed in float32: 'float32',
      'bfloat16' or 'float16'; '' for the widest in which matrices are stored.
  """

  image_size: int
  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  out_dim: int
  unroll: bool = False
  layout: str = 'stacked'
  remat: bool = False
  compute_dtype: str = ''

  def __post_init__(self):
    if self.image_size % self.patch_size:
      raise _validate.error(
        'image_size', self.image_size, f'a multiple of {self.patch_size}'
      )
    if self.width % self.num_heads:
      raise _validate.error(
        'width', self.width, f'a multiple of num_heads, {self.num_heads}'
      )

  @property
  def num_tokens(self) -> int:
    """Number of image tokens, N."""
    return (self.image_size // self.patch_size) ** 2


class MultiHeadDotProductAttention(nn.Module):
  """Self-attention with biases."""

  num_heads: int
  compute_dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    """Returns the attended tokens."""
    shape = (self.num_heads, x.shape[-1] // self.num_heads)
    dense = functools.partial(
      nn.DenseGeneral,
      kernel_init=nn.initializers.xavier_uniform(),
      dot_general=common.dot_general(self.compute_dtype),
    )
    q, k, v = (dense(shape, name=name)(x) for name in ('query', 'key', 'value'))
    k, v = (common.rounded(t, self.compute_dtype) for t in (k, v))
    out = dense(x.shape[-1], axis=(-2, -1), name='out')
    return out(attention.full(q, k, v).astype(x.dtype))


class MlpBlock(nn.Module):
  """Two dense layers around a tanh-approximated GELU."""

  mlp_dim: int
  compute_dtype: str

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    """Returns the transformed tokens."""
    dense = functools.partial(
      nn.Dense,
      kernel_init=nn.initializers.xavier_uniform(),
      dot_general=common.dot_general(self.compute_dtype),
    )
    y = nn.gelu(dense(self.mlp_dim, name='Dense_0')(x), approximate=True)
    return dense(x.shape[-1], name='Dense_1')(y)


class EncoderBlock(nn.Module):
  """A pre-norm transformer block."""

  config: VisionConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    """Returns the residual stream after this block."""
    c, dtype = self.config, self.config.compute_dtype
    y = nn.LayerNorm(epsilon=1e-6, name='LayerNorm_0')(x)
    x = x + MultiHeadDotProductAttention(
      c.num_heads, dtype, name='MultiHeadDotProductAttention_0'
    )(y)
    y = nn.LayerNorm(epsilon=1e-6, name='LayerNorm_1')(x)
    return x + MlpBlock(c.mlp_dim, dtype, name='MlpBlock_0')(y)


def position_table(tokens: int, width: int) -> Float[Array, '1 N D']:
  """Makes the 2-D sine-cosine table that the learned positions start from.

  Source: MoCo v3 (arXiv 2104.02057), section 4.
  """
  side = round(tokens**0.5)
  y, x = jnp.mgrid[:side, :side].reshape(2, -1, 1)
  frequency = 10_000.0 ** -(jnp.arange(width // 4) / max(width // 4 - 1, 1))
  table = jnp.concatenate(
    [f(axis * frequency) for axis in (x, y) for f in (jnp.sin, jnp.cos)], -1
  )
  return jnp.pad(table, ((0, 0), (0, width - table.shape[1])))[None]


def init(config: VisionConfig, key: jax.Array) -> Params:
  """Returns fresh float32 parameters."""
  c = dataclasses.replace(config, compute_dtype='float32')
  keys = jax.random.split(key, c.depth + 2)
  x = jnp.zeros((1, c.num_tokens, c.width))
  blocks = jax.vmap(lambda k: EncoderBlock(c).init(k, x)['params'])(keys[2:])
  kernel = (c.patch_size, c.patch_size, 3, c.width)
  lecun = nn.initializers.lecun_normal(in_axis=(0, 1, 2))
  return {
    'embedding': {
      'kernel': lecun(keys[0], kernel),
      'bias': jnp.zeros(c.width),
    },
    'pos_embedding': position_table(c.num_tokens, c.width),
    'Transformer': {
      'encoderblock': blocks,
      'encoder_norm': {
        'scale': jnp.ones(c.width),
        'bias': jnp.zeros(c.width),
      },
    },
    'head': {
      'kernel': nn.initializers.lecun_normal()(keys[1], (c.width, c.out_dim)),
      'bias': jnp.zeros(c.out_dim),
    },
  }


def stem(
  config: VisionConfig, params: Params, images: Float[Array, 'B H W 3']
) -> Float[Array, 'B N D']:
  """Embeds the patches, row by row; positions are not added yet.

  Args:
    config: The tower's dimensions.
    params: The `img` tree.
    images: Pictures in [-1, 1].

  Returns:
    One vector per patch.

  Raises:
    ValueError: The pictures have another size than the model's.
  """
  side, p = config.image_size // config.patch_size, config.patch_size
  expected = (config.image_size, config.image_size, 3)
  if images.shape[1:] != expected:
    raise ValueError(
      f'images: got shape {images.shape}, expected {("B", *expected)};'
      ' resize the pictures to the model first'
    )
  x = images.reshape(-1, side, p, side, p, 3).swapaxes(2, 3)
  x = x.reshape(-1, side * side, p * p * 3)
  kernel, bias = params['embedding']['kernel'], params['embedding']['bias']
  kernel = kernel.reshape(-1, kernel.shape[-1])
  return common.matmul(x, kernel, common.compute_dtype(config, params)) + bias


def encode(
  config: VisionConfig,
  params: Params,
  images: Float[Array, 'B H W 3'],
  attention: bool = False,
) -> Any:
  """Encodes pictures up to the final LayerNorm: the first cut point.

  Args:
    config: The tower's dimensions.
    params: The `img` tree.
    images: Pictures in [-1, 1].
    attention: Also return the attention received in the last block.

  Returns:
    The features before the projection to the decoder's width, f32[B N D]. With
    `attention` a pair of them and f32[B N]: the attention that a token receives
    from all tokens, the mean over queries and heads; it adds up to 1.

  Raises:
    ValueError: The pictures have another size than the model's.
  """
  config = common.resolved(config, params)
  x = stem(config, params, images) + params['pos_embedding']
  blocks = params['Transformer']['encoderblock']
  block = EncoderBlock(config)

  def body(x, layer, _):
    return common.apply(block, layer, x), None

  def run(x, depth):
    if config.layout == 'transposed':
      for layer in blocks[:depth]:
        x, _ = body(x, layer, None)
    elif depth:
      layers, unroll = blocks, common.unrolled(config)
      if depth < config.depth and (unroll or config.remat):
        # Elsewhere the loop takes them out: slices of all would be copies.
        layers = jax.tree.map(lambda p: p[:depth], blocks)
      x, _ = common.scan_layers(body, x, layers, depth, unroll, config.remat)
    return x

  received = None
  if attention:
    # The last block by itself: its attention is computed from its input.
    x = run(x, config.depth - 1)
    last = _last(config, blocks)
    received = _received_attention(last, x, config.compute_dtype)
    x, _ = body(x, last, None)
  else:
    x = run(x, config.depth)
  norm = nn.LayerNorm(epsilon=1e-6)
  x = common.apply(norm, params['Transformer']['encoder_norm'], x)
  return (x, received) if attention else x


def _last(config, blocks):
  """Returns the last block."""
  if config.layout == 'transposed':
    return blocks[-1]
  return jax.tree.map(lambda p: p[-1], blocks)


def _received_attention(block, x, dtype):
  """Returns the attention that each token receives in a block, f32[B N]."""
  y = common.apply(nn.LayerNorm(epsilon=1e-6), block['LayerNorm_0'], x)
  params = block['MultiHeadDotProductAttention_0']

  def project(name):
    kernel, bias = params[name]['kernel'], params[name]['bias']
    heads = common.product(y, kernel, 'bnd,dhe->bhne', dtype)
    return heads + bias[:, None]

  return attention.received(project('query'), project('key'), dtype)


def unstack_blocks(config: VisionConfig, params: Params) -> Params:
  """Returns the tree of `layout='transposed'`: a tuple of blocks.

  A CPU copies the slices of stacked weights that it needs.

  Args:
    config: The tower's dimensions.
    params: The `img` tree as it is stored in checkpoints, or without its
      blocks, as a server has it.

  Returns:
    The tree; all other arrays are shared.
  """
  if 'Transformer' not in params:
    return params
  tower, blocks = params['Transformer'], unstack(config, params)
  return params | {'Transformer': tower | {'encoderblock': blocks}}


def unstack(config: VisionConfig, params: Params) -> tuple[Params, ...]:
  """Returns the parameters of each block."""
  blocks = params['Transformer']['encoderblock']
  if config.layout == 'transposed':
    return blocks
  return common.unstack(blocks, config.depth)


with_stacked_names = common.with_stacked_names


def project(
  config: VisionConfig, params: Params, features: Float[Array, '*B D']
) -> Float[Array, '*B M']:
  """Projects features to the decoder's width: the second cut point.

  Args:
    config: The tower's dimensions.
    params: The `img` tree, or its `head` alone, as a server has it.
    features: The features of `encode`.

  Returns:
    The image embeddings.
  """
  kernel, bias = params['head']['kernel'], params['head']['bias']
  dtype = common.compute_dtype(config, params)
  return common.matmul(features, kernel, dtype) + bias
