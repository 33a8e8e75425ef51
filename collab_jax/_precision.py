"""Precision of float32 products: 'default' or 'highest'.

On a CPU both are float32. By default a GPU rounds the factors of float32
products to tf32, 10 bits of mantissa, and a TPU to bfloat16, 7 bits; 'highest'
makes them of float32, in several passes. Products of 16 bits are the same in
both.
"""

from collections.abc import Iterator
import contextlib
from typing import Any

import jax

from collab_jax import _validate

NAMES = ('default', 'highest')

_FIELD = 'jax_default_matmul_precision'  # Of JAX's config.

# Flags of JAX that change numbers, random ones among them.
FLAGS = (
  *('jax_enable_x64', 'jax_random_seed_offset'),
  'jax_threefry_partitionable',
)


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
  """Computes float32 products in a precision, in all threads.

  Args:
    name: One of `NAMES`; 'default' changes nothing, so that JAX's own setting
      in the environment wins.

  Raises:
    ValueError: There is no such precision.
  """
  _validate.choice('precision', name, NAMES)
  if name == 'default':
    yield
    return
  # JAX's own context manager is for a single thread.
  before = getattr(jax.config, _FIELD)
  jax.config.update(_FIELD, name)
  try:
    yield
  finally:
    jax.config.update(_FIELD, before)


def current() -> str:
  """Returns the precision in force, by JAX's name of it."""
  name = getattr(jax.config, _FIELD)
  return {None: 'default', 'float32': 'highest'}.get(name, str(name))


def describe(compute_dtype: str) -> dict[str, Any]:
  """Returns settings of this process on which computed numbers depend.

  Args:
    compute_dtype: Dtype of the model's products.

  Returns:
    'compute_dtype', 'precision', JAX's flags by name, and 'platform' where
    products of float32 are of other numbers on another one.
  """
  precision = current()
  exact = precision != 'default' or 'float32' not in compute_dtype
  return {
    'compute_dtype': compute_dtype,
    'precision': precision,
    **({} if exact else {'platform': jax.default_backend()}),
    **{name: getattr(jax.config, name) for name in FLAGS},
  }
