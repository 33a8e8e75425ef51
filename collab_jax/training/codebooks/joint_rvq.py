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

# How many vectors the codes before count as: codes without any stay.
_HOLD = 1.0


class Stages(NamedTuple):
  """Codebooks whose codes add up.

  Attributes:
    codes: As float16 holds them.
    counts: How often each is chosen.
    error: Mean squared distance of a vector from its sum.
    bits: Mean of what its codes take, with the frequencies of the counts.
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
) -> Stages:
  """Moves the codes of all stages to where they serve together.

  In turn each vector gets the codes that `ecvq.search` finds, frequencies are
  those of the codes chosen, and all codes become the least squares of what they
  were chosen for.

  Args:
    read: Returns rows of the vectors.
    count: How many vectors there are.
    codes: Where to start: stages trained one after the other.
    counts: How often each is nearest.
    weight: What a bit costs, as of `quantizers.ECVQ`.
    beam: As of `quantizers.ECVQ`.
    passes: How often; each reads all vectors.
    batch: Vectors at a time.

  Source: Chan, Gupta and Gersho 1992 (joint codebooks of stages); Chou,
  Lookabaugh and Gray 1989 (the weight).
  """
  batch = min(batch, count)

  def spend(codes, counts):
    """Chooses codes for all vectors."""
    rates = symbol_tables.bits(symbol_tables.normalized(counts)).astype(
      np.float32
    )
    total = _Sums.zeros(codes.shape)
    for start in range(0, count, batch):
      rows = np.asarray(read(slice(start, min(start + batch, count))))
      padded = np.pad(rows, ((0, batch - len(rows)), (0, 0)))
      found = ecvq.search(jnp.asarray(padded), codes, weight * rates, beam)
      total.add(rows, np.asarray(found)[: len(rows)], codes)
    return total

  codes = _stored(codes)
  total = spend(codes, counts)
  for _ in range(passes):
    codes = _stored(total.solve(codes))
    total = spend(codes, total.counts)
  counts = total.counts
  chances = counts / count
  bits = -(chances * np.log2(np.maximum(chances, 1e-30))).sum()
  error = total.error / count
  return Stages(codes, counts.astype(np.int64), float(error), float(bits))


class _Sums:
  """What a pass over the vectors adds up.

  Attributes:
    pairs: How often two codes are chosen together.
    sums: Of the vectors for which a code is chosen.
    error: Squared distances.
  """

  def __init__(self, pairs: np.ndarray, sums: np.ndarray):
    self.pairs, self.sums, self.error = pairs, sums, 0.0

  @classmethod
  def zeros(cls, shape: tuple[int, ...]) -> '_Sums':
    stages, size, _ = shape
    return cls(np.zeros((stages, stages, size, size)), np.zeros(shape))

  def add(self, rows: np.ndarray, chosen: np.ndarray, codes: np.ndarray):
    stages, size, _ = codes.shape
    for s in range(stages):
      self.sums[s] += np.asarray(_summed(rows, chosen[:, s], size=size))
      for t in range(stages):
        both = np.bincount(chosen[:, s] * size + chosen[:, t], None, size**2)
        self.pairs[s, t] += both.reshape(size, size)
    rebuilt = codes[np.arange(stages), chosen].sum(axis=1)
    self.error += float(((rows - rebuilt) ** 2).sum())

  @property
  def counts(self) -> np.ndarray:
    return np.stack([np.diag(pairs[s]) for s, pairs in enumerate(self.pairs)])

  def solve(self, codes: np.ndarray) -> np.ndarray:
    stages, size, d = codes.shape
    gram = self.pairs.transpose(0, 2, 1, 3).reshape(stages * size, -1)
    held = self.sums + _HOLD * codes
    gram = gram + _HOLD * np.eye(len(gram))
    return np.linalg.solve(gram, held.reshape(-1, d)).reshape(codes.shape)


def _stored(codes: np.ndarray) -> np.ndarray:
  """Codes as they will be read."""
  return codes.astype(np.float16).astype(np.float32)


def _summed(
  x: Float[np.ndarray, 'n d'], chosen: Int[np.ndarray, ' n'], size: int
) -> Array:
  return jax.ops.segment_sum(jnp.asarray(x), jnp.asarray(chosen), size)
