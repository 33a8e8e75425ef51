"""Decoder of LDPC codes: layered, normalised min-sum."""

import functools

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

# LLR of shortened bits, which are known: larger than any received one.
KNOWN = 1e6
# Normalisation: min-sum overestimates the messages of checks.
_SCALE = 0.75
# Magnitude where a check has no bit, so that it is never the minimum.
_SURE = 1e9


@functools.partial(jax.jit, static_argnames=('iterations',))
def decode(
  llr: Float[Array, 'words n'],
  edges: Int[Array | np.ndarray, 'layers degree lift'],
  iterations: int,
) -> tuple[Bool[Array, 'words n'], Bool[Array, ' words'], Int[Array, '']]:
  """Decodes received words.

  A loop over iterations has a loop over layers of checks without common bits.
  A layer uses the results of earlier layers, which halves the iterations that
  a flooding schedule takes. Decoding ends when all words satisfy their checks.
  Such a word does not change any more, so that words are independent.

  Args:
    llr: Log-likelihood ratios, positive where 0 is likelier.
    edges: Bits of each check in each layer, padded with n.
    iterations: Largest number of iterations.

  Returns:
    Decisions, True for 1; whether all checks of a word hold; and the number
    of iterations.

  Source: Chen and Fossorier 2002 (normalised min-sum); Hocevar 2004
    (layered decoding).
  """
  words, n = llr.shape
  real = jnp.asarray(edges < n)[..., None]
  edges = jnp.asarray(edges)
  # Words are the last axis, so that a bit of all words is contiguous.
  start = jnp.concatenate([llr.T, jnp.full((1, words), _SURE)])

  def satisfied(belief):
    ones = (belief < 0)[edges] & real
    return ~(ones.sum(1) % 2).any((0, 1))

  def layer(number, state):
    belief, messages, done = state
    bits, valid = edges[number], real[number]
    before = belief[bits]
    incoming = before - messages[number]
    size = jnp.abs(incoming)
    least = size.min(0)
    at_least = size == least
    second = jnp.where(at_least, jnp.inf, size).min(0)
    second = jnp.where(at_least.sum(0) > 1, least, second)
    negative = incoming < 0
    odd = negative.sum(0) % 2 == 1
    magnitude = _SCALE * jnp.where(at_least, second, least)
    outgoing = jnp.where(negative ^ odd, -magnitude, magnitude)
    outgoing = jnp.where(valid, outgoing, 0.0)
    new = jnp.where(valid, incoming + outgoing, _SURE)
    belief = belief.at[bits].set(jnp.where(done, before, new))
    outgoing = jnp.where(done, messages[number], outgoing)
    return belief, messages.at[number].set(outgoing), done

  def step(state):
    count, *state = state
    state = jax.lax.fori_loop(0, len(edges), layer, tuple(state))
    belief, messages, done = state
    return count + 1, belief, messages, done | satisfied(belief)

  def unfinished(state):
    return (state[0] < iterations) & ~state[3].all()

  messages = jnp.zeros((*edges.shape, words))
  state = (jnp.zeros((), jnp.int32), start, messages, satisfied(start))
  count, belief, _, done = jax.lax.while_loop(unfinished, step, state)
  return (belief[:n] < 0).T, done, count
