"""A pool of captions in the making, on the device: continuous decoding.

A row holds one caption. A step adds a token to every row and writes all of
their keys and values at one slot, the same for all: slots behind the prefix are
a ring, which a step goes on by one. No row lives longer than the ring is, so
that it never meets its own; what others wrote before it began, it does not see.
So a row may begin at any step and end at any, and the others go on.

Greedy search: the first of the likeliest tokens, as `decoding.Greedy`.
"""

import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from collab_jax.models import gemma, paligemma

_CACHE = 'float32'  # As `paligemma.Model.generate` has it.


class DecodeState(NamedTuple):
  """The state of R rows with S slots.

  Attributes:
    cache: Keys and values.
    at: Position of what is in each slot.
    visible: The slots that a row may see.
    token: The last token of each row, whose keys and values are not there yet.
    position: Its position.
  """

  cache: gemma.Cache
  at: Int[Array, 'R S']
  visible: Bool[Array, 'R S']
  token: Int[Array, ' R']
  position: Int[Array, ' R']


class PrefillBatch(NamedTuple):
  """Prefixes and prompts, one after the other, padded to one length.

  Attributes:
    image: Vectors of the picture, at its places.
    tokens: Ids of the prompt, at its places.
    text: Which places are the prompt's.
    valid: False for padding, and for vectors that nobody sees.
    positions: The decoder's position of each place.
    last: Place of the prompt's last token.
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
  """The tokens that were chosen, and how sure the model was.

  Attributes:
    token: The likeliest.
    bits: -log2 of its probability.
  """

  token: Int[Array, '...']
  bits: Float[Array, '...']


@functools.partial(jax.jit, static_argnames=('config', 'rows', 'slots'))
def empty(config: gemma.TextConfig, rows: int, slots: int) -> DecodeState:
  """Returns a pool in which no row is used.

  Args:
    config: The decoder's dimensions.
    rows: Captions at a time.
    slots: The longest prefix and prompt, and the longest caption.
  """
  shape = rows, config.num_kv_heads
  return DecodeState(
    cache=tuple(
      (
        jnp.zeros((*shape, config.head_dim, slots), _CACHE),
        jnp.zeros((*shape, slots, config.head_dim), _CACHE),
      )
      for _ in range(config.depth)
    ),
    at=jnp.zeros((rows, slots), jnp.int32),
    visible=jnp.zeros((rows, slots), bool),
    token=jnp.zeros(rows, jnp.int32),
    position=jnp.zeros(rows, jnp.int32),
  )


@functools.partial(jax.jit, donate_argnames='pool')
def prefill(
  model: paligemma.Model,
  pool: DecodeState,
  sequences: PrefillBatch,
  rows: Int[Array, ' b'],
) -> tuple[DecodeState, NextTokens]:
  """Begins captions.

  Args:
    model: The model, of which `llm` is used.
    pool: The pool; its buffers are used up.
    sequences: What the captions are of, no longer than the pool's prefix.
    rows: Where they go. Rows may be there twice if their sequences are equal.

  Returns:
    The pool, and the first token of each.
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
    _CACHE,
  )
  chosen = _choose(gemma.unembed(config, llm, x))
  more = pool.at.shape[1] - sequences.valid.shape[1]
  pad = ((0, 0), (0, more))
  # The whole row: what an earlier caption left may be no number, and that
  # times a weight of zero is none either.
  cache = gemma.extend(cache, more)
  fresh = (
    jnp.pad(sequences.positions, pad),
    jnp.pad(sequences.valid, pad),
    chosen.token,
    sequences.end,
  )

  def place(i, pool: DecodeState):
    def put(whole, part):
      one = jax.lax.dynamic_index_in_dim(part, i, 0)
      start = (rows[i], *(0,) * (whole.ndim - 1))
      return jax.lax.dynamic_update_slice(whole, one, start)

    return DecodeState(
      jax.tree.map(put, pool.cache, cache),
      *map(put, pool[1:], fresh),
    )

  return jax.lax.fori_loop(0, len(rows), place, pool), chosen


@functools.partial(
  jax.jit, static_argnames=('rows', 'ring', 'count'), donate_argnames='pool'
)
def decode(
  model: paligemma.Model,
  pool: DecodeState,
  step: Int[Array, ''],
  rows: int,
  ring: int,
  count: int,
) -> tuple[DecodeState, NextTokens]:
  """Adds tokens to the first rows, whether they are used or not.

  Args:
    model: The model, of which `llm` is used.
    pool: The pool; its buffers are used up.
    step: How many steps were made before, modulo `ring`.
    rows: How many rows.
    ring: How many slots the ring has, the last of the pool.
    count: How many tokens.

  Returns:
    The pool, and [count rows] tokens.
  """
  config, llm = model.config.text, model.params['llm']
  layers = gemma.unstack(config, llm)
  first = pool.at.shape[1] - ring
  part = pool if rows == len(pool.at) else _first(pool, rows)

  def body(part: DecodeState, t):
    slot = first + (step + t) % ring

    def put(whole, column):
      return jax.lax.dynamic_update_slice_in_dim(whole, column, slot, 1)

    at = put(part.at, part.position[:, None])
    visible = put(part.visible, jnp.ones((rows, 1), bool))
    mask = visible
    if config.window:
      near = part.position[:, None] - at < config.window
      mask = visible & near, visible
    x = gemma.embed(llm, part.token)
    x, cache = gemma.step(
      config, layers, x, part.position, part.cache, slot, mask
    )
    chosen = _choose(gemma.unembed(config, llm, x))
    part = DecodeState(cache, at, visible, chosen.token, part.position + 1)
    return part, chosen

  part, chosen = jax.lax.scan(body, part, jnp.arange(count))
  if rows == len(pool.at):
    return part, chosen
  return jax.tree.map(_write, pool, part), chosen


def _first(pool: DecodeState, rows: int) -> DecodeState:
  return jax.tree.map(lambda x: x[:rows], pool)


def _write(whole, part):
  return jax.lax.dynamic_update_slice_in_dim(whole, part, 0, 0)


def _choose(logits: Float[Array, 'b V']) -> NextTokens:
  token = jnp.argmax(logits, -1).astype(jnp.int32)
  total = jax.nn.logsumexp(logits, axis=-1)
  # A difference of two close numbers: rounding must not make it negative.
  bits = jnp.maximum(total - logits.max(-1), 0.0) / jnp.log(2.0)
  return NextTokens(token, bits)
