"""Image prefixes to captions."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from collab_jax import message as messages
from collab_jax import sharding
from collab_jax.models import paligemma
from collab_jax.models import tokenizer as tokenizer_lib

# Prefixes shorter than this are padded to it, longer ones to a power of two,
# so that a sweep over k compiles a few programs and not one per k.
_SHORTEST = 64


@jax.jit
def bucket(prefix: messages.Prefix) -> messages.Prefix:
  """Pads a prefix with vectors that nobody sees, to one of few lengths."""
  m = prefix.x.shape[1]
  pad = max(_SHORTEST, 1 << (m - 1).bit_length()) - m
  if not pad:
    return prefix
  x, valid, positions, end = prefix
  columns = ((0, 0), (0, pad))
  return messages.Prefix(
    jnp.pad(x, (*columns, (0, 0))),
    jnp.pad(valid, columns),
    jnp.pad(positions, columns),
    end,
  )


@functools.partial(jax.jit, static_argnames=('max_tokens', 'halvings'))
def _generate(model, prefix, tokens, mask, max_tokens, halvings):
  return model.generate(prefix, tokens, mask, max_tokens, halvings=halvings)


def _halvings(model: paligemma.Model, rows: int) -> int:
  """How often to go on with half of the rows.

  On a CPU a step's time grows with the rows; elsewhere the weights' reading is
  what it takes. Measured at 64 rows: a quarter less time for a caption. On a
  mesh the rows left would have to change devices.
  """
  cpu = jax.default_backend() == 'cpu'
  alone = sharding.mesh_of(model.params) is None
  return 2 if rows >= 32 and cpu and alone else 0


class Captioner:
  """The server's decoder: an image prefix and a prompt to a caption.

  Attributes:
    model: The model, of which only `llm` is used.
    max_tokens: Longest caption in tokens.
    prompt: The prompt where a call gives none.
  """

  def __init__(
    self,
    model: paligemma.Model,
    max_tokens: int = 32,
    prompt: str = 'caption en',
  ):
    """Binds a model and its decoding settings; decoding is greedy.

    Args:
      model: From `collab_jax.load`.
      max_tokens: Longest caption in tokens, at least 1.
      prompt: Default prompt, without the newline that ends it.

    Raises:
      ValueError: max_tokens is below 1.
    """
    if max_tokens < 1:
      raise ValueError(f'max_tokens: got {max_tokens}, expected at least 1')
    self.model = model
    self.max_tokens = max_tokens
    self.prompt = prompt

  def describe(self) -> dict[str, Any]:
    """The settings as plain values."""
    return {
      'decoding': 'greedy',
      'max_tokens': self.max_tokens,
      'prompt': self.prompt,
    }

  def __call__(
    self,
    prefix: messages.Prefix | Float[Array, 'B N M'],
    prompt: str | Sequence[str] | None = None,
  ) -> list[str]:
    """Captions a batch.

    Args:
      prefix: From a codec's `decode`, or projected features.
      prompt: One prompt for all, or one per row; None takes the default.

    Returns:
      One caption per row.

    Raises:
      ValueError: There are not as many prompts as rows.
    """
    padded: messages.Prefix = bucket(paligemma.as_prefix(prefix))
    rows = len(padded.x)
    prompt = self.prompt if prompt is None else prompt
    prompts = [prompt] * rows if isinstance(prompt, str) else list(prompt)
    if len(prompts) != rows:
      raise ValueError(f'got {len(prompts)} prompts for {rows} rows')
    tokenizer = self._tokenizer()
    tokens, mask = self.tokenize(prompts)
    batch = sharding.rows((padded, tokens, mask), self.model.params)
    halvings = _halvings(self.model, rows)
    ids = jax.device_get(
      _generate(self.model, *batch, self.max_tokens, halvings)
    )
    return [tokenizer.decode(row) for row in ids.tolist()]

  def tokenize(
    self, prompts: Sequence[str]
  ) -> tuple[Int[np.ndarray, 'B T'], Bool[np.ndarray, 'B T']]:
    """Prompts to left-aligned token ids and the mask of what is valid."""
    tokenizer = self._tokenizer()
    known = {prompt: tokenizer.prompt(prompt) for prompt in set(prompts)}
    longest = max(map(len, known.values()))
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
