"""Auxiliary outputs of the image encoder, for quantizers that need them."""

from collections.abc import Sequence
import dataclasses

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from collab_jax.models import siglip


def encode_reduced(
  config: siglip.VisionConfig,
  params: siglip.Params,
  images: Float[Array, 'B H W 3'],
  side: int,
) -> Float[Array, 'B n D']:
  """Encodes pictures after reducing them to fewer patches.

  Args:
    config: The tower's dimensions.
    params: The `img` tree.
    images: Pictures in [-1, 1], of the model's size.
    side: Patches in a row of the reduced picture.

  Returns:
    The features of side x side patches, like those of `encode`.

  Source: bicubic interpolation of the picture and linear interpolation of the
  positions, both of them averages where they shrink; FlexiViT, arXiv
  2212.08013, does so with the positions.
  """
  size = side * config.patch_size
  shape = (len(images), size, size, 3)
  small = jnp.clip(jax.image.resize(images, shape, 'cubic'), -1, 1)
  whole = config.image_size // config.patch_size
  table = params['pos_embedding'].reshape(whole, whole, -1)
  table = table.astype(jnp.float32)
  table = jax.image.resize(table, (side, side, table.shape[-1]), 'linear')
  params = params | {'pos_embedding': table.reshape(1, side * side, -1)}
  return siglip.encode(
    dataclasses.replace(config, image_size=size), params, small
  )


def observe(
  config: siglip.VisionConfig,
  params: siglip.Params,
  images: Float[Array, 'B H W 3'],
  aux_inputs: Sequence[str],
) -> tuple[Float[Array, 'B N D'], dict[str, Array]]:
  """Encodes pictures, with auxiliary outputs.

  Args:
    config: The tower's dimensions.
    params: The `img` tree.
    images: Pictures in [-1, 1].
    aux_inputs: As of `Quantizer.aux_inputs`.

  Returns:
    The features, and 'attention' f32[B N] or 'reduced' f32[B n D], or both.

  Raises:
    ValueError: Something else is asked for.
  """
  aux, asked = {}, 'attention' in aux_inputs
  x = siglip.encode(config, params, images, asked)
  if asked:
    x, aux['attention'] = x
  for need in aux_inputs:
    name, _, side = need.partition('=')
    if name == 'reduced' and side.isdecimal():
      aux[name] = encode_reduced(config, params, images, int(side))
    elif need != 'attention':
      raise ValueError(
        f"aux_inputs: got {need!r}, expected 'attention' or 'reduced=SIDE'"
      )
  return x, aux
