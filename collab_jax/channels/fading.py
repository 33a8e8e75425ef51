"""Gaussian noise and Rayleigh fading of symbols.

The signal-to-noise ratio is that of a symbol, Es/N0, averaged over the
fading; symbols and coefficients have unit average power, so the noise has a
mean squared magnitude of 1 / SNR, half of it in each part.
"""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Complex, Float, Key

KINDS = ('none', 'block', 'fast')


def transmit(
  key: Key[Array, ''],
  symbols: Complex[Array, 'blocks symbols'],
  snr: Float[Array, ''],
  fading: str,
) -> tuple[Complex[Array, 'blocks symbols'], Float[Array, 'blocks symbols']]:
  """Sends symbols through noise and fading, which the receiver undoes.

  Args:
    key: Random key.
    symbols: Symbols of unit average power.
    snr: Es/N0, as a ratio.
    fading: 'none' (white Gaussian noise only), or Rayleigh fading: 'block'
      (one coefficient per block) or 'fast' (one per symbol).

  Returns:
    The received symbols divided by their coefficients, and the mean squared
    magnitude of their noise.
  """
  fading_key, noise_key = jax.random.split(key)
  noise = _gaussian(noise_key, symbols.shape) / jnp.sqrt(snr)
  power = jnp.broadcast_to(1 / snr, symbols.shape)
  if fading == 'none':
    return symbols + noise, power
  shape = (len(symbols), 1) if fading == 'block' else symbols.shape
  gain = _gaussian(fading_key, shape)
  # Symbols with smaller coefficients are noise anyway.
  strength = jnp.maximum(jnp.square(jnp.abs(gain)), 1e-12)
  return symbols + noise * gain.conj() / strength, power / strength


def _gaussian(key, shape):
  """Draws circular complex Gaussian numbers of mean squared magnitude 1."""
  parts = jax.random.normal(key, (2, *shape), jnp.float32) * jnp.sqrt(0.5)
  return jax.lax.complex(parts[0], parts[1])
