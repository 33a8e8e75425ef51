"""Decoder of `<seg>` codes to masks, the half of a VQ-VAE.

A mask is a grid of 4 x 4 codes from a codebook of 128. Two residual blocks and
four transposed convolutions make 64 x 64 numbers of them, positive inside.

The weights, `vae-oid.npz`, are in no checkpoint of PaliGemma: they are a file
of their own, in PyTorch's layout, at gs://big_vision/paligemma/vae-oid.npz.

Source: Ning et al., arXiv 2301.02229; big_vision's
`transfers/segmentation.py`, equal on tests/golden/mask_decoder.npz.
"""

from collections.abc import Mapping
import functools
import os
from pathlib import Path
from typing import Any, cast
import zipfile

from flax import linen as nn
import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from collab_jax import _validate

CODES = 128  # in the codebook
LENGTH = 16  # codes of a mask
SIDE = 64  # of the mask
WHERE = 'gs://big_vision/paligemma/vae-oid.npz'

_WIDTH = 128
_BLOCKS = (2, 3)  # numbers in the file's names
_UPSAMPLED = {4: (128, 128), 6: (128, 64), 8: (64, 32), 10: (32, 16)}

_conv = functools.partial(nn.Conv, precision='highest')


class ResidualBlock(nn.Module):
  """Adds two convolutions of 3 x 3 and one of 1 x 1 to their input."""

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w 128']) -> Float[Array, 'B h w 128']:
    """Returns features of the same shape."""
    y = nn.relu(_conv(_WIDTH, (3, 3), padding=1, name='layer_0')(x))
    y = nn.relu(_conv(_WIDTH, (3, 3), padding=1, name='layer_2')(y))
    return x + _conv(_WIDTH, (1, 1), name='layer_4')(y)


class MaskDecoder(nn.Module):
  """Makes masks of the vectors of codes; parameters are from `load`.

  decode(load('vae-oid.npz'), codes)
  """

  @nn.compact
  def __call__(self, x: Float[Array, 'B 4 4 D']) -> Float[Array, 'B 64 64']:
    """Returns numbers that are positive inside of the mask."""
    x = nn.relu(_conv(_WIDTH, (1, 1), name='decoder_0')(x))
    for i in _BLOCKS:
      x = ResidualBlock(name=f'decoder_{i}')(x)
    for i, (_, width) in _UPSAMPLED.items():
      # Of the widened input: PyTorch's padding of 1 with a 4 x 4 kernel.
      upsample = nn.ConvTranspose(
        width,
        (4, 4),
        (2, 2),
        padding=2,
        transpose_kernel=True,
        precision='highest',
        name=f'decoder_{i}',
      )
      x = nn.relu(upsample(x))
    return _conv(1, (1, 1), name='decoder_12')(x)[..., 0]


Params = Mapping[str, Any]


@jax.jit
def decode(
  params: Params, codes: Int[Array | np.ndarray, 'B 16']
) -> Float[Array, 'B 64 64']:
  """Returns the masks of codes, positive inside.

  Args:
    params: From `load`.
    codes: 0 to 127, row by row from the top.
  """
  vectors = params['codebook'][codes].reshape(len(codes), 4, 4, -1)
  masks = MaskDecoder().apply({'params': params['layers']}, vectors)
  return cast(Array, masks)


def load(path: str | os.PathLike[str]) -> Params:
  """Reads the decoder's weights.

  Args:
    path: `vae-oid.npz`. Arrays of the encoder in it are not read.

  Returns:
    The codebook, and the parameters of the layers in Flax's layout.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It is no such file: an array is missing or has another shape.
  """
  if not Path(path).is_file():
    raise _validate.error(
      'mask decoder',
      os.fspath(path),
      'the file vae-oid.npz',
      f'get it from {WHERE}',
      FileNotFoundError,
    )
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return _params(arrays, os.fspath(path))
  except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
    raise ValueError(
      f'mask decoder: {error}; expected {WHERE}, whole'
    ) from error


def _params(arrays: Mapping[str, np.ndarray], path: str) -> Params:
  def array(name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    if name not in arrays:
      raise ValueError(f'{path} has no array {name!r}')
    value = arrays[name]
    same = len(shape) == value.ndim and all(
      want in (None, got) for want, got in zip(shape, value.shape, strict=True)
    )
    if not same or value.dtype.kind != 'f':
      raise ValueError(
        f'{path}: {name}: got {value.dtype}{value.shape}, expected floats of'
        f' the shape {shape}'
      )
    return value.astype(np.float32)

  def layer(name: str, *shape: int | None, transposed: bool = False) -> Params:
    """Returns a convolution; PyTorch's kernels are [out in h w]."""
    kernel = array(f'{name}.weight', shape)
    outputs = shape[1] if transposed else shape[0]
    return {
      'kernel': np.transpose(kernel, (2, 3, 1, 0)),
      'bias': array(f'{name}.bias', (outputs,)),
    }

  codebook = array('_vq_vae._embedding', (CODES, None))
  width = codebook.shape[1]
  layers = {'decoder_0': layer('decoder.0', _WIDTH, width, 1, 1)}
  for i in _BLOCKS:
    layers[f'decoder_{i}'] = {
      f'layer_{j}': layer(f'decoder.{i}.net.{j}', _WIDTH, _WIDTH, side, side)
      for j, side in ((0, 3), (2, 3), (4, 1))
    }
  for i, (wide, narrow) in _UPSAMPLED.items():
    name = f'decoder.{i}'
    layers[f'decoder_{i}'] = layer(name, wide, narrow, 4, 4, transposed=True)
  layers['decoder_12'] = layer('decoder.12', 1, 16, 1, 1)
  params = {'codebook': codebook, 'layers': layers}
  return jax.tree.map(jnp.asarray, params)
