"""Host side of continuous batching: decode slots, and the compiled programs.

Assigns requests to decode slots and picks the program to run. Every shape is
one of a few, so that nothing is compiled after the warm-up. All calls must come
from one thread.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any, NamedTuple, cast

import jax
from jaxtyping import Bool, Float, Int
import numpy as np

from collab_jax import _validate, distributed, sharding
from collab_jax.models import common, paligemma
from collab_jax.serving.engine import decode_state, lockstep

# Prefixes shorter than this are padded to it, longer ones to a power of two.
_SHORTEST = 64
# Longer prompts are padded to this many tokens, or twice as many, and so on.
_COMMON_PROMPT = 64


class HostPrefix(NamedTuple):
  """Prefix of one picture, on the host; see `message.Prefix`."""

  x: Float[np.ndarray, 'm M']
  valid: Bool[np.ndarray, ' m']
  positions: Int[np.ndarray, ' m']
  end: int


class PrefillRequest(NamedTuple):
  """A caption to begin.

  Attributes:
    prefix: The picture.
    prompt: Ids of the prompt's tokens.
    max_tokens: Longest caption, its end included.
  """

  prefix: HostPrefix
  prompt: Sequence[int]
  max_tokens: int


class StepOutput(NamedTuple):
  """New tokens of one caption.

  Attributes:
    slot: Its decode slot.
    tokens: The new tokens, without the end.
    bits: -log2 of the probability of each, and of the end if it was chosen.
    ended: Whether the caption is complete; the slot is free then.
  """

  slot: int
  tokens: list[int]
  bits: list[float]
  ended: bool


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """Static engine sizes; all shapes of the compiled programs follow from them.

      EngineConfig(max_slots=32, max_prefill_batch=8, decode_steps=4)

  Attributes:
    max_slots: Captions that are decoded at a time, on each device over which
      the batches of the model's mesh are spread.
    max_prefill_batch: Captions that are begun at a time, likewise.
    decode_steps: Tokens per round, after which others may begin.
    max_tokens: Longest caption.
    max_prompt: Longest prompt in tokens.
  """

  max_slots: int = 32
  max_prefill_batch: int = 8
  decode_steps: int = 4
  max_tokens: int = 32
  max_prompt: int = 64

  def __post_init__(self):
    """Raises ValueError for sizes out of range."""
    for field in dataclasses.fields(self):
      _validate.integer(field.name, getattr(self, field.name))
    if self.max_prompt < 3:
      raise _validate.error(
        'max_prompt', self.max_prompt, 'at least 3: <bos>, text and newline'
      )


class Engine:
  """Decodes captions of many pictures at a time.

  Attributes:
    model: The model, of which `llm` is used.
    config: The static sizes.
    devices: Number of devices with decode slots of their own: the size of the
      axis 'data' of the model's mesh.
    max_slots: Captions that are decoded at a time, on all of them.
    batches: Sizes of the compiled prefill batches, ascending.
    broken: Whether an error on the device has cost all captions being decoded;
      `reset` mends it.
  """

  def __init__(
    self,
    model: paligemma.Model,
    config: EngineConfig,
    usual_prompt: int = 8,
  ):
    """Binds a model; nothing is computed yet.

    Args:
      model: The model, with a tokenizer, on one device or a mesh.
      config: The static sizes.
      usual_prompt: Length of most prompts in tokens. Longer ones are padded to
        the next power of two from 64 on: padding takes time, too.
    """
    self.model = model
    self.config = config
    mesh = sharding.mesh_of(model.params['llm'])
    self._mesh = mesh if mesh and mesh.size > 1 else None
    leads = sharding.spans_processes(mesh) and distributed.is_first()
    self._leader = lockstep.Leader() if leads else None
    self.devices = sharding.sizes(self._mesh)['data']
    self.max_slots = self.devices * config.max_slots
    self._batches = _powers(min(config.max_prefill_batch, config.max_slots), 2)
    self.batches = [self.devices * rows for rows in self._batches]
    self._slot_counts = _powers(config.max_slots, 4)
    self._usual_prompt = min(usual_prompt, config.max_prompt)
    self._max_prefill = model.config.vision.num_tokens + config.max_prompt
    self._cache_length = self._max_prefill + config.max_tokens
    self._cache_dtype = common.compute_dtype(
      model.config.text, model.params['llm']
    )
    self._lengths: list[int] = []  # Lengths for which prefill is compiled.
    self._eos = model.tokenizer.eos_id if model.tokenizer else 1
    # Slots of the first device come first, then those of the next.
    self._tokens_left = [0] * self.max_slots
    self._used = [False] * self.max_slots
    self._step = 0
    self._state: decode_state.DecodeState | None = None
    self.broken = False

  @property
  def room(self) -> int:
    """Number of captions that the next `prefill` can begin.

    These are the free decode slots, but on no device more than its part of the
    largest of `batches`.
    """
    return sum(min(len(s), self._batches[-1]) for s in self._free_slots())

  @property
  def active(self) -> int:
    """Number of captions being decoded."""
    return self._used.count(True)

  def warm_up(self) -> Iterator[Callable[[], object]]:
    """Yields functions that compile one program each, for full prefixes."""
    yield self.reset
    for slots in self._slot_counts:
      yield lambda slots=slots: self._decode(slots)
    yield from self.warm_up_length(self.model.config.vision.num_tokens)

  def warm_up_length(self, m: int) -> Iterator[Callable[[], object]]:
    """Yields functions that compile one program each, for m image vectors."""
    n = self.model.config.vision.num_tokens
    bucket = min(max(_SHORTEST, 1 << (m - 1).bit_length()), n)
    longest = self.config.max_prompt
    prompts = {self._usual_prompt, longest}
    # Of long prompts, most are shorter than the longest.
    prompts |= {n for n in _powers(longest, 2) if n >= _COMMON_PROMPT}
    for length in sorted(bucket + n for n in prompts):
      if length in self._lengths:
        continue
      for batch in self.batches:
        yield lambda s=(batch, length): self._compile_prefill(*s)
      yield lambda length=length: self._add_length(length)

  def reset(self) -> None:
    """Allocates an empty cache; needed at first, and after an error."""
    self.drop_all()
    self._tell('reset')
    self._reset()
    self.broken = False

  def close(self) -> None:
    """Lets other processes end that run the engine's programs, too."""
    if self._leader is not None:
      self._leader.end()
      self._leader = None

  def run_step(self, name: str, *arrays: np.ndarray) -> None:
    """Runs what the engine of process 0 runs; see `lockstep`.

    Args:
      name: 'reset', 'decode' or 'prefill'.
      *arrays: What the engine told.
    """
    if name == 'reset':
      self._reset()
    elif name == 'decode':
      slots, step = (int(array) for array in arrays)
      self._run_decode(slots, step)
    else:
      *fields, slots_of_rows, counts = arrays
      sequences = cast(Any, decode_state.PrefillBatch)(*fields)
      self._run_prefill(sequences, slots_of_rows, counts)

  def _tell(self, name: str, *arrays: Any) -> None:
    if self._leader is not None:
      self._leader.tell(name, *arrays)

  def _reset(self) -> None:
    self._state = decode_state.empty(*self._state_sizes(), self._mesh)

  @property
  def state_bytes(self) -> int:
    """Bytes of the state of all decode slots: keys and values, mostly."""
    sizes = self._state_sizes()
    shapes = jax.eval_shape(lambda: decode_state.empty(*sizes))
    leaves = jax.tree.leaves(shapes)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

  def _state_sizes(self) -> tuple[Any, int, int, str]:
    """Returns the arguments of `decode_state.empty`."""
    config, length = self.model.config.text, self._cache_length
    return config, self.max_slots, length, self._cache_dtype

  def drop_all(self) -> None:
    """Drops all captions; `reset` must be called before others begin."""
    self._used = [False] * self.max_slots
    self._step = 0
    self.broken = True

  def prefill(self, requests: Sequence[PrefillRequest]) -> list[StepOutput]:
    """Begins captions, and returns the first token of each.

    Args:
      requests: At most as many as there is `room` for.

    Returns:
      An output per request; their slots are used until the captions have
      ended, or are released.
    """
    slots = self._choose_slots(len(requests))
    each = self.config.max_slots
    by_device: list[list[int]] = [[] for _ in range(self.devices)]
    for i, slot in enumerate(slots):
      by_device[slot // each].append(i)
    most = max(map(len, by_device))
    batch = next(b for b in self._batches if b >= most)
    # Padding repeats a request, whose result is written once.
    rows = [i for some in by_device for i in (some + batch * [0])[:batch]]
    sequences = self._prefill_batch([requests[i] for i in rows])
    for slot, request in zip(slots, requests, strict=True):
      self._used[slot] = True
      limit = min(request.max_tokens, self.config.max_tokens)
      self._tokens_left[slot] = limit
    slot_of_row = np.array([slots[i] % each for i in rows], np.int32)
    counts = np.array([*map(len, by_device)], np.int32)
    chosen = self._prefill(sequences, slot_of_row, counts)
    row_of = {
      i: device * batch + place
      for device, some in enumerate(by_device)
      for place, i in enumerate(some)
    }
    return [
      self._output(
        slot,
        chosen.token[row_of[i] : row_of[i] + 1],
        chosen.bits[row_of[i] : row_of[i] + 1],
      )
      for i, slot in enumerate(slots)
    ]

  def decode(self) -> list[StepOutput]:
    """Runs `config.decode_steps` steps; returns an output for each caption."""
    used = [slot for slot, is_used in enumerate(self._used) if is_used]
    if not used:
      return []
    each = self.config.max_slots
    last = max(slot % each for slot in used)
    count = next(n for n in self._slot_counts if n > last)
    chosen = self._decode(count)
    column_of = {slot: slot // each * count + slot % each for slot in used}
    return [
      self._output(slot, chosen.token[:, column], chosen.bits[:, column])
      for slot, column in column_of.items()
    ]

  def release(self, slot: int) -> None:
    """Drops a caption and frees its slot."""
    self._used[slot] = False

  def split(self, count: int) -> int:
    """Chooses how many of `count` pictures to take into one batch.

    Args:
      count: At least 1.

    Returns:
      At most `count`. A batch that is nearly full is padded, else a smaller one
      is taken: padding is computed for nothing.
    """
    count = min(count, self.batches[-1])
    above = next(b for b in self.batches if b >= count)
    nearly_full = 4 * count > 3 * above or above == self.batches[0]
    return count if nearly_full else above // 2

  def _choose_slots(self, count: int) -> list[int]:
    """Returns free slots, in turn of the device that has the most."""
    free, chosen = self._free_slots(), []
    begun = [0] * self.devices
    for _ in range(count):
      open_ = [d for d, n in enumerate(begun) if n < self._batches[-1]]
      device = max(open_, key=lambda d: len(free[d]))
      begun[device] += 1
      chosen.append(free[device].pop(0))
    return chosen

  def _free_slots(self) -> list[list[int]]:
    """Returns the free slots of each device."""
    each = self.config.max_slots
    return [
      [s for s in range(d * each, (d + 1) * each) if not self._used[s]]
      for d in range(self.devices)
    ]

  def _output(self, slot: int, tokens: Any, bits: Any) -> StepOutput:
    """Cuts tokens at the caption's end or limit."""
    tokens = tokens[: self._tokens_left[slot]].tolist()
    bits = bits[: self._tokens_left[slot]].tolist()
    self._tokens_left[slot] -= len(tokens)
    ended = not self._tokens_left[slot]
    if self._eos in tokens:
      end = tokens.index(self._eos)
      tokens, bits, ended = tokens[:end], bits[: end + 1], True
    if ended:
      self.release(slot)
    return StepOutput(slot, tokens, bits, ended)

  def _prefill_batch(self, requests: Sequence[PrefillRequest]) -> Any:
    """Pads prefixes and prompts to a length that is compiled."""
    longest = max(len(r.prefix.x) + len(r.prompt) for r in requests)
    length = next(n for n in self._lengths if n >= longest)
    batch = self._blank(len(requests), length)
    for i, (prefix, prompt, _) in enumerate(requests):
      m, t = len(prefix.x), len(prompt)
      batch.image[i, :m] = prefix.x
      batch.tokens[i, m : m + t] = prompt
      batch.text[i, m : m + t] = True
      batch.valid[i, :m] = prefix.valid
      batch.valid[i, m : m + t] = True
      batch.positions[i, :m] = prefix.positions
      batch.positions[i, m:] = prefix.end + np.arange(length - m)
      batch.last[i] = m + t - 1
      batch.end[i] = prefix.end + t
    return batch

  def _blank(self, batch: int, length: int) -> Any:
    """Returns a `PrefillBatch` of writable zeros."""
    width = self.model.config.text.width
    return cast(Any, decode_state.PrefillBatch)(
      image=np.zeros((batch, length, width), np.float32),
      tokens=np.zeros((batch, length), np.int32),
      text=np.zeros((batch, length), bool),
      valid=np.zeros((batch, length), bool),
      positions=np.zeros((batch, length), np.int32),
      last=np.zeros(batch, np.int32),
      end=np.zeros(batch, np.int32),
    )

  def _decode(self, slots: int) -> decode_state.NextTokens:
    steps, ring = self.config.decode_steps, self.config.max_tokens
    self._tell('decode', slots, self._step)
    chosen = self._run_decode(slots, self._step)
    self._step = (self._step + steps) % ring
    return chosen

  def _run_decode(self, slots: int, step: int) -> decode_state.NextTokens:
    steps, ring = self.config.decode_steps, self.config.max_tokens
    return self._run(decode_state.decode, np.int32(step), slots, ring, steps)

  def _run(self, program, *args) -> decode_state.NextTokens:
    """Runs a program that updates the state; waits for its tokens."""
    self.broken = True
    self._state, chosen = program(self.model, self._state, *args, self._mesh)
    # Of devices of several hosts all of them get all tokens.
    chosen = jax.device_get(sharding.gather_tree(chosen))
    if self._leader is not None:
      self._leader.forget()
    self.broken = False
    return chosen

  def _prefill(
    self,
    sequences: Any,
    slots: Int[np.ndarray, ' b'],
    counts: Int[np.ndarray, ' d'],
  ) -> decode_state.NextTokens:
    self._tell('prefill', *sequences, slots, counts)
    return self._run_prefill(sequences, slots, counts)

  def _run_prefill(
    self,
    sequences: Any,
    slots: Int[np.ndarray, ' b'],
    counts: Int[np.ndarray, ' d'],
  ) -> decode_state.NextTokens:
    rows = sequences, slots, counts
    if self._mesh:  # Each device gets its own rows alone.
      rows = sharding.process_part(rows, self._mesh)
      rows = sharding.rows(rows, self.model.params)
    return self._run(decode_state.prefill, *rows)

  def _compile_prefill(self, batch: int, length: int) -> None:
    sequences = self._blank(batch, length)
    sequences.valid[:] = True
    # Nothing of it is written.
    counts = np.zeros(self.devices, np.int32)
    self._prefill(sequences, np.zeros(batch, np.int32), counts)

  def _add_length(self, length: int) -> None:
    self._lengths = sorted({*self._lengths, length})


def _powers(largest: int, base: int) -> list[int]:
  """Returns the powers of a base below `largest`, and `largest`."""
  powers, value = [], 1
  while value < largest:
    powers.append(value)
    value *= base
  return [*powers, largest]
