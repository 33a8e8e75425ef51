"""Residual codebook whose codes are exponential moving averages."""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers import base


class EmaCodebook(NamedTuple):
  """Codes, and the running sums and counts whose quotient they are.

  Attributes:
    codes: The codebooks.
    sums: Running sums of the vectors assigned to each code.
    counts: Running counts of those vectors.
  """

  codes: Float[Array, 'stages size d']
  sums: Float[Array, 'stages size d']
  counts: Float[Array, 'stages size']


def init(
  codes: Float[Array, 'stages size d'], counts: Float[Array, 'stages size']
) -> EmaCodebook:
  """Makes a codebook from codes and counts, which are raised to 1 at least."""
  counts = jnp.maximum(jnp.asarray(counts, jnp.float32), 1.0)
  codes = jnp.asarray(codes, jnp.float32)
  return EmaCodebook(codes, codes * counts[..., None], counts)


def params(book: EmaCodebook) -> base.Params:
  """Returns the parameters of `quantizers.ECVQ` and `ResidualVQ`."""
  share = book.counts / book.counts.sum(1, keepdims=True)
  bits = -jnp.log2(jnp.maximum(share, 2.0**-16))
  # Their sum is 2**16 roughly: nothing is coded with them in training.
  frequencies = jnp.maximum(jnp.round(share * 2**16), 1).astype(jnp.int32)
  return {'codes': book.codes, 'bits': bits, 'frequencies': frequencies}


def update(
  book: EmaCodebook,
  x: Float[Array, 'n d'],
  assigned: Int[Array, 'n stages'],
  key: Key[Array, ''],
  decay: float,
  min_count: float,
) -> EmaCodebook:
  """Moves each code towards the mean of the vectors assigned to it.

  Sums and counts become `decay` times themselves plus 1 - `decay` times those
  of the batch, and a code their quotient. A stage sees the residuals of all
  other stages. A dead code, with a count below `min_count`, is replaced by the
  residual of a random vector of the batch and gets the count 2 `min_count`; a
  code whose count is next to 0 stays as it is.

  All stages move at once: a shift that all vectors share moves the sum of the
  stages by stages * (1 - `decay`), which must not be above 1.

  Args:
    book: Codebook before the batch.
    x: Vectors of the batch.
    assigned: Codes of each vector.
    key: Random key of the vectors that replace dead codes.
    decay: From 1 - 1 / stages to 1.
    min_count: Running count below which a code is dead; 0 for never.

  Source: van den Oord et al. 2017, arXiv 1711.00937, appendix A.1; Zeghidour et
  al. 2021, arXiv 2107.03312, section III-C (dead codes).
  """
  stages, size, _ = book.codes.shape
  picked = book.codes[jnp.arange(stages), assigned]
  rebuilt = picked.sum(1)
  sums, counts, codes = [], [], []
  before = x
  for stage in range(stages):
    residual = x - rebuilt + picked[:, stage]
    rows = assigned[:, stage]
    total = jax.ops.segment_sum(residual, rows, size)
    count = jax.ops.segment_sum(jnp.ones(len(x)), rows, size)
    total = decay * book.sums[stage] + (1 - decay) * total
    count = decay * book.counts[stage] + (1 - decay) * count
    dead = count < min_count
    draw = jax.random.fold_in(key, stage)
    replacement = before[jax.random.randint(draw, (size,), 0, len(x))]
    count = jnp.where(dead, 2 * min_count, count)
    total = jnp.where(dead[:, None], replacement * count[:, None], total)
    counts.append(count)
    sums.append(total)
    mean = total / jnp.maximum(count, 1e-6)[:, None]
    unused = (count < 1e-6) & ~dead
    codes.append(jnp.where(unused[:, None], book.codes[stage], mean))
    before = before - picked[:, stage]
  return EmaCodebook(*(jnp.stack(part) for part in (codes, sums, counts)))


def soft_bits(
  book: EmaCodebook,
  x: Float[Array, 'n d'],
  assigned: Int[Array, 'n stages'],
  weight: float,
) -> Float[Array, '']:
  """Estimates the bits of a vector's codes, differentiably.

  At each stage, the code c of a residual x has a probability in proportion to
  2^-(|x - c|^2 / weight + bits(c)), where bits(c) follows from the codes'
  frequencies: the softened choice of an entropy-constrained quantizer. The
  estimate is the mean over that distribution, so that its gradient moves
  vectors towards frequent codes.

  Args:
    book: Codebook; gets no gradient.
    x: Vectors.
    assigned: Codes of each vector, from which residuals follow.
    weight: Cost of a bit in squared distance, above 0.

  Returns:
    Mean over the vectors of the sum over the stages.

  Source: Agustsson et al. 2017, arXiv 1704.00648 (soft assignment and the
  entropy of the codes).
  """
  bits = jax.lax.stop_gradient(params(book)['bits'])
  total = jnp.zeros(len(x))
  for stage, (codes, price) in enumerate(zip(book.codes, bits, strict=True)):
    codes = jax.lax.stop_gradient(codes)
    gaps = jnp.sum(codes * codes, 1) - 2 * x @ codes.T
    share = jax.nn.softmax(-jnp.log(2.0) * (gaps / weight + price))
    total += share @ price
    x = x - codes[assigned[:, stage]]
  return total.mean()
