"""A codebook of residual stages that moves with the vectors it is for."""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers import base


class Moving(NamedTuple):
  """Codes and the running sums that they are the quotient of.

  Attributes:
    codes: The codebooks.
    sums: Running sums of what each code stands for.
    counts: Running counts of the vectors for which each is chosen.
  """

  codes: Float[Array, 'stages size d']
  sums: Float[Array, 'stages size d']
  counts: Float[Array, 'stages size']


def start(
  codes: Float[Array, 'stages size d'], counts: Float[Array, 'stages size']
) -> Moving:
  """Starts from codes, and how often each was chosen, at least once."""
  counts = jnp.maximum(jnp.asarray(counts, jnp.float32), 1.0)
  codes = jnp.asarray(codes, jnp.float32)
  return Moving(codes, codes * counts[..., None], counts)


def params(book: Moving) -> base.Params:
  """Returns what `quantizers.ECVQ` and its like quantize with."""
  share = book.counts / book.counts.sum(1, keepdims=True)
  bits = -jnp.log2(jnp.maximum(share, 2.0**-16))
  # Of sum 2**16, roughly: nothing is coded with them in training.
  frequencies = jnp.maximum(jnp.round(share * 2**16), 1).astype(jnp.int32)
  return {'codes': book.codes, 'bits': bits, 'frequencies': frequencies}


def update(
  book: Moving,
  x: Float[Array, 'n d'],
  chosen: Int[Array, 'n stages'],
  key: Key[Array, ''],
  decay: float,
  least: float,
) -> Moving:
  """Moves each code to the running mean of what it was chosen for.

  sums and counts become `decay` times themselves plus 1 - `decay` times those
  of the batch, a code their quotient. What a code stands for is what the other
  stages leave of a vector. A code whose count is below `least` takes a vector
  of the batch, drawn, as the stages before leave it, and counts as `least`
  twice; one whose count is next to 0 stays what it is.

  All stages move at once: what all vectors have in common moves them stages
  times as far as 1 - `decay`, and too far if that is above 1.

  Args:
    book: Before.
    x: The vectors of a batch.
    chosen: The codes of each.
    key: What dead codes take is drawn from it.
    decay: From 1 - 1 / stages to 1.
    least: Below it, a code is dead; 0 leaves all as they are.

  Source: van den Oord et al. 2017, arXiv 1711.00937, appendix A.1; Zeghidour et
  al. 2021, arXiv 2107.03312, section III-C (dead codes).
  """
  stages, size, _ = book.codes.shape
  picked = book.codes[jnp.arange(stages), chosen]
  whole = picked.sum(1)
  sums, counts, codes = [], [], []
  before = x
  for stage in range(stages):
    left = x - whole + picked[:, stage]
    at = chosen[:, stage]
    total = jax.ops.segment_sum(left, at, size)
    count = jax.ops.segment_sum(jnp.ones(len(x)), at, size)
    total = decay * book.sums[stage] + (1 - decay) * total
    count = decay * book.counts[stage] + (1 - decay) * count
    dead = count < least
    draw = jax.random.fold_in(key, stage)
    fresh = before[jax.random.randint(draw, (size,), 0, len(x))]
    count = jnp.where(dead, 2 * least, count)
    total = jnp.where(dead[:, None], fresh * count[:, None], total)
    counts.append(count)
    sums.append(total)
    mean = total / jnp.maximum(count, 1e-6)[:, None]
    unused = (count < 1e-6) & ~dead
    codes.append(jnp.where(unused[:, None], book.codes[stage], mean))
    before = before - picked[:, stage]
  return Moving(*(jnp.stack(part) for part in (codes, sums, counts)))


def soft_bits(
  book: Moving,
  x: Float[Array, 'n d'],
  chosen: Int[Array, 'n stages'],
  weight: float,
) -> Float[Array, '']:
  """Bits of a vector's codes, with a gradient.

  At each stage, the code c of what the stages before leave is taken to be drawn
  with a probability in proportion to 2^-(|x - c|^2 / weight + bits(c)), bits
  being those of the codes' frequencies: the softened choice of an
  entropy-constrained quantizer. The bits are the mean of that draw, so that
  their gradient draws vectors to codes that are frequent.

  Args:
    book: Held.
    x: The vectors.
    chosen: Their codes, for what the stages leave.
    weight: What a bit costs in squared distance, above 0.

  Returns:
    The mean over the vectors of the sum over the stages.

  Source: Agustsson et al. 2017, arXiv 1704.00648 (soft assignment and the
  entropy of the codes).
  """
  still = jax.lax.stop_gradient
  bits = still(params(book)['bits'])
  total = jnp.zeros(len(x))
  for stage, (codes, price) in enumerate(zip(book.codes, bits, strict=True)):
    codes = still(codes)
    gaps = jnp.sum(codes * codes, 1) - 2 * x @ codes.T
    share = jax.nn.softmax(-jnp.log(2.0) * (gaps / weight + price))
    total += share @ price
    x = x - codes[chosen[:, stage]]
  return total.mean()
