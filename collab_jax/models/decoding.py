"""Greedy search, sampling and beam search as one while loop.

A method sets the number of candidates (beams) of a picture and chooses the
tokens that continue them; the loop, the cache and the early stop are shared.
Shapes are static: R = B * beams rows, max_tokens columns.
"""

from collections.abc import Callable
import dataclasses
import re
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from collab_jax import _validate, config

PAD = 0


class Start(NamedTuple):
  """State of the decoder after the prefix.

  Attributes:
    logits: Scores of the first token.
    cache: Keys and values with room for the new tokens.
    visible: The cache slots that hold the prefix.
    position: Position of the first new token.
  """

  logits: Float[Array, 'B V']
  cache: Any
  visible: Bool[Array, 'B S']
  position: Int[Array, ' B']


class Choice(NamedTuple):
  """Continuations: row r continues parent[r] with token[r]."""

  parent: Int[Array, ' R'] | None
  token: Int[Array, ' R']
  score: Float[Array, ' R']


@runtime_checkable
class Method(Protocol):
  """Rule that chooses tokens; it draws them if it uses a key."""

  beams: int
  uses_key: bool

  def choose(
    self,
    logits: Float[Array, 'R V'],
    score: Float[Array, ' R'],
    done: Bool[Array, ' R'],
    keys: jax.Array | None,
  ) -> Choice:
    """Returns the continuation of every row."""
    ...

  def rank(
    self, score: Float[Array, ' R'], length: Int[Array, ' R']
  ) -> Float[Array, ' R']:
    """Returns the numbers by which a picture's best candidate is picked."""
    ...


def _log_probability(logits, token):
  logp = jax.nn.log_softmax(logits)
  return jnp.take_along_axis(logp, token[:, None], 1)[:, 0]


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Takes the most likely token; the first of equals."""

  beams = 1
  uses_key = False

  def choose(self, logits, score, done, keys) -> Choice:
    """Returns the first maximum of each row."""
    del done, keys
    return Choice(None, jnp.argmax(logits, -1).astype(jnp.int32), score)

  def rank(self, score, length):
    """Returns the score; there is only one candidate."""
    del length
    return score


@dataclasses.dataclass(frozen=True)
class Sample:
  """Draws from the softmax, optionally from its nucleus only.

  Attributes:
    temperature: Divides the logits; positive.
    top_p: Keeps the fewest tokens whose probabilities reach top_p.

  Source: Holtzman et al., arXiv 1904.09751.
  """

  temperature: float = 1.0
  top_p: float = 1.0

  beams = 1
  uses_key = True

  def __post_init__(self):
    if self.temperature <= 0:
      raise _validate.error(
        'temperature',
        self.temperature,
        'a positive number',
        'use Greedy() for the limit at 0',
      )
    if not 0 <= self.top_p <= 1:
      raise _validate.error('top_p', self.top_p, 'a number from 0 to 1')

  def choose(self, logits, score, done, keys) -> Choice:
    """Draws a token for each row with the row's own key."""
    del done
    if keys is None:
      raise _validate.error('key', None, 'jax.random.key(seed), to sample')
    scaled = logits / self.temperature
    if self.top_p < 1:
      order = jnp.sort(scaled, axis=-1, descending=True)
      p = jax.nn.softmax(order)
      # The first token always stays: the sum of those before it is zero.
      kept = jnp.cumsum(p, -1) - p <= self.top_p
      least = jnp.where(kept, order, jnp.inf).min(-1, keepdims=True)
      scaled = jnp.where(scaled >= least, scaled, -jnp.inf)
    token = jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)
    return Choice(None, token, score + _log_probability(logits, token))

  def rank(self, score, length):
    """Returns the score; there is only one candidate."""
    del length
    return score


