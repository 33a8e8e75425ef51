"""Codebooks of residual stages, trained together for an entropy coder."""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from collab_jax.quantizers.vectors import (
  ecvq,
  symbol_tables,
)
from collab_jax.training.codebooks import minibatch_kmeans

# Weight, in vectors, of the codes before: codes without vectors stay.
_PRIOR_COUNT = 1.0


class ResidualCodebook(NamedTuple):
  """Codebooks of residual stages, whose codes add up.

  Attributes:
    codes: Rounded to float16.
    counts: Number of vectors of each.
    error: Mean squared distance of a vector from its sum of codes.
    bits: Mean bits of a vector's codes, with the frequencies of the counts.
  """

  codes: Float[np.ndarray, 'stages size d']
  counts: Int[np.ndarray, 'stages size']
  error: float
  bits: float


def refine(
  read: minibatch_kmeans.Read,
  count: int,
  codes: Float[np.ndarray, 'stages size d'],
  counts: Int[np.ndarray, 'stages size'],
  *,
  weight: int | float,
  beam: int,
  passes: int,
  batch: int = 8192,
) -> ResidualCodebook:
  """Optimizes the codes of all stages jointly.

  In turn, each vector is assigned the codes that `ecvq.search` finds,
  frequencies are counted anew, and all codes become the least-squares solution
  for the assignments.

  Args:
    read: Returns rows of the vectors.
    count: Number of vectors.
    codes: Initial codes: stages trained one after the other.
    counts: Number of vectors nearest to each.
    weight: Cost of a bit, as of `quantizers.ECVQ`.
    beam: As of `quantizers.ECVQ`.
    passes: Iterations; each reads all vectors.
    batch: Vectors at a time.

  Source: Chan, Gupta and Gersho 1992 (joint codebooks of stages); Chou,
  Lookabaugh and Gray 1989 (the weight).
  """
  batch = min(batch, count)

  def assign(codes, counts):
    """Assigns codes to all vectors."""
    rates = symbol_tables.bits(symbol_tables.normalized(counts)).astype(
      np.float32
    )
    total = _NormalEquations.zeros(codes.shape)
    for start in range(0, count, batch):
      rows = np.asarray(read(slice(start, min(start + batch, count))))
      padded = np.pad(rows, ((0, batch - len(rows)), (0, 0)))
      assigned = ecvq.search(jnp.asarray(padded), codes, weight * rates, beam)
      total.add(rows, np.asarray(assigned)[: len(rows)], codes)
    return total

  codes = _stored(codes)
  total = assign(codes, counts)
  for _ in range(passes):
    codes = _stored(total.solve(codes))
    total = assign(codes, total.counts)
  counts = total.counts
  shares = counts / count
  bits = -(shares * np.log2(np.maximum(shares, 1e-30))).sum()
  error = total.error / count
  return ResidualCodebook(
    codes, counts.astype(np.int64), float(error), float(bits)
  )


class _NormalEquations:
  """Normal equations of the codes, summed over the vectors.

  Attributes:
    pairs: Number of vectors that two codes share.
    sums: Sums of the vectors of each code.
    error: Sum of squared distances.
  """

  def __init__(self, pairs: np.ndarray, sums: np.ndarray):
    self.pairs, self.sums, self.error = pairs, sums, 0.0

  @classmethod
  def zeros(cls, shape: tuple[int, ...]) -> '_NormalEquations':
    stages, size, _ = shape
    return cls(np.zeros((stages, stages, size, size)), np.zeros(shape))

  def add(self, rows: np.ndarray, assigned: np.ndarray, codes: np.ndarray):
    stages, size, _ = codes.shape
    for s in range(stages):
      self.sums[s] += np.asarray(_segment_sum(rows, assigned[:, s], size=size))
      for t in range(stages):
        both = np.bincount(
          assigned[:, s] * size + assigned[:, t], None, size**2
        )
        self.pairs[s, t] += both.reshape(size, size)
    rebuilt = codes[np.arange(stages), assigned].sum(axis=1)
    self.error += float(((rows - rebuilt) ** 2).sum())

  @property
  def counts(self) -> np.ndarray:
    return np.stack([np.diag(pairs[s]) for s, pairs in enumerate(self.pairs)])

  def solve(self, codes: np.ndarray) -> np.ndarray:
    stages, size, d = codes.shape
    gram = self.pairs.transpose(0, 2, 1, 3).reshape(stages * size, -1)
    target = self.sums + _PRIOR_COUNT * codes
    gram = gram + _PRIOR_COUNT * np.eye(len(gram))
    return np.linalg.solve(gram, target.reshape(-1, d)).reshape(codes.shape)


def _stored(codes: np.ndarray) -> np.ndarray:
  """Rounds codes to the precision of a file."""
  return codes.astype(np.float16).astype(np.float32)


def _segment_sum(
  x: Float[np.ndarray, 'n d'], assigned: Int[np.ndarray, ' n'], size: int
) -> Array:
  return jax.ops.segment_sum(jnp.asarray(x), jnp.asarray(assigned), size)
