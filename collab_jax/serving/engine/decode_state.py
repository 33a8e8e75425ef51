"""Device side of continuous batching: the KV cache of all decode slots.

A decode slot holds one caption, in one row of every array. A step adds a token
to every slot and writes its keys and values at one cache index, the same for
all slots: the indices behind the prefix are a ring, and a step moves on by one.
No caption lives longer than the ring, so that it never overwrites its own
entries; entries that others wrote before it began are masked. So a caption may
begin and end at any step while the others go on.

Greedy search: the first of the likeliest tokens, as `decoding.Greedy`.

On a mesh the slots are spread over its axis 'data', and each device runs the
programs on its own: it needs nothing of another's.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
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
  jax.jit, static_argnames=('config', 'slots', 'length', 'dtype', 'mesh')
)
def empty(
  config: gemma.TextConfig,
  slots: int,
  length: int,
  dtype: str,
  mesh: Mesh | None = None,
) -> DecodeState:
  """Returns a state in which no slot is used.

  Args:
    config: The decoder's dimensions.
    slots: Number of decode slots R.
    length: Number of cache entries S: longest prefix, prompt and caption.
    dtype: Dtype of the cache.
    mesh: Mesh whose axis 'data' divides the slots; None for one device.
  """
  state = DecodeState(
    cache=gemma.empty_cache(config, slots, length, dtype),
    entry_position=jnp.zeros((slots, length), jnp.int32),
    visible=jnp.zeros((slots, length), bool),
    token=jnp.zeros(slots, jnp.int32),
    position=jnp.zeros(slots, jnp.int32),
  )
  return _keep_in_place(state, mesh)


@functools.partial(jax.jit, static_argnames='mesh', donate_argnames='state')
def prefill(
  model: paligemma.Model,
  state: DecodeState,
  sequences: PrefillBatch,
  slots: Int[Array, ' b'],
  counts: Int[Array, ' d'],
  mesh: Mesh | None = None,
) -> tuple[DecodeState, NextTokens]:
  """Begins captions.

  Args:
    model: The model, of which `llm` is used.
    state: The state; its buffers are donated.
    sequences: Prefixes and prompts, no longer than the prefix of the cache: as
      many for each device.
    slots: Decode slot of each, among those of its device.
    counts: Number of captions of each device; its other sequences are padding,
      which is written nowhere.
    mesh: The state's mesh.

  Returns:
    The state, and the first token of each.
  """
  data = PartitionSpec('data')
  state, chosen = _on_each_device(_prefill, mesh, (data,) * 4, (data, data))(
    model, state, sequences, slots, counts
  )
  return _keep_in_place(state, mesh), chosen


def _prefill(
  model: paligemma.Model,
  state: DecodeState,
  sequences: PrefillBatch,
  slots: Int[Array, ' b'],
  counts: Int[Array, ' 1'],
) -> tuple[DecodeState, NextTokens]:
  """Begins captions in the slots of one device."""
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

  return jax.lax.fori_loop(0, counts[0], write, state), chosen


@functools.partial(
  jax.jit,
  static_argnames=('slots', 'ring', 'count', 'mesh'),
  donate_argnames='state',
)
def decode(
  model: paligemma.Model,
  state: DecodeState,
  step: Int[Array, ''],
  slots: int,
  ring: int,
  count: int,
  mesh: Mesh | None = None,
) -> tuple[DecodeState, NextTokens]:
  """Runs decode steps in the first slots, whether they are used or not.

  Args:
    model: The model, of which `llm` is used.
    state: The state; its buffers are donated.
    step: Number of steps before, modulo `ring`.
    slots: Number of slots, of each device.
    ring: Number of cache entries of the ring, which are the last ones.
    count: Number of steps, and of tokens for each slot.
    mesh: The state's mesh.

  Returns:
    The state, and [count slots] tokens, those of the devices in turn.
  """
  data, columns = PartitionSpec('data'), PartitionSpec(None, 'data')
  run = functools.partial(_decode, slots=slots, ring=ring, count=count)
  state, chosen = _on_each_device(
    run, mesh, (data, PartitionSpec()), (data, columns)
  )(model, state, step)
  return _keep_in_place(state, mesh), chosen


def _decode(
  model: paligemma.Model,
  state: DecodeState,
  step: Int[Array, ''],
  *,
  slots: int,
  ring: int,
  count: int,
) -> tuple[DecodeState, NextTokens]:
  """Runs decode steps in the first slots of one device."""
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


def _on_each_device(
  fn: Callable[..., Any], mesh: Mesh | None, specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """Lets each device of the axis 'data' run a function on its part.

  Args:
    fn: `(model, *arguments) -> results`; of the model each device has all that
      is not split over 'model'.
    mesh: The mesh; None for one device.
    specs: Partitions of the arguments.
    out_specs: Partitions of the results.

  Returns:
    A function like `fn`, of the arrays of all devices.
  """
  if mesh is None:
    return fn
  # Over 'model' the compiler splits the work, if there is anything to split.
  split = mesh.shape['model'] > 1
  return jax.shard_map(
    fn,
    mesh=mesh,
    in_specs=(PartitionSpec(), *specs),
    out_specs=out_specs,
    axis_names={'data'} if split else set(mesh.axis_names),
    check_vma=False,
  )


def _keep_in_place(state: DecodeState, mesh: Mesh | None) -> DecodeState:
  """Keeps every array where the next program expects it."""
  if mesh is None:
    return state

  def keep(x):
    axes: list[str | None] = ['data', *[None] * (x.ndim - 1)]
    # Keys and values are [..., heads, E, S] or [..., heads, S, E].
    if x.ndim > 3 and x.shape[-3] % mesh.shape['model'] == 0:
      axes[-3] = 'model'
    where = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.lax.with_sharding_constraint(x, where)

  return jax.tree.map(keep, state)


def _choose(logits: Float[Array, 'b V']) -> NextTokens:
  token = jnp.argmax(logits, -1).astype(jnp.int32)
  total = jax.nn.logsumexp(logits, axis=-1)
  # A difference of two close numbers: rounding must not make it negative.
  bits = jnp.maximum(total - logits.max(-1), 0.0) / jnp.log(2.0)
  return NextTokens(token, bits)
