"""Image encoder on pictures of 0..255, with auxiliary outputs."""

import functools
import os
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, UInt8
import numpy as np

from collab_jax import message as messages
from collab_jax import sharding
from collab_jax.models import (
  encoder_aux,
  paligemma,
  siglip,
)


def to_float(
  images: UInt8[Array | np.ndarray, 'B H W 3'],
) -> Float[Array, 'B H W 3']:
  """Maps 0..255 to [-1, 1], as the image encoder expects."""
  return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1.0


# Compiled once per process for all codecs.
@functools.partial(jax.jit, static_argnames='split')
def features(
  model: paligemma.Model,
  split: str,
  images: UInt8[Array | np.ndarray, 'B H W 3'],
) -> Float[Array, 'B N D']:
  """Runs the image encoder, and the projection if the split is 'head'."""
  x = model.encode_image(to_float(images))
  return x if split == 'encoder' else model.project(x)


@functools.partial(jax.jit, static_argnames=('split', 'aux_inputs'))
def observed(
  model: paligemma.Model,
  split: str,
  images: UInt8[Array | np.ndarray, 'B H W 3'],
  aux_inputs: tuple[str, ...],
) -> tuple[Float[Array, 'B N D'], dict[str, Array]]:
  """Runs the image encoder as `features`, with auxiliary outputs."""
  vision, tower = model.config.vision, model.params['img']
  return observe(vision, tower, split, images, aux_inputs)


def observe(
  vision: siglip.VisionConfig,
  tower: siglip.Params,
  split: str,
  images: UInt8[Array | np.ndarray, 'B H W 3'],
  aux_inputs: tuple[str, ...],
) -> tuple[Float[Array, 'B N D'], dict[str, Array]]:
  """Runs the image tower as `observed` does, in a program of the caller's."""
  x, aux = encoder_aux.observe(vision, tower, to_float(images), aux_inputs)
  if split != 'encoder':
    x = siglip.project(vision, tower, x)
    if 'reduced' in aux:
      aux['reduced'] = siglip.project(vision, tower, aux['reduced'])
  return x, aux


@jax.jit
def _project(model, features):
  x = model.project(features)
  rows, n = x.shape[:2]
  positions = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (rows, n))
  end = jnp.full(rows, n, jnp.int32)
  return messages.Prefix(x, jnp.ones((rows, n), bool), positions, end)


def picture_prefix(
  model: paligemma.Model, images: UInt8[np.ndarray, 'B H W 3']
) -> messages.Prefix:
  """Runs the image encoder and the projection on a server's pictures."""

  def spread(batch):  # Puts a batch on the model's devices.
    return sharding.rows(batch, model.params)

  x = spread(features(model, 'encoder', spread(images)))
  return spread(_project(model, x))


def check_images(images: Any, size: int) -> None:
  """Raises ValueError unless these are pictures u8[B size size 3]."""
  dtype, shape = getattr(images, 'dtype', None), getattr(images, 'shape', ())
  if dtype != np.uint8:
    got = f'dtype {dtype}' if dtype else type(images).__name__
    do = "of floats in [0, 1] make it with np.round(255 * x).astype('uint8')"
    if isinstance(images, list | tuple):
      do = 'of a list make it with np.stack(images)'
    elif isinstance(images, str | os.PathLike):
      do = f'read it with data.read_image({os.fspath(images)!r}, {size})[None]'
    raise ValueError(
      f'images: got {got}, expected an array of uint8, 0..255; {do}'
    )
  if len(shape) != 4 or tuple(shape[1:]) != (size, size, 3):
    hint = (
      f'; readers give it: data.photos(size={size}), task.load(size={size})'
    )
    if len(shape) == 3:
      hint = '; one picture is a batch too: images[None]'
    raise ValueError(
      f'images: got shape {tuple(shape)}, expected [B, {size}, {size}, 3]:'
      f' pictures of the size of the model{hint}'
    )
