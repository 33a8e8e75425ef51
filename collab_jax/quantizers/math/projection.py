"""Projection to the first axes of a linear transform, and back."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def project(
  axes: Mapping[str, jax.Array], x: Float[Array, 'n d']
) -> Float[Array, 'n dims']:
  """Returns the coordinates of vectors.

  Args:
    axes: From `pretrained.principal_axes`.
    x: The vectors.
  """
  return jnp.matmul(x - axes['mean'], axes['forward'], precision='highest')


def reconstruct(
  axes: Mapping[str, jax.Array], z: Float[Array, 'n dims']
) -> Float[Array, 'n d']:
  """Returns the vectors of coordinates, with the mean of what was left out.

  Args:
    axes: From `pretrained.principal_axes`.
    z: The coordinates.
  """
  x = jnp.matmul(z, axes['inverse'], precision='highest')
  return x + axes['mean']
