r"""Modulation of bits to complex symbols, and demodulation to likelihoods.

Symbols have unit average power. BPSK is real. QPSK, 16-QAM and 64-QAM are two
pulse-amplitude modulations side by side: the first half of a symbol's bits
chooses the real part, the second the imaginary one. Levels are Gray-labelled,
so that neighbours differ in one bit; the first bit is the sign, and 0 is
positive.
"""

import functools
import itertools

import jax
from jax import numpy as jnp
from jaxtyping import Array, Complex, Float, Int
import numpy as np

# Bits per symbol.
BITS = {'bpsk': 1, 'qpsk': 2, '16qam': 4, '64qam': 6}


@functools.cache
def _axis(modulation: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns the levels of an axis by label, and the labels' bits."""
  bits = BITS[modulation]
  per_axis = max(1, bits // 2)
  labels = np.array(list(itertools.product((0, 1), repeat=per_axis)))
  # Gray code to binary: each bit is the parity of those before it.
  binary = np.bitwise_xor.accumulate(labels, axis=1)
  place = binary @ (1 << np.arange(per_axis)[::-1])
  levels = 2.0**per_axis - 1 - 2 * place
  power = np.mean(levels**2) * (1 if bits == 1 else 2)
  return levels / np.sqrt(power), labels


def modulate(
  bits: Int[Array, '... bits'], modulation: str
) -> Complex[Array, '... symbols']:
  """Maps bits to symbols.

  Args:
    bits: 0 and 1; a multiple of the bits per symbol along the last axis.
    modulation: A key of `BITS`.

  Returns:
    Symbols, complex64, of unit average power over all bits.
  """
  levels, labels = _axis(modulation)
  width = labels.shape[1]
  groups = bits.reshape(*bits.shape[:-1], -1, width)
  index = groups @ (1 << np.arange(width)[::-1])
  parts = jnp.asarray(levels, jnp.float32)[index]
  if BITS[modulation] == 1:
    return parts.astype(jnp.complex64)
  pairs = parts.reshape(*parts.shape[:-1], -1, 2)
  return jax.lax.complex(pairs[..., 0], pairs[..., 1])


def demodulate(
  symbols: Complex[Array, '... symbols'],
  noise: Float[Array, '...'],
  modulation: str,
) -> Float[Array, '... bits']:
  """Computes max-log likelihood ratios of the bits.

  Args:
    symbols: Received symbols, divided by the channel's coefficients.
    noise: Mean squared magnitude of their noise, of a shape that broadcasts
      to the symbols'.
    modulation: A key of `BITS`.

  Returns:
    For each bit log P(received | 0) - log P(received | 1), each probability
    replaced by that of its nearest symbol: positive where 0 is likelier.

  Source: Viterbi 1998, 'An intuitive justification and a simplified
    implementation of the MAP decoder'; signs checked against komm.
  """
  levels, labels = _axis(modulation)
  single = BITS[modulation] == 1
  parts = [symbols.real] if single else [symbols.real, symbols.imag]
  ratios = []
  for part in parts:
    distance = jnp.square(part[..., None] - jnp.asarray(levels, jnp.float32))
    for bit in labels.T:
      to_zero = distance[..., np.flatnonzero(bit == 0)].min(-1)
      to_one = distance[..., np.flatnonzero(bit == 1)].min(-1)
      ratios.append((to_one - to_zero) / noise)
  llr = jnp.stack(jnp.broadcast_arrays(*ratios), -1)
  return llr.reshape(*llr.shape[:-2], -1)
