"""Captioner: image prefixes to captions."""

from collections.abc import Sequence
import functools
from typing import Any
import warnings

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from collab_jax import _platform, _validate, random_keys, sharding
from collab_jax import message as messages
from collab_jax.models import decoding as decoding_lib
from collab_jax.models import paligemma
from collab_jax.models import tokenizer as tokenizer_lib

# Prefixes shorter than this are padded to it, longer ones to a power of two:
# those of quantizers without a k that is data, see `quantizers.padding`.
_SHORTEST = 16


def padding(length: int) -> int:
  """Returns how many vectors are added to a prefix of a length."""
  return max(_SHORTEST, 1 << (length - 1).bit_length()) - length


def bucket(prefix: messages.Prefix) -> messages.Prefix:
  """Pads a prefix with masked vectors, to one of few lengths."""
  count = padding(prefix.x.shape[1])
  return pad(prefix, count) if count else prefix


@functools.partial(jax.jit, static_argnames='count')
def pad(prefix: messages.Prefix, count: int) -> messages.Prefix:
  """Adds so many masked vectors to a prefix."""
  x, valid, positions, end = prefix
  columns = ((0, 0), (0, count))
  return messages.Prefix(
    jnp.pad(x, (*columns, (0, 0))),
    jnp.pad(valid, columns),
    jnp.pad(positions, columns),
    end,
  )


@functools.partial(
  jax.jit, static_argnames=('max_tokens', 'method', 'halvings')
)
def _generate(model, prefix, tokens, mask, key, max_tokens, method, halvings):
  return model.generate(
    prefix,
    tokens,
    mask,
    max_tokens,
    method=method,
    key=key,
    halvings=halvings,
  )


def _halvings(model: paligemma.Model, rows: int) -> int:
  """Returns how often to halve the batch once half of its captions ended.

  On a CPU a step's time grows with the rows; elsewhere reading the weights
  dominates. Measured at 64 rows: a quarter less time for a caption. On a mesh
  the remaining rows would have to change devices.
  """
  cpu = _platform.target_platform() == 'cpu'
  one_device = sharding.mesh_of(model.params) is None
  return 2 if rows >= 32 and cpu and one_device else 0


_whole_prefix = jax.jit(paligemma.as_prefix)

# Folded into the keys of captions, so that they differ from the quantizers'.
_DECODING = 1


def _checked_key(key: Any, rows: int) -> jax.Array:
  """Returns a key, or one per row; raises ValueError if it is neither."""
  key = random_keys.convert('key', key)
  if key.shape not in ((), (rows,)):
    raise _validate.error(
      'key',
      f'keys of shape {key.shape}',
      f'one, or one for each of {rows} rows',
    )
  return key


@jax.jit
def _row_keys(seed, ids):
  key = jax.random.fold_in(random_keys.make(seed), _DECODING)
  return jax.vmap(functools.partial(jax.random.fold_in, key))(ids)


