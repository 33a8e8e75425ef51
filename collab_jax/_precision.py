"""Precision of float32 products: 'default' or 'highest'.

On a CPU both are float32. By default a GPU rounds the factors of float32
products to tf32, 10 bits of mantissa, and a TPU to bfloat16, 7 bits; 'highest'
makes them of float32, in several passes. Products of 16 bits are the same in
both.
"""

from collections.abc import Iterator
import contextlib

import jax

from collab_jax import _validate

NAMES = ('default', 'highest')

_FIELD = 'jax_default_matmul_precision'  # Of JAX's config.


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