@dataclasses.dataclass(frozen=True)
class Beam:
  """Keeps the candidates with the highest log-probability.

  A finished candidate stays in the beam with its score.

  Attributes:
    beams: Candidates per picture.
    alpha: The final choice is by score / length ** alpha; 0 ignores length.
  """

  beams: int = 2
  alpha: float = 0.0

  uses_key = False

  def __post_init__(self):
    if self.beams < 1:
      raise _validate.error('beams', self.beams, 'at least 1')

  def choose(self, logits, score, done, keys) -> Choice:
    """Returns the best continuations over a picture's candidates."""
    del keys
    logp = jax.nn.log_softmax(logits)
    vocabulary = logp.shape[-1]
    # A finished row has one continuation, which costs nothing.
    stay = jnp.where(jnp.arange(vocabulary) == PAD, 0.0, -jnp.inf)
    logp = jnp.where(done[:, None], stay, logp)
    total = (score[:, None] + logp).reshape(-1, self.beams * vocabulary)
    best, index = jax.lax.top_k(total, self.beams)
    first = jnp.arange(len(total))[:, None] * self.beams
    parent = first + index // vocabulary
    token = (index % vocabulary).astype(jnp.int32)
    return Choice(parent.ravel(), token.ravel(), best.ravel())

  def rank(self, score, length):
    """Returns the length-normalized score."""
    return score / length.astype(jnp.float32) ** self.alpha


NAMES: dict[str, type] = {'greedy': Greedy, 'sample': Sample, 'beam': Beam}


def make(text: str) -> Method:
  """Makes a decoding method from its text.

  Args:
    text: 'greedy', 'beam2' (short for 'beam(beams=2)'), 'beam(beams=4,
      alpha=0.6)', 'sample', 'sample(temperature=0.7,top_p=0.9)'.

  Returns:
    The method.

  Raises:
    ValueError: There is no such method or setting, or it is out of range.
  """
  short = re.fullmatch(r'beam(\d+)', text.strip())
  words = f'beam(beams={short[1]})' if short else text
  kind, settings = config.call(words, 'decoding', 'sample(top_p=0.9)')
  if kind not in NAMES:
    raise _validate.unknown('decoding', kind, NAMES)
  known = {f.name: type(f.default) for f in dataclasses.fields(NAMES[kind])}
  for name, value in settings.items():
    if name not in known:
      raise _validate.unknown(f'setting of {kind}', name, known)
    if isinstance(value, str) or not isinstance(value, int | known[name]):
      expected = 'a number' if known[name] is float else 'an integer'
      raise _validate.error(f'decoding: {name}', value, expected)
    settings[name] = known[name](value)
  return NAMES[kind](**settings)


def name(method: Any) -> str:
  """Returns the text from which `make` makes an equal method."""
  kinds = {kind: short for short, kind in NAMES.items()}
  kind = type(method)
  called = kinds.get(kind, f'{kind.__module__}:{kind.__qualname__}')
  settings = dataclasses.asdict(method)
  inside = ','.join(f'{key}={value}' for key, value in settings.items())
  return f'{called}({inside})' if inside else called


class _SearchState(NamedTuple):
  tokens: Int[Array, 'R max_tokens']
  done: Bool[Array, ' R']
  score: Float[Array, ' R']
  logits: Float[Array, 'R V']
  cache: Any
  visible: Bool[Array, 'R S']
  position: Int[Array, ' R']
  keys: Any


def _take(rows, tree):
  # All rows are there; JAX 0.7 cannot fill an array of keys.
  return jax.tree.map(lambda x: jnp.take(x, rows, axis=0, mode='clip'), tree)


