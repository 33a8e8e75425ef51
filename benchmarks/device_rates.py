"""Rates of this device: products of matrices, and reading of memory.

python -m benchmarks.device_rates

Measured on arrays that fill a share of its memory, medians of several runs.
"""

import statistics
import time
from typing import NamedTuple

import jax
from jax import numpy as jnp


class DeviceRates(NamedTuple):
  """Measured rates.

  Attributes:
    kind: Kind of the device.
    platform: 'cpu', 'gpu' or 'tpu'.
    memory: Bytes that programs may use; None if unknown.
    products: Operations a second in products of bfloat16 matrices, of float32
      ones on a CPU, if no dtype was asked for; 2 for a multiplication and an
      addition.
    bandwidth: Bytes a second that a sum over an array reads.
  """

  kind: str
  platform: str
  memory: int | None
  products: float
  bandwidth: float


def _seconds(run, repeats: int) -> float:
  jax.block_until_ready(run())  # Compiles.
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def measure(repeats: int = 5, dtype: str | None = None) -> DeviceRates:
  """Measures the rates of JAX's default device.

  Args:
    repeats: Timed runs of each.
    dtype: Dtype of the matrices, whose products are summed in float32, as those
      of the models; None for bfloat16, on a CPU float32, which older ones
      multiply faster.
  """
  device = jax.devices()[0]
  memory = (device.memory_stats() or {}).get('bytes_limit')
  on_cpu = device.platform == 'cpu'
  side, numbers = (2048, 1 << 26) if on_cpu else (8192, 1 << 30)
  default = jnp.float32 if on_cpu else jnp.bfloat16
  matrix = jnp.full((side, side), 1e-3, dtype or default)
  out = jnp.float32 if dtype else None
  multiply = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=out))
  seconds = _seconds(lambda: multiply(matrix), repeats)
  array = jnp.ones(numbers, default)  # A CPU would convert others.
  add = jax.jit(lambda a: jnp.sum(a, dtype=jnp.float32))
  reading = _seconds(lambda: add(array), repeats)
  return DeviceRates(
    device.device_kind,
    device.platform,
    memory,
    2 * side**3 / seconds,
    array.nbytes / reading,
  )


def main() -> None:
  """Prints the rates."""
  rates = measure()
  print(
    f'{rates.kind} ({rates.platform}): {rates.products / 1e12:.2f}e12'
    f' operations/s, {rates.bandwidth / 1e9:.0f} GB/s'
  )


if __name__ == '__main__':
  main()
