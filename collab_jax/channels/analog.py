"""Analog transmission: pairs of numbers are the parts of symbols."""

import functools

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key
import numpy as np

from collab_jax import random_keys
from collab_jax.channels import fading, physical, theory


def transmit(
  values: Float[np.ndarray, 'k d'],
  link: physical.Physical,
  rng: np.random.Generator,
) -> tuple[Float[np.ndarray, 'k d'], float]:
  """Sends vectors without quantizing or coding them.

  Each is scaled to unit average power; two numbers make a complex symbol. The
  receiver, which knows the scale and the fading, computes the linear estimate
  of least squared error. Numbers get noise, and are never lost.

  Args:
    values: The vectors, finite.
    link: Its SNR, fading (a vector is a block) and symbol rate are used.
    rng: Generator of the noise.

  Returns:
    The estimates, float32, and the seconds of transmission.

  Source: Bourtsoulatze et al. 2019, 'Deep joint source-channel coding', whose
    power constraint this is; Goblick 1965.
  """
  rows, width = values.shape
  padded = np.zeros((rows, width + width % 2), np.float32)
  padded[:, :width] = values
  key = random_keys.make(rng.integers(1 << 32, dtype=np.uint32))
  snr = np.float32(theory.from_db(link.snr))
  estimate = _pass(key, padded, scale(padded), snr, kind=link.fading)
  seconds = rows * padded.shape[1] / 2 / link.symbol_rate
  return np.asarray(estimate)[:, :width], seconds


def scale(values: Float[np.ndarray, 'k d']) -> Float[np.ndarray, 'k 1']:
  """Returns the root mean square of each vector as float16, from 2^-14."""
  size = np.sqrt(np.mean(np.square(values, dtype=np.float64), 1, keepdims=True))
  return np.clip(size, 2.0**-14, 65504.0).astype('float16').astype('float32')


@functools.partial(jax.jit, static_argnames='kind')
def _pass(
  key: Key[Array, ''],
  values: Float[Array, 'k d'],
  scale: Float[Array, 'k 1'],
  snr: Float[Array, ''],
  *,
  kind: str,
) -> Float[Array, 'k d']:
  unit = (values / scale).reshape(len(values), -1, 2) / jnp.sqrt(2.0)
  symbols = jax.lax.complex(unit[..., 0], unit[..., 1])
  received, noise = fading.transmit(key, symbols, snr, kind)
  best = received / (1 + noise)
  parts = jnp.stack([best.real, best.imag], -1).reshape(values.shape)
  return parts * jnp.sqrt(2.0) * scale
