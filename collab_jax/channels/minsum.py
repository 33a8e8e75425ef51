"""Decodes LDPC codes: normalised min-sum, layer by layer."""

import functools

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

# Shortened bits are known: likelier than any that were received.
KNOWN = 1e6
# Min-sum believes its checks too much; this weighs them down.
_SCALE = 0.75
# Stands where a check has no bit, so that it never is the least reliable one.
_SURE = 1e9


@functools.partial(jax.jit, static_argnames=('iterations',))
def decode(
  llr: Float[Array, 'words n'],
  edges: Int[Array | np.ndarray, 'layers degree lift'],
  iterations: int,
) -> tuple[Bool[Array, 'words n'], Bool[Array, ' words'], Int[Array, '']]:
  """Finds the code words nearest to what was received.

  One loop over iterations, and in it one over layers of checks that share no
  bit; every layer sees what the one before it found out, which takes half as
  many iterations as doing all at once. It ends when all words fit. A word that
  fits is not touched again, so that no word depends on the others.

  Args:
    llr: Log-likelihood ratios, positive where 0 is likelier.
    edges: For every layer and check the bits in it; n where there are fewer.
    iterations: Largest number of iterations.

  Returns:
    The decisions, True for 1; whether all checks of a word hold; and the
    number of iterations made.

  Source: Chen and Fossorier 2002 (normalised min-sum); Hocevar 2004
    (layered decoding).
  """
  words, n = llr.shape
  real = jnp.asarray(edges < n)[..., None]
  edges = jnp.asarray(edges)
  # Words last, so that a bit of all words lies together in memory.
  start = jnp.concatenate([llr.T, jnp.full((1, words), _SURE)])

  def fits(belief):
    ones = (belief < 0)[edges] & real
    return ~(ones.sum(1) % 2).any((0, 1))

  def layer(number, state):
    belief, told, done = state
    bits, there = edges[number], real[number]
    before = belief[bits]
    heard = before - told[number]
    size = jnp.abs(heard)
    least = size.min(0)
    at_least = size == least
    others = jnp.where(at_least, jnp.inf, size).min(0)
    others = jnp.where(at_least.sum(0) > 1, least, others)
    negative = heard < 0
    odd = negative.sum(0) % 2 == 1
    magnitude = _SCALE * jnp.where(at_least, others, least)
    say = jnp.where(negative ^ odd, -magnitude, magnitude)
    say = jnp.where(there, say, 0.0)
    new = jnp.where(done, before, jnp.where(there, heard + say, _SURE))
    belief = belief.at[bits].set(new)
    told = told.at[number].set(jnp.where(done, told[number], say))
    return belief, told, done

  def step(state):
    count, belief, told, done = state
    state = (belief, told, done)
    belief, told, done = jax.lax.fori_loop(0, len(edges), layer, state)
    return count + 1, belief, told, done | fits(belief)

  def unfinished(state):
    return (state[0] < iterations) & ~state[3].all()

  told = jnp.zeros((*edges.shape, words))
  state = (jnp.zeros((), jnp.int32), start, told, fits(start))
  count, belief, _, done = jax.lax.while_loop(unfinished, step, state)
  return (belief[:n] < 0).T, done, count
