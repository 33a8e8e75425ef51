"""Eigenvectors of small symmetric matrices by the Jacobi method.

LAPACK, which JAX calls on a CPU, hands the matrices of a batch to the same
threads that wait for it: several programs at a time deadlock.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

# Convergence is quadratic: at 64 x 64 six are enough for float32.
_SWEEPS = 8


def largest(a: Float[Array, 'm m'], k: int) -> Float[Array, 'm k']:
  """Returns the eigenvectors of the k largest eigenvalues, as columns.

  Args:
    a: Positive semidefinite, of order 1.
    k: Number of eigenvectors, at most m.

  Source: the cyclic Jacobi method, in the order of a round-robin tournament,
  in which all rotations of a step are one product (Golub and Van Loan, 8.5).
  """
  m = a.shape[0]
  n = m + m % 2
  a = jnp.pad(a, (0, n - m))
  pairs = jnp.asarray(_rounds(n))

  def turn(i, state):
    a, vectors = state
    p, q = pairs[i % len(pairs)]
    off = a[p, q]
    ratio = (a[q, q] - a[p, p]) / jnp.where(off == 0, 1, 2 * off)
    sign = jnp.where(ratio < 0, -1.0, 1.0)
    tangent = sign / (jnp.abs(ratio) + jnp.sqrt(1 + ratio**2))
    tangent = jnp.where(off == 0, 0, tangent)
    cosine = 1 / jnp.sqrt(1 + tangent**2)
    sine = tangent * cosine
    turned = jnp.zeros_like(a).at[p, p].set(cosine).at[q, q].set(cosine)
    turned = turned.at[p, q].set(sine).at[q, p].set(-sine)
    a = _product(_product(turned.T, a), turned)
    return a, _product(vectors, turned)

  steps = _SWEEPS * len(pairs)
  a, vectors = jax.lax.fori_loop(
    0, steps, turn, (a, jnp.eye(n, dtype=jnp.float32))
  )
  # The padding has the value 0, and comes last.
  values = jnp.where(jnp.arange(n) < m, jnp.diagonal(a), -jnp.inf)
  order = jnp.argsort(-values, stable=True)[:k]
  return vectors[:m, order]


def _product(a, b):
  return jnp.matmul(a, b, precision='highest')


def _rounds(n: int) -> np.ndarray:
  """Returns the pairs of a round-robin tournament, i32[n - 1, 2, n / 2]."""
  players, rounds = list(range(n)), []
  for _ in range(n - 1):
    half = n // 2
    rounds.append([players[:half], players[half:][::-1]])
    players = [players[0], players[-1], *players[1:-1]]
  return np.array(rounds, np.int32)