class Captioner:
  """Writes captions of image prefixes: the server's decoder.

  ::

    captioner = cj.Captioner(model, max_tokens=32)
    captions = captioner(codec.decode(messages))

  Attributes:
    model: The model, of which only `llm` is used.
    max_tokens: Longest caption in tokens.
    prompt: Default prompt.
    method: Decoding method: greedy, beam search or sampling.
    uses_key: Whether another key may give other captions.
  """

  def __init__(
    self,
    model: paligemma.Model,
    max_tokens: int = 32,
    prompt: str = 'caption en',
    decoding: str | decoding_lib.Method = 'greedy',
  ):
    """Binds a model and its decoding settings.

    Args:
      model: From `collab_jax.load`.
      max_tokens: Longest caption in tokens, at least 1.
      prompt: Default prompt, without the newline that ends it.
      decoding: 'greedy', 'beam2', 'sample(temperature=0.7,top_p=0.9)', as
        `collab_jax.models.decoding.make` reads it, or such a method.

    Raises:
      ValueError: max_tokens is no integer or below 1, the prompt is no text,
        or there is no such decoding.
    """
    paligemma.check_model(model)
    # NumPy's integers are as good.
    if not isinstance(max_tokens, int | np.integer) or max_tokens < 1:
      raise _validate.error(
        'max_tokens', max_tokens, 'an integer of at least 1'
      )
    if not isinstance(prompt, str):
      raise _validate.error('prompt', prompt, 'a text')
    self.model = model
    self.max_tokens = max_tokens
    self.prompt = prompt
    if isinstance(decoding, str):
      decoding = decoding_lib.make(decoding)
    self._has_warned = False  # Of a prompt that the vocabulary cannot answer.
    self.method = decoding
    self.uses_key = decoding.uses_key

  def describe(self) -> dict[str, Any]:
    """Returns the settings as plain values."""
    return {
      'decoding': decoding_lib.name(self.method),
      'max_tokens': self.max_tokens,
      'prompt': self.prompt,
    }

  def __call__(
    self,
    prefix: messages.Prefix | Float[Array, 'B N M'],
    prompt: str | Sequence[str] | None = None,
    key: jax.Array | None = None,
  ) -> list[str]:
    """Captions a batch.

    Args:
      prefix: From a codec's `decode`, or projected features.
      prompt: One prompt for all, or one per row; None takes the default.
      key: Random key, needed where the decoding draws: one, or one per row.

    Returns:
      One caption per row.

    Raises:
      ValueError: There are not as many prompts as rows, or no key to draw
        with.
    """
    return self.detokenize(self.generate(prefix, prompt, key))

  def generate(
    self,
    prefix: messages.Prefix | Float[Array, 'B N M'],
    prompt: str | Sequence[str] | None = None,
    key: jax.Array | None = None,
    prompt_tokens: int = 0,
  ) -> Int[Array, 'B t']:
    """Dispatches the generation of a batch, and waits for nothing.

    Args:
      prefix: From a codec's `decode`, or projected features.
      prompt: One prompt for all, or one per row; None takes the default.
      key: Random key, needed where the decoding draws: one, or one per row.
      prompt_tokens: Length to which prompts are padded, so that batches of
        other prompts take the same program; 0 for the longest prompt's.

    Returns:
      Token ids of the captions on the device, for `detokenize`.

    Raises:
      ValueError: There are not as many prompts as rows, or no key to draw
        with.
    """
    self._check_prefix(prefix)
    if isinstance(prefix, jax.Array) and not prefix.is_fully_addressable:
      prefix = _whole_prefix(prefix)  # Its masks lie where the vectors do.
    padded: messages.Prefix = bucket(paligemma.as_prefix(prefix))
    padded = sharding.settle(padded, self.model.params)
    rows = sharding.row_count(padded.x)
    prompt = self.prompt if prompt is None else prompt
    prompts = [prompt] * rows if isinstance(prompt, str) else list(prompt)
    if len(prompts) != rows:
      raise ValueError(f'got {len(prompts)} prompts for {rows} rows')
    if not all(isinstance(text, str) for text in prompts):
      raise _validate.error('prompt', prompts, 'texts')
    if key is not None:
      key = _checked_key(key, rows)
    tokens, mask = self.tokenize(prompts, prompt_tokens)
    batch = sharding.rows((padded, tokens, mask, key), self.model.params)
    halvings = _halvings(self.model, rows)
    ids = _generate(self.model, *batch, self.max_tokens, self.method, halvings)
    return sharding.settle(ids, self.model.params)

  def _check_prefix(self, prefix: Any) -> None:
    """Raises ValueError unless a prefix has the shape that the model takes."""
    x = prefix.x if isinstance(prefix, messages.Prefix) else prefix
    shape, width = getattr(x, 'shape', ()), self.model.config.text.width
    if len(shape) != 3 or shape[2] != width:
      got = tuple(shape) or type(x).__name__
      do = ''
      if getattr(x, 'dtype', None) == np.uint8:
        do = (
          'pictures are encoded first:'
          ' captioner(codec.decode(codec.encode(images, key)))'
        )
      elif isinstance(x, list | bytes):
        do = 'messages are decoded first: captioner(codec.decode(messages))'
      expected = f'the shape [B, N, {width}]: vectors of the decoder'
      raise _validate.error('prefix', got, expected, do)

  def detokenize(self, ids: Int[Array | np.ndarray, 'B t']) -> list[str]:
    """Fetches the token ids of captions from the device; returns their text."""
    tokenizer = self._tokenizer()
    return [tokenizer.decode(row) for row in sharding.fetch(ids).tolist()]

  def keys(self, seed: int, image_ids: Sequence[int]) -> jax.Array | None:
    """Returns one key per picture, which does not depend on its batch.

    Args:
      seed: Seed of the captions.
      image_ids: One per row.

    Returns:
      The argument `key` of a call; None where nothing is drawn.
    """
    if not self.uses_key:
      return None
    # Folding an id in uses its low 32 bits.
    ids = np.asarray([i & 0xFFFFFFFF for i in image_ids], np.uint32)
    return _row_keys(seed, ids)

  def tokenize(
    self, prompts: Sequence[str], length: int = 0
  ) -> tuple[Int[np.ndarray, 'B T'], Bool[np.ndarray, 'B T']]:
    """Returns left-aligned token ids of prompts, and the mask of valid ones.

    Args:
      prompts: One for each row.
      length: Least number of columns.
    """
    tokenizer = self._tokenizer()
    known = {prompt: tokenizer.prompt(prompt) for prompt in set(prompts)}
    if not self._has_warned and any(
      said := tokenizer.describe_unfit(prompt) for prompt in prompts
    ):
      self._has_warned = True
      warnings.warn(said, stacklevel=3)
    longest = max(length, *map(len, known.values()))
    tokens = np.full((len(prompts), longest), tokenizer.pad_id, np.int32)
    mask = np.zeros((len(prompts), longest), bool)
    for row, prompt in enumerate(prompts):
      tokens[row, : len(known[prompt])] = known[prompt]
      mask[row, : len(known[prompt])] = True
    return tokens, mask

  def _tokenizer(self) -> tokenizer_lib.Tokenizer:
    tokenizer = self.model.tokenizer
    if tokenizer is None:
      raise ValueError('the model has no tokenizer: load(..., tokenizer=...)')
    return tokenizer
