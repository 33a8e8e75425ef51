"""Checks every jaxtyping signature of the package while the tests run."""

import jax
import jaxtyping
import numpy as np

# Both before anything imports collab_jax. A JAX function takes a NumPy array
# wherever it takes its own, so that shapes and dtypes are checked of either.
jaxtyping.Array = jax.Array | np.ndarray
jaxtyping.install_import_hook(
  [
    f'collab_jax.{name}'
    for name in (
      'message',
      'config',
      'quantizers',
      'wire',
      'data',
      'metrics',
      'checkpoints',
      'codecs',
      'captioner',
      'evaluation',
    )
  ],
  'beartype.beartype',
)
