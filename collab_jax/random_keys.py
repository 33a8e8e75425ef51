"""Random keys of one kind, whatever JAX's default is.

A TPU's machine often sets JAX_DEFAULT_PRNG_IMPL=rbg. Numbers of that kind
depend on the size of the batch that they are drawn for, and those of
'threefry2x32' on the key alone.
"""

from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from collab_jax import _validate

IMPL = 'threefry2x32'


def make(seed: Any) -> jax.Array:
  """Returns the key of a seed, an integer, also a traced one."""
  return jax.random.key(seed, impl=IMPL)


def convert(name: str, keys: Any) -> jax.Array:
  """Returns keys of our kind, the same for equal seeds.

  Args:
    name: Name of the argument, for errors.
    keys: A key of any kind or an array of them, also as numbers, as
      `jax.random.PRNGKey` makes them.

  Returns:
    Keys of the same shape: keys of our kind as they are, others by their first
    two words, which are those of our kind's key of the seed.

  Raises:
    ValueError: They are no keys.
  """
  if isinstance(keys, jax.Array | np.ndarray):
    keys = jnp.asarray(keys)
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
      # The words of a key: two, or four of the other kinds.
      if keys.dtype == jnp.uint32 and keys.ndim and keys.shape[-1] in (2, 4):
        return jax.random.wrap_key_data(keys[..., :2], impl=IMPL)
    elif str(jax.random.key_impl(keys)) == IMPL:
      return keys
    else:
      words = jax.random.key_data(keys)
      return jax.random.wrap_key_data(words[..., :2], impl=IMPL)
  raise _validate.error(name, keys, 'jax.random.key(seed)')
