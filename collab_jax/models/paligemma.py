"""PaliGemma 1 and 2: a picture as a prefix of a language model.

The legend of axes, used all over the package: B batch, H W C image, N image
tokens, m vectors of a prefix, T text, S cache slots, D this tower's width, M
the decoder's width, L layers, Q query heads, K key-value heads, G = Q/K,
E head dim, F mlp, V vocabulary, k clusters. Upper case is batched, lower case
is one example (n d k).

Source: Beyer et al., arXiv 2407.07726 and Steiner et al., arXiv 2412.03555;
checked against numbers recorded from big_vision (tests/models/test_parity.py).
"""

import dataclasses
import math
from typing import Any

from flax import struct
import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from collab_jax import _validate, message, random_keys
from collab_jax.models import (
  attention,
  common,
  decoding,
  dimensions,
  feature_statistics,
  gemma,
  siglip,
)
from collab_jax.models import tokenizer as tokenizer_lib

Params = dict[str, Any]

# Fields of the decoder that big_vision calls otherwise.
_LLM_NAMES = {
  'attn_softcap': 'attn_logits_softcap',
  'final_softcap': 'final_logits_softcap',
  'window': 'sliding_window',
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Dimensions of both towers.

  Attributes:
    vision: The image encoder.
    text: The decoder.
    name: Name of the model in records and figures.
  """

  vision: siglip.VisionConfig
  text: gemma.TextConfig
  name: str = 'paligemma'

  def __post_init__(self):
    if self.vision.out_dim != self.text.width:
      raise _validate.error(
        'vision.out_dim', self.vision.out_dim, f'text.width, {self.text.width}'
      )

  @classmethod
  def from_dict(cls, d: dict[str, Any]) -> 'Config':
    """Reads the nested fields of a config.json.

    Args:
      d: {'name', 'image_size', 'patch_size', 'vit': {...}, 'llm': {...}} with
        big_vision's names of the dimensions, and optionally 'unroll'.

    Returns:
      The configuration.

    Raises:
      ValueError: A field is missing, unknown, or of the wrong type.
    """
    top, vit, llm = dimensions.read(d)
    name, unroll = top.pop('name'), top.pop('unroll')
    caps = llm.pop('attn_logits_softcap'), llm.pop('final_logits_softcap')
    window = llm.pop('sliding_window')
    return cls(
      siglip.VisionConfig(**top, **vit, out_dim=llm['width'], unroll=unroll),
      gemma.TextConfig(
        **llm,
        attn_softcap=caps[0] or None,
        final_softcap=caps[1] or None,
        window=window or None,
        unroll=unroll,
      ),
      name,
    )

  def with_layout(self, layout: str) -> 'Config':
    """Returns the config of a weight layout, 'stacked' or 'transposed'."""
    return dataclasses.replace(
      self,
      vision=dataclasses.replace(self.vision, layout=layout),
      text=dataclasses.replace(self.text, layout=layout),
    )

  def with_compute_dtype(self, dtype: str) -> 'Config':
    """Returns the config of products in a dtype; '' for that of the weights."""
    return dataclasses.replace(
      self,
      vision=dataclasses.replace(self.vision, compute_dtype=dtype),
      text=dataclasses.replace(self.text, compute_dtype=dtype),
    )

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields that `from_dict` reads, as plain values."""
    vision, text = (
      dataclasses.asdict(tower) for tower in (self.vision, self.text)
    )
    del vision['out_dim'], vision['unroll']
    for field in ('layout', 'remat', 'compute_dtype'):
      del vision[field], text[field]
    llm = {_LLM_NAMES.get(k, k): v for k, v in text.items()}
    return {
      'name': self.name,
      'image_size': vision.pop('image_size'),
      'patch_size': vision.pop('patch_size'),
      'unroll': llm.pop('unroll'),
      'vit': vision,
      'llm': llm,
    }


def init(config: Config, key: jax.Array) -> Params:
  """Returns fresh parameters {'img': ..., 'llm': ...}, float32."""
  img, llm = jax.random.split(key)
  return {
    'img': siglip.init(config.vision, img),
    'llm': gemma.init(config.text, llm),
  }


def shapes(config: Config) -> Params:
  """Returns the parameter tree as shapes, without computing it."""
  return jax.eval_shape(lambda: init(config, random_keys.make(0)))


def count_parameters(params: Params) -> int:
  """Returns the number of parameters of a tree of arrays or of shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def check_model(model: Any) -> None:
  """Raises TypeError for a name or another thing in the place of a model."""
  if not hasattr(model, 'config') or not hasattr(model, 'params'):
    text = repr(model) if isinstance(model, str) else type(model).__name__
    raise TypeError(
      f'model: got {text}, expected a model; make one by'
      " collab_jax.load('tiny')"
    )


def as_prefix(
  prefix: Float[Array, 'B m M'] | message.Prefix,
) -> message.Prefix:
  """Returns a prefix in which every vector of a bare array is valid."""
  if isinstance(prefix, message.Prefix):
    return prefix
  b, m, _ = prefix.shape
  # Made on the host, where nothing is compiled.
  rest: Any = (
    np.ones((b, m), bool),
    np.tile(np.arange(m, dtype=np.int32), (b, 1)),
    np.full(b, m, np.int32),
  )
  return message.Prefix(prefix, *rest)


def prefix_lm_mask(
  mask_ar: Int[Array, 'B T'], valid: Bool[Array, 'B T']
) -> Bool[Array, 'B T T']:
  """Makes the prefix-LM mask: i attends to valid j of its or earlier blocks.

  Args:
    mask_ar: 1 where a causal block starts, 0 where an element belongs to the
      block of the element before it.
    valid: False for padding.

  Returns:
    mask[b, i, j], True if i attends to j.
  """
  block = jnp.cumsum(mask_ar, axis=1)
  return attention.PrefixLMMask(valid, block, block).rows(block, block)


@struct.dataclass
class Model:
  """A loaded PaliGemma: a pytree whose methods are pure and may be jitted.

  Attributes:
    params: {'img': ..., 'llm': ...}, big_vision's tree.
    config: Dimensions (static).
    tokenizer: Text to ids and back (static), or None.
    statistics: Statistics of the features of the pictures that it was trained
      on (static), or None.
  """

  params: Params
  config: Config = struct.field(pytree_node=False)
  tokenizer: tokenizer_lib.Tokenizer | None = struct.field(
    pytree_node=False, default=None
  )
  statistics: feature_statistics.FeatureStatistics | None = struct.field(
    pytree_node=False, default=None
  )

  def encode_image(
    self, images: Float[Array, 'B H W 3'], attention: bool = False
  ) -> Any:
    """Encodes pictures in [-1, 1] up to the first cut point.

    Args:
      images: The pictures.
      attention: Also return the attention received in the last block.

    Returns:
      Features f32[B N D]; with `attention` a pair of them and f32[B N], see
      `siglip.encode`.

    Raises:
      ValueError: The pictures have another size than the model's.
    """
    vision, params = self.config.vision, self.params['img']
    return siglip.encode(vision, params, images, attention)

  @property
  def dtype(self) -> str:
    """Dtype in which the matrices are stored, 'bfloat16'.

    If there are several, their names are joined by '+'.
    """
    return '+'.join(common.stored_dtypes(self.params))

  @property
  def compute_dtype(self) -> str:
    """Dtype of the products; if the towers' differ, joined by '+'."""
    towers = {'img': self.config.vision, 'llm': self.config.text}
    names = {
      common.compute_dtype(config, self.params[name])
      for name, config in towers.items()
      if name in self.params
    }
    return '+'.join(sorted(names))

  def transposed(self) -> 'Model':
    """Returns the model in the weight layout 'transposed'.

    See `siglip.unstack_blocks` and `gemma.transpose_layers`.

    Loading with `layout='transposed'` makes it without holding both copies. A
    model in this layout is returned unchanged; a part of a model, such as the
    edge's without a decoder, is converted as far as it goes.
    """
    params, config = self.params, self.config
    if config.text.transposed:
      return self
    if 'img' in params:
      params = params | {
        'img': siglip.unstack_blocks(config.vision, params['img'])
      }
    if 'llm' in params:
      params = params | {
        'llm': gemma.transpose_layers(config.text, params['llm'])
      }
    config = config.with_layout('transposed')
    return dataclasses.replace(self, params=params, config=config)

  def project(self, features: Float[Array, 'B N D']) -> Float[Array, 'B N M']:
    """Projects features to the decoder's width: the second cut point."""
    return siglip.project(self.config.vision, self.params['img'], features)

  def logits(
    self,
    prefix: Float[Array, 'B m M'] | message.Prefix,
    tokens: Int[Array, 'B T'],
    mask_ar: Int[Array, 'B T'],
    softcap: bool = True,
  ) -> Float[Array, 'B T V']:
    """Scores text after a picture, all positions at once.

    Args:
      prefix: The image embeddings; a bare array means that all are valid.
      tokens: Prompt and suffix; padding, if any, at the end.
      mask_ar: 0 on the prompt, 1 on the suffix and the padding.
      softcap: Apply the final soft-cap, if the model has one. big_vision
        trains without it, Hugging Face always applies it.

    Returns:
      The logits of the token after each position.
    """
    prefix = as_prefix(prefix)
    config, llm = self.config.text, self.params['llm']
    all_valid = jnp.ones(tokens.shape, bool)
    x, positions, valid = sequence(llm, prefix, tokens, all_valid)
    image_ar = jnp.zeros(prefix.valid.shape, jnp.int32)
    mask_ar = jnp.concatenate([image_ar, mask_ar], 1)
    block = jnp.cumsum(mask_ar, axis=1)
    mask = attention.PrefixLMMask(valid, block, positions)
    x = gemma.forward(config, llm, x, positions, mask)
    return gemma.unembed(config, llm, x[:, prefix.x.shape[1] :], softcap)

  def generate(
    self,
    prefix: Float[Array, 'B m M'] | message.Prefix,
    prompt_tokens: Int[Array, 'B T'],
    prompt_mask: Bool[Array, 'B T'],
    max_tokens: int,
    eos: int | None = None,
    method: decoding.Method | None = None,
    key: jax.Array | None = None,
    cache_dtype: str | None = None,
    halvings: int = 0,
  ) -> Int[Array, 'B max_tokens']:
    """Writes text after a picture and a prompt.

    Args:
      prefix: The image embeddings; a bare array means that all are valid.
      prompt_tokens: Prompts, left-aligned.
      prompt_mask: True on the prompt's tokens, False on padding.
      max_tokens: Most tokens to write.
      eos: Token that ends a row; None for the tokenizer's, or 1.
      method: `decoding.Greedy()` (the default), `Sample` or `Beam`.
      key: Random key, needed by `Sample`; one key, or one per row.
      cache_dtype: Dtype of the key-value cache; None for that of the decoder's
        products.
      halvings: Number of times to halve the batch once half of the rows have
        ended; see `decoding.generate`.

    Returns:
      The tokens, with 0 after a row's eos.

    Raises:
      ValueError: Sampling without a key.
    """
    config, llm = self.config.text, self.params['llm']
    if eos is None:
      eos = self.tokenizer.eos_id if self.tokenizer else 1
    start = self._prefill(
      as_prefix(prefix), prompt_tokens, prompt_mask, max_tokens, cache_dtype
    )
    layers = gemma.step_layers(config, llm)
    method = method or decoding.Greedy()

    def step(token, position, cache, slot, mask):
      cache, slot_positions = cache
      if config.window:
        near = position[:, None] - slot_positions < config.window
        mask = mask & near, mask
      x = gemma.embed(llm, token)
      x, cache = gemma.step(config, layers, x, position, cache, slot, mask)
      return gemma.unembed(config, llm, x), (cache, slot_positions)

    return decoding.generate(
      step, start, max_tokens, eos, method, key, halvings
    )

  def _prefill(
    self, prefix, prompt_tokens, prompt_mask, max_tokens, cache_dtype
  ) -> decoding.Start:
    """Runs prefix and prompt; the cache is a pair with its slots' positions."""
    config, llm = self.config.text, self.params['llm']
    x, positions, valid = sequence(llm, prefix, prompt_tokens, prompt_mask)
    length = prompt_mask.sum(1, dtype=jnp.int32)
    last = prefix.x.shape[1] + length - 1
    x, cache = gemma.prefill(
      config, llm, x, positions, valid, last, cache_dtype
    )
    new = jnp.arange(max_tokens, dtype=jnp.int32)
    new = (prefix.end + length)[:, None] + new
    slot_positions = jnp.concatenate([positions, new], axis=1)
    return decoding.Start(
      logits=gemma.unembed(config, llm, x),
      cache=(gemma.extend(cache, max_tokens), slot_positions),
      visible=jnp.pad(valid, ((0, 0), (0, max_tokens))),
      position=prefix.end + length,
    )


def sequence(
  llm: Params,
  prefix: message.Prefix,
  tokens: Int[Array, 'B T'],
  valid: Bool[Array, 'B T'],
) -> tuple[Float[Array, 'B P M'], Int[Array, 'B P'], Bool[Array, 'B P']]:
  """Joins image and text to a sequence of P = m + T.

  Args:
    llm: The decoder's parameters.
    prefix: The image embeddings.
    tokens: Text ids.
    valid: False for text that is padding.

  Returns:
    The embedded sequence, its positions, and whether each element is valid.
  """
  x = jnp.concatenate([prefix.x, gemma.embed(llm, tokens)], axis=1)
  text = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  positions = [prefix.positions, prefix.end[:, None] + text]
  return (
    x,
    jnp.concatenate(positions, axis=1),
    jnp.concatenate([prefix.valid, valid], axis=1),
  )