def generate(
  step: Callable[..., tuple[jax.Array, Any]],
  start: Start,
  max_tokens: int,
  eos: int,
  method: Method,
  key: jax.Array | None = None,
  halvings: int = 0,
) -> Int[Array, 'B max_tokens']:
  """Writes tokens until every row has ended or max_tokens are written.

  Args:
    step: (token i32[R], position i32[R], cache, slot i32[], visible bool[R S])
      -> (logits f32[R V], cache), for any number of rows.
    start: The state after the prefix; its last max_tokens slots are free.
    max_tokens: Most tokens to write.
    eos: Token that ends a row.
    method: Rule that chooses tokens.
    key: One key, from which each row's is folded, or one key per row.
    halvings: Number of times to go on with half of the pictures once the
      others have ended. Worth it where a step's time grows with the rows;
      each compiles the step once more.

  Returns:
    The tokens, with 0 after a row's eos.
  """
  batch = start.visible.shape[0]
  rows, beams = batch * method.beams, method.beams
  if key is not None and key.ndim == 0:
    key = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))

  def repeat(x):
    return jnp.repeat(x, beams, axis=0) if beams > 1 else x

  state = _SearchState(
    tokens=jnp.full((rows, max_tokens), PAD, jnp.int32),
    done=jnp.zeros(rows, bool),
    # Only the first candidate counts at first, or all would be the same.
    score=jnp.where(jnp.arange(rows) % beams == 0, 0.0, -jnp.inf),
    logits=repeat(start.logits),
    cache=jax.tree.map(repeat, start.cache),
    visible=repeat(start.visible),
    position=repeat(start.position),
    keys=key,
  )
  search = _Search(step, max_tokens, eos, method)
  first = search.choose(jnp.zeros((), jnp.int32), state)
  tokens, score = search.run(*first, halvings)
  length = (tokens != PAD).sum(1)
  rank = method.rank(score, length).reshape(batch, beams)
  best = jnp.arange(batch) * beams + jnp.argmax(rank, axis=1)
  return tokens[best]


@dataclasses.dataclass(frozen=True)
class _Search:
  """Loop of `generate`: t tokens are written, the next is chosen."""

  step: Callable[..., tuple[jax.Array, Any]]
  max_tokens: int
  eos: int
  method: Method

  def choose(self, t, s: _SearchState) -> tuple[jax.Array, _SearchState]:
    """Writes the token at t."""
    keys = None
    if s.keys is not None:
      keys = jax.vmap(jax.random.fold_in, (0, None))(s.keys, t)
    choice = self.method.choose(s.logits, s.score, s.done, keys)
    if choice.parent is not None:
      tokens, done, cache, visible = _take(
        choice.parent, (s.tokens, s.done, s.cache, s.visible)
      )
      s = s._replace(tokens=tokens, done=done, cache=cache, visible=visible)
    token = jnp.where(s.done, PAD, choice.token)
    tokens = jax.lax.dynamic_update_slice_in_dim(s.tokens, token[:, None], t, 1)
    done = s.done | (token == self.eos)
    return t + 1, s._replace(tokens=tokens, done=done, score=choice.score)

  def advance(self, carry) -> tuple[jax.Array, _SearchState]:
    """Runs the decoder on the last token, and writes the next one."""
    t, s = carry
    token = jax.lax.dynamic_slice_in_dim(s.tokens, t - 1, 1, 1)[:, 0]
    slots = s.visible.shape[1]
    slot = slots - self.max_tokens + t - 1
    visible = s.visible | (jnp.arange(slots) == slot)
    position = s.position + t - 1
    logits, cache = self.step(token, position, s.cache, slot, visible)
    s = s._replace(logits=logits, cache=cache, visible=visible)
    return self.choose(t, s)

  def run(
    self, t, s: _SearchState, halvings: int
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the tokens and scores at the end."""
    beams = self.method.beams
    half = len(s.done) // beams // 2 if halvings else 0

    def ended(s):
      return s.done.reshape(-1, beams).all(1)

    t, s = jax.lax.while_loop(
      lambda c: (c[0] < self.max_tokens) & ((~ended(c[1])).sum() > half),
      self.advance,
      (t, s),
    )
    if not half:
      return s.tokens, s.score
    # The unfinished pictures, filled up with finished ones, which stay.
    pictures = jnp.argsort(ended(s), stable=True)[:half]
    rows = (pictures[:, None] * beams + jnp.arange(beams)).ravel()
    tokens, score = self.run(t, _take(rows, s), halvings - 1)
    return s.tokens.at[rows].set(tokens), s.score.at[rows].set(score)
