"""Models of released sizes with random weights, made on the device."""

import functools
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from collab_jax import checkpoints, sharding
from collab_jax.models import paligemma

# Odd multipliers of Knuth's and other multiplicative hashes, an axis each.
_MULTIPLIERS = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1
# Small enough for activations of any depth to stay finite.
_SPREAD = 0.04


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames='where')
def _weights(shape: tuple[int, ...], dtype: Any, seed: Any, where: Any = None):
  """Returns numbers between -0.02 and 0.02: a hash of their index.

  JAX's generator would take minutes for 3e9 of them on a CPU.
  """
  bits = jnp.full(shape, seed, jnp.uint32)
  for axis in range(len(shape)):
    index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    bits = (bits + index) * jnp.uint32(_MULTIPLIERS[axis])
    bits = bits ^ (bits >> 15)
  uniform = (bits >> 8).astype(jnp.float32) * 2.0**-24 - 0.5
  out = (_SPREAD * uniform).astype(dtype)
  return out if where is None else jax.lax.with_sharding_constraint(out, where)


def random_model(
  config: paligemma.Config,
  dtype: str = 'bfloat16',
  mesh: jax.sharding.Mesh | None = None,
  layout: str = 'stacked',
) -> paligemma.Model:
  """Makes a model of random weights, with the tokenizer of the tiny one.

  Args:
    config: The dimensions, in the layout 'stacked'.
    dtype: Dtype of the weights.
    mesh: The mesh to spread them over.
    layout: Layout of the weights, 'stacked' or 'transposed'; neither makes a
      copy of the other's.
  """
  shapes = paligemma.shapes(config)
  if layout == 'transposed':
    abstract = paligemma.Model(shapes, config)
    abstract = jax.eval_shape(paligemma.Model.transposed, abstract)
    shapes, config = abstract.params, abstract.config
  if mesh is not None:
    shapes = sharding.abstract(shapes, mesh)
  leaves, tree = jax.tree.flatten(shapes)
  made = [
    _weights(
      x.shape,
      jnp.dtype(dtype),
      np.uint32(seed),
      where=None if mesh is None else x.sharding,
    )
    for seed, x in enumerate(leaves)
  ]
  return paligemma.Model(
    jax.tree.unflatten(tree, made),
    config,
    checkpoints.load('tiny').tokenizer,
  )
