"""Batching rule for algorithms with one matrix or loop per image."""

from collections.abc import Callable
from typing import Any

import jax


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
    del axis_size
    axes = [0 if is_batched else None for is_batched in batched]

    def one_by_one(*args):
      rows = [a for a, b in zip(args, batched, strict=True) if b]

      def one(image):
        image = iter(image)
        return solve(
          *(next(image) if b else a for a, b in zip(args, batched, strict=True))
        )

      return jax.lax.map(one, rows)

    out = jax.lax.platform_dependent(
      *args, cpu=one_by_one, default=jax.vmap(function, axes)
    )
    return out, jax.tree.map(lambda _: True, out)

  return solve
