"""Captions in the making, on the host: which row is whose, and which program.

Every shape is one of a few, so that after a warm-up nothing is compiled. All of
it is called from one thread.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any, NamedTuple, cast

import jax
from jaxtyping import Bool, Float, Int
import numpy as np

from collab_jax import _validate
from collab_jax.models import paligemma
from collab_jax.serving.engine import decode_state as pools

# Prefixes shorter than this are padded to it, longer ones to a power of two.
_SHORTEST = 64


class HostPrefix(NamedTuple):
  """The prefix of one picture, on the host; see `message.Prefix`."""

  x: Float[np.ndarray, 'm M']
  valid: Bool[np.ndarray, ' m']
  positions: Int[np.ndarray, ' m']
  end: int


class PrefillRequest(NamedTuple):
  """A caption to make.

  Attributes:
    vectors: The picture.
    prompt: Ids of the prompt.
    max_tokens: The longest caption, its end included.
  """

  vectors: HostPrefix
  prompt: Sequence[int]
  max_tokens: int


class StepOutput(NamedTuple):
  """What happened to a caption.

  Attributes:
    row: Where it is.
    tokens: The new tokens; the end is none of them.
    bits: -log2 of the probability of each, and of the end if it was chosen.
    ended: Whether that is all; the row is free then.
  """

  row: int
  tokens: list[int]
  bits: list[float]
  ended: bool


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """Of what is computed at a time.

  Attributes:
    rows: Captions in the making.
    batch: Captions begun at a time.
    steps: Tokens by which captions go on until others may begin.
    max_tokens: The longest caption.
    max_prompt: The longest prompt in tokens.
  """

  rows: int = 32
  batch: int = 8
  steps: int = 4
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
  """Makes captions of many pictures at a time.

  Attributes:
    model: The model, of which `llm` is used.
    sizes: Of what is computed at a time.
    batches: How many captions may be begun at a time.
    broken: Whether an error on the device has cost all captions in the making;
      `reset` mends it.
  """

  def __init__(
    self, model: paligemma.Model, sizes: EngineConfig, prompt: int = 8
  ):
    """Binds a model; nothing is computed yet.

    Args:
      model: The model, with a tokenizer, on one device.
      sizes: Of what is computed at a time.
      prompt: Length of most prompts in tokens. Longer ones are padded to the
        longest; what is padded takes time, too.
    """
    self.model = model
    self.sizes = sizes
    self.batches = _powers(min(sizes.batch, sizes.rows), 2)
    self._parts = _powers(sizes.rows, 4)
    self._prompt = min(prompt, sizes.max_prompt)
    n = model.config.vision.num_tokens
    self._longest = n + sizes.max_prompt
    self._slots = self._longest + sizes.max_tokens
    self._lengths: list[int] = []  # Those that are compiled.
    self._eos = model.tokenizer.eos_id if model.tokenizer else 1
    self._left = [0] * sizes.rows  # Tokens that a row may still get.
    self._used = [False] * sizes.rows
    self._step = 0
    self._pool: pools.DecodeState | None = None
    self.broken = False

  @property
  def free(self) -> int:
    """How many more captions may begin."""
    return self._used.count(False)

  @property
  def active(self) -> int:
    """How many captions are in the making."""
    return self._used.count(True)

  def warm_up(self) -> Iterator[Callable[[], None]]:
    """Yields what compiles a program each, for prefixes of any length."""
    yield self.reset
    for rows in self._parts:
      yield lambda rows=rows: self._compile_steps(rows)
    yield from self.warm_up_length(self._longest - self.sizes.max_prompt)

  def warm_up_length(self, m: int) -> Iterator[Callable[[], None]]:
    """Yields what compiles a program each, for prefixes of m vectors."""
    n = self.model.config.vision.num_tokens
    bucket = min(max(_SHORTEST, 1 << (m - 1).bit_length()), n)
    lengths = {bucket + self._prompt, bucket + self.sizes.max_prompt}
    for length in sorted(lengths):
      if length in self._lengths:
        continue
      for batch in self.batches:
        yield lambda s=(batch, length): self._compile_prefill(*s)
      yield lambda length=length: self._add(length)

  def reset(self) -> None:
    """Forgets all captions; needed after an error, and at first."""
    self.lose()
    self._pool = pools.empty(
      self.model.config.text, self.sizes.rows, self._slots
    )
    self.broken = False

  def lose(self) -> None:
    """Gives up all captions; `reset` must be called before others begin."""
    self._used = [False] * self.sizes.rows
    self._step = 0
    self.broken = True

  def begin(self, works: Sequence[PrefillRequest]) -> list[StepOutput]:
    """Begins captions, and returns the first token of each.

    Args:
      works: At most as many as rows are free, and as `sizes.batch`.

    Returns:
      News of each; the rows are used until they have ended, or are released.
    """
    free = [row for row, used in enumerate(self._used) if not used]
    rows = free[: len(works)]
    batch = next(b for b in self.batches if b >= len(works))
    # What is there twice is computed twice, and is the same.
    filled = [*range(len(works)), *[0] * (batch - len(works))]
    sequences = self._sequences([works[i] for i in filled])
    places = np.array([rows[i] for i in filled], np.int32)
    for row, work in zip(rows, works, strict=True):
      self._used[row] = True
      self._left[row] = min(work.max_tokens, self.sizes.max_tokens)
    chosen = self._prefill(sequences, places)
    return [
      self._took(row, chosen.token[i : i + 1], chosen.bits[i : i + 1])
      for i, row in enumerate(rows)
    ]

  def advance(self) -> list[StepOutput]:
    """Goes on with all captions; returns news of each that is in the making."""
    used = [row for row, is_used in enumerate(self._used) if is_used]
    if not used:
      return []
    chosen = self._advance(next(p for p in self._parts if p > used[-1]))
    return [
      self._took(row, chosen.token[:, row], chosen.bits[:, row]) for row in used
    ]

  def release(self, row: int) -> None:
    """Gives up a caption; the row is free."""
    self._used[row] = False

  def split(self, count: int) -> int:
    """How many of so many pictures to take at a time.

    Args:
      count: At least 1.

    Returns:
      At most `count`. A batch that is nearly full is filled up, else a smaller
      one is taken: what is filled up, is computed for nothing.
    """
    count = min(count, self.batches[-1])
    above = next(b for b in self.batches if b >= count)
    return count if 4 * count > 3 * above else above // 2

  def _took(self, row, tokens, bits) -> StepOutput:
    """Takes tokens until a caption's end or its limit."""
    tokens = tokens[: self._left[row]].tolist()
    bits = bits[: self._left[row]].tolist()
    self._left[row] -= len(tokens)
    ended = not self._left[row]
    if self._eos in tokens:
      at = tokens.index(self._eos)
      tokens, bits, ended = tokens[:at], bits[: at + 1], True
    if ended:
      self.release(row)
    return StepOutput(row, tokens, bits, ended)

  def _sequences(self, works: Sequence[PrefillRequest]) -> Any:
    longest = max(len(w.vectors.x) + len(w.prompt) for w in works)
    length = next(n for n in self._lengths if n >= longest)
    made = self._blank(len(works), length)
    for i, (vectors, prompt, _) in enumerate(works):
      m, t = len(vectors.x), len(prompt)
      made.image[i, :m] = vectors.x
      made.tokens[i, m : m + t] = prompt
      made.text[i, m : m + t] = True
      made.valid[i, :m] = vectors.valid
      made.valid[i, m : m + t] = True
      made.positions[i, :m] = vectors.positions
      made.positions[i, m:] = vectors.end + np.arange(length - m)
      made.last[i] = m + t - 1
      made.end[i] = vectors.end + t
    return made

  def _blank(self, batch: int, length: int) -> Any:
    """`pools.Sequences` of arrays that can be written to."""
    width = self.model.config.text.width
    return cast(Any, pools.PrefillBatch)(
      image=np.zeros((batch, length, width), np.float32),
      tokens=np.zeros((batch, length), np.int32),
      text=np.zeros((batch, length), bool),
      valid=np.zeros((batch, length), bool),
      positions=np.zeros((batch, length), np.int32),
      last=np.zeros(batch, np.int32),
      end=np.zeros(batch, np.int32),
    )

  def _prefill(self, sequences, rows):
    return self._run(pools.prefill, sequences, rows)

  def _advance(self, rows: int):
    steps, ring = self.sizes.steps, self.sizes.max_tokens
    step = np.int32(self._step)
    chosen = self._run(pools.decode, step, rows, ring, steps)
    self._step = (self._step + steps) % ring
    return chosen

  def _run(self, program, *args) -> pools.NextTokens:
    """Runs what takes the pool and returns it; waits for the tokens."""
    self.broken = True
    self._pool, chosen = program(self.model, self._pool, *args)
    chosen = jax.device_get(chosen)
    self.broken = False
    return chosen

  def _compile_steps(self, rows: int) -> None:
    self._advance(rows)

  def _compile_prefill(self, batch: int, length: int) -> None:
    sequences = self._blank(batch, length)
    # All in row 0, and the same: nothing of it is used.
    sequences.valid[:] = True
    free = [row for row, used in enumerate(self._used) if not used]
    self._prefill(sequences, np.full(batch, free[0], np.int32))

  def _add(self, length: int) -> None:
    self._lengths = sorted({*self._lengths, length})


def _powers(most: int, base: int) -> list[int]:
  """The powers of a base below `most`, and `most`."""
  found, value = [], 1
  while value < most:
    found.append(value)
    value *= base
  return [*found, most]
