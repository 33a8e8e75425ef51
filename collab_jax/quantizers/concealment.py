"""What stands for the rows of a message that never arrived."""

from collections.abc import Collection
import dataclasses
import math
from typing import Any, cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from collab_jax import message as messages
from collab_jax.quantizers import base
from collab_jax.quantizers.math import geometry
from collab_jax.quantizers.transforms import base as base_lib


def row_fields(quantizer: base.Quantizer, n: int, d: int) -> tuple[str, ...]:
  """Returns the fields with a row for every vector that is sent.

  They are those that grow with the number of vectors: k where the quantizer
  has one, else n.

  Args:
    quantizer: Any quantizer.
    n: Number of vectors.
    d: Their width.
  """
  if isinstance(quantizer, base_lib.TransformWrapper):
    names = row_fields(quantizer.vectors, n, d)
    return tuple(base.prefix('vectors', dict.fromkeys(names)))
  fields = quantizer.fields(n, d)
  k = getattr(quantizer, 'k', None)
  if isinstance(k, int) and n > 1:
    count = k
    other, grown = _neighbour(quantizer, k, n, d)
  else:
    count, other = n, n + 1
    grown = quantizer.fields(other, d)
  return tuple(
    name
    for name, field in fields.items()
    if name in grown
    and field.shape[:1] == (count,)
    and grown[name].shape[:1] == (other,)
  )


def _neighbour(quantizer, k, n, d):
  """Returns the nearest other k that there can be, and its fields."""
  for other in sorted({*range(1, n + 1)} - {k}, key=lambda o: abs(o - k)):
    try:
      changed = dataclasses.replace(cast(Any, quantizer), k=other)
      return other, changed.fields(n, d)
    except ValueError:  # Not every k makes a grid, or leaves room.
      pass
  return k, {}


def conceal(
  quantizer: base.Quantizer,
  message: messages.Message,
  received: Bool[Array, ' k'],
  rows: Collection[str],
) -> messages.Message:
  """Returns a message that `dequantize` can read as if nothing were missing.

  A quantizer may have a method `conceal(message, received, rows)`, which knows
  better; without one a lost row is replaced by the nearest that arrived: on
  the grid if the rows make a square, else in their order.

  Args:
    quantizer: Any quantizer.
    message: With anything in the rows that were lost.
    received: False for a lost row; at least one is True.
    rows: What `row_fields` returned.
  """
  if isinstance(quantizer, base_lib.TransformWrapper):
    names = base.unprefix('vectors', dict.fromkeys(rows))
    inner = base.unprefix('vectors', message)
    inner = conceal(quantizer.vectors, inner, received, names)
    return base.prefix('vectors', inner)
  own = getattr(quantizer, 'conceal', None)
  if own is not None:
    return own(message, received, rows)
  return copied(message, rows, nearest(received))


def decode_partial(
  quantizer: base.Quantizer,
  params: base.Params,
  message: messages.Message,
  received: Bool[Array, ' k'],
  coarse: Collection[str],
) -> messages.Tokens:
  """Rebuilds the vectors, those of lost rows from their coarse layers only.

  Args:
    quantizer: A progressive quantizer. If row i does not make token i, it has a
      method `row_of(message)` that returns every token's row.
    params: Its parameters.
    message: With anything in the finer layers of the rows that were lost.
    received: False for a row whose finer layers were lost.
    coarse: The fields that arrived of all rows.

  Raises:
    ValueError: It is unknown which row makes a token.
  """
  fine = quantizer.dequantize(params, message)
  rough = quantizer.dequantize(params, {n: message[n] for n in coarse})
  inner, own = quantizer, message
  while isinstance(inner, base_lib.TransformWrapper):
    inner, own = inner.vectors, base.unprefix('vectors', own)
  row_of = getattr(inner, 'row_of', None)
  if row_of is not None:
    there = received[row_of(own)]
  elif fine.x.shape[0] == received.shape[0]:
    there = received
  else:
    raise ValueError(
      f'{type(quantizer).__name__} rebuilds {fine.x.shape[0]} vectors of'
      f' {received.shape[0]} rows and has no method row_of(message); add one'
    )
  return fine._replace(x=jnp.where(there[:, None], fine.x, rough.x))


def reassigned(
  message: messages.Message, there: Bool[Array, ' k']
) -> messages.Message:
  """Gives the vectors of lost clusters to the nearest that arrived.

  Each joins the cluster of the vector nearest to it on the grid whose centroid
  is there: what is next to it looks like it.

  Args:
    message: With 'assignments', the cluster of each vector.
    there: False for a cluster whose centroid was lost; at least one is True.
  """
  assignments = message['assignments']
  near = nearest(there[assignments])
  return {**message, 'assignments': assignments[near]}


def copied(
  message: messages.Message, rows: Collection[str], source: Int[Array, ' k']
) -> messages.Message:
  """Returns the message with row i of every field taken from row source[i]."""
  return {
    name: value[source] if name in rows else value
    for name, value in message.items()
  }


def nearest(received: Bool[Array, ' m']) -> Int[Array, ' m']:
  """Returns for each of m places the nearest that was received.

  Places make a square grid, row by row, if m is a square, else a line. Ties go
  to the lowest place; where nothing was received, everything is place 0.
  """
  m = len(received)
  side = math.isqrt(m)
  width = side if side * side == m else m
  return closest(jnp.arange(m), jnp.arange(m), received, width)


def closest(
  places: Int[Array, ' m'],
  sources: Int[Array, ' k'],
  received: Bool[Array, ' k'],
  width: int,
) -> Int[Array, ' m']:
  """Returns for each place which of the received sources lies nearest to it.

  Args:
    places: Positions on a grid, row by row.
    sources: Positions of what can stand for them.
    received: Which of these may be used.
    width: Of the grid.
  """
  down = sources[:, None] // width - places // width
  across = sources[:, None] % width - places % width
  away = jnp.where(received[:, None], down**2 + across**2, 2**30)
  return geometry.first_min(away)[0]
