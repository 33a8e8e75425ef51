"""Device side of continuous batching: the KV cache of all decode slots.

A decode slot holds one caption, in one row of every array. A step adds a token
to every slot and writes its keys and values at one cache index, the same for
all slots: the indices behind the prefix are a ring, and a step moves on by one.
No caption lives longer than the ring, so that it never overwrites its own
entries; entries that others wrote before it began are masked. So a caption may
begin and end at any step while the others go on.

Greedy search: the first of the likeliest tokens, as `decoding.Greedy`.
"""

import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from collab_jax.models import gemma, paligemma


class DecodeState(NamedTuple):
  """State of R decode slots with S cache entries each.

  Attributes:
    cache: Keys and values.
    entry_position: Position of each cache entry.
    visible: Entries that a slot may attend to.
    token: Last token of each slot; its keys and values are not cached yet.
    position: Position of that token.
  """

  cache: gemma.Cache
  entry_position: Int[Array, 'R S']
  visible: Bool[Array, 'R S']
  token: Int[Array, ' R']
  position: Int[Array, ' R']


class PrefillBatch(NamedTuple):
  """Prefixes followed by prompts, padded to one length P.

  Attributes:
    image: Vectors of the picture, zero elsewhere.
    tokens: Ids of the prompt, zero elsewhere.
    text: True at the prompt.
    valid: False for padding, and for vectors that are masked.
    positions: The decoder's positions.
    last: Index of the prompt's last token.
    end: Position of the first new token.
  """

  image: Float[Array, 'b P M']
  tokens: Int[Array, 'b P']
  text: Bool[Array, 'b P']
  valid: Bool[Array, 'b P']
  positions: Int[Array, 'b P']
  last: Int[Array, ' b']
  end: Int[Array, ' b']


class NextTokens(NamedTuple):
  """Greedily chosen tokens.

  Attributes:
    token: The likeliest token.
    bits: -log2 of its probability.
  """

  token: Int[Array, '...']
  bits: Float[Array, '...']


@functools.partial(
  jax.jit, static_argnames=('config', 'slots', 'length', 'dtype')
)
def empty(
  config: gemma.TextConfig, slots: int, length: int, dtype: str
) -> DecodeState:
  """Returns a state in which no slot is used.

  Args:
    config: The decoder's dimensions.
    slots: Number of decode slots R.
    length: Number of cache entries S: longest prefix, prompt and caption.
    dtype: Dtype of the cache.
  """
  return DecodeState(
    cache=gemma.empty_cache(config, slots, length, dtype),
    entry_position=jnp.zeros((slots, length), jnp.int32),
    visible=jnp.zeros((slots, length), bool),
    token=jnp.zeros(slots, jnp.int32),
    position=jnp.zeros(slots, jnp.int32),
  )


@functools.partial(jax.jit, donate_argnames='state')
def prefill(
  model: paligemma.Model,
  state: DecodeState,
  sequences: PrefillBatch,
  slots: Int[Array, ' b'],
) -> tuple[DecodeState, NextTokens]:
  """Begins captions.

  Args:
    model: The model, of which `llm` is used.
    state: The state; its buffers are donated.
    sequences: Prefixes and prompts, no longer than the prefix of the cache.
    slots: Decode slot of each. A slot may occur twice with equal sequences.

  Returns:
    The state, and the first token of each.
  """
  config, llm = model.config.text, model.params['llm']
  text = sequences.text[..., None]
  x = jnp.where(text, gemma.embed(llm, sequences.tokens), sequences.image)
  x, cache = gemma.prefill(
    config,
    llm,
    x,
    sequences.positions,
    sequences.valid,
    sequences.last,
  )
  chosen = _choose(gemma.unembed(config, llm, x))
  more = state.entry_position.shape[1] - sequences.valid.shape[1]
  pad = ((0, 0), (0, more))
  # Overwrites the whole row: an earlier caption may have left NaN, and NaN
  # times a weight of zero is NaN.
  cache = gemma.extend(cache, more)
  values = (
    jnp.pad(sequences.positions, pad),
    jnp.pad(sequences.valid, pad),
    chosen.token,
    sequences.end,
  )

  def write(i, state: DecodeState):
    def write_row(whole, batch):
      row = jax.lax.dynamic_index_in_dim(batch, i, 0)
      start = (slots[i], *(0,) * (whole.ndim - 1))
      return jax.lax.dynamic_update_slice(whole, row, start)

    return DecodeState(
      jax.tree.map(write_row, state.cache, cache),
      *map(write_row, state[1:], values),
    )

  return jax.lax.fori_loop(0, len(slots), write, state), chosen


@functools.partial(
  jax.jit, static_argnames=('slots', 'ring', 'count'), donate_argnames='state'
)
def decode(
  model: paligemma.Model,
  state: DecodeState,
  step: Int[Array, ''],
  slots: int,
  ring: int,
  count: int,
) -> tuple[DecodeState, NextTokens]:
  """Runs decode steps in the first slots, whether they are used or not.

  Args:
    model: The model, of which `llm` is used.
    state: The state; its buffers are donated.
    step: Number of steps before, modulo `ring`.
    slots: Number of slots.
    ring: Number of cache entries of the ring, which are the last ones.
    count: Number of steps, and of tokens for each slot.

  Returns:
    The state, and [count slots] tokens.
  """
  config, llm = model.config.text, model.params['llm']
  layers = gemma.step_layers(config, llm)
  total, length = state.entry_position.shape
  part = state if slots == total else jax.tree.map(lambda x: x[:slots], state)

  def body(part: DecodeState, t):
    index = length - ring + (step + t) % ring

    def write(whole, column):
      return jax.lax.dynamic_update_slice_in_dim(whole, column, index, 1)

    positions = write(part.entry_position, part.position[:, None])
    visible = write(part.visible, jnp.ones((slots, 1), bool))
    mask = visible
    if config.window:
      near = part.position[:, None] - positions < config.window
      mask = visible & near, visible
    x = gemma.embed(llm, part.token)
    x, cache = gemma.step(
      config, layers, x, part.position, part.cache, index, mask
    )
    chosen = _choose(gemma.unembed(config, llm, x))
    part = DecodeState(
      cache, positions, visible, chosen.token, part.position + 1
    )
    return part, chosen

  part, chosen = jax.lax.scan(body, part, jnp.arange(count))
  if slots == total:
    return part, chosen
  write_first = functools.partial(
    jax.lax.dynamic_update_slice_in_dim, start_index=0, axis=0
  )
  return jax.tree.map(write_first, state, part), chosen


def _choose(logits: Float[Array, 'b V']) -> NextTokens:
  token = jnp.argmax(logits, -1).astype(jnp.int32)
  total = jax.nn.logsumexp(logits, axis=-1)
  # A difference of two close numbers: rounding must not make it negative.
  bits = jnp.maximum(total - logits.max(-1), 0.0) / jnp.log(2.0)
  return NextTokens(token, bits)
