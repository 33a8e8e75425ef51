"""Batching rule for algorithms with one matrix or loop per image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_or_vmap(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function of one image with its own rule for many.

  Under `vmap` a CPU takes one image after the other, so that its matrices
  stay in the cache and its loops end when they have; other devices take them
  side by side.

  Args:
    function: Arrays of one image to a tree of arrays.
  """
  solve = jax.custom_batching.custom_vmap(function)

  @solve.def_vmap
  def batched_rule(axis_size, batched, *args):
    args = [
      a if b else jnp.broadcast_to(a, (axis_size, *a.shape))
      for a, b in zip(args, batched, strict=True)
    ]
    out = jax.lax.platform_dependent(
      *args,
      cpu=lambda *a: jax.lax.map(lambda image: solve(*image), a),
      default=jax.vmap(function),
    )
    return out, jax.tree.map(lambda _: True, out)

  return solve
