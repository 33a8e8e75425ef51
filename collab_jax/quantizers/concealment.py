"""Substitutes for the rows of a message that never arrived."""

from collections.abc import Collection

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from collab_jax import message as messages
from collab_jax.quantizers.math import geometry


def reassigned(
  message: messages.Message, received: Bool[Array, ' k']
) -> messages.Message:
  """Gives the vectors of lost clusters to the nearest that arrived.

  Each joins the cluster of the nearest vector on the grid whose centroid was
  received: neighbours look alike.

  Args:
    message: With 'assignments', the cluster of each vector.
    received: False for a cluster whose centroid was lost; one at least is True.
  """
  assignments = message['assignments']
  source = nearest(received[assignments])
  return {**message, 'assignments': assignments[source]}


def copied(
  message: messages.Message, rows: Collection[str], source: Int[Array, ' k']
) -> messages.Message:
  """Returns the message with row i of every field taken from row source[i]."""
  return {
    name: value[source] if name in rows else value
    for name, value in message.items()
  }


def nearest(received: Bool[Array, ' m']) -> Int[Array, ' m']:
  """Returns for each of m positions the nearest that was received.

  Positions make a square grid, row by row, if m is a square, else a line. Ties
  go to the lowest one; where nothing was received, all are position 0.
  """
  m = len(received)
  return closest(jnp.arange(m), jnp.arange(m), received, m)


def closest(
  positions: Int[Array, ' m'],
  sources: Int[Array, ' k'],
  received: Bool[Array, ' k'],
  n: int,
) -> Int[Array, ' m']:
  """Returns for each position which of the received sources is nearest to it.

  Args:
    positions: Positions among n vectors: of a square grid, row by row, if n is
      a square, else of a line.
    sources: Positions of the rows.
    received: False for a row that was lost.
    n: Number of vectors.
  """
  width = geometry.grid_width(n)
  down = sources[:, None] // width - positions // width
  across = sources[:, None] % width - positions % width
  away = jnp.where(received[:, None], down**2 + across**2, 2**30)
  return geometry.first_min(away)[0]
