"""Masks of codes: big_vision's numbers, an oracle in NumPy, and bad files."""

import pathlib

import numpy as np
import pytest

from collab_jax.models import mask_decoder

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'mask_decoder.npz'


def weights(seed=0, width=32):
  """Random weights in the layout of vae-oid.npz, as the record's script has."""
  rng = np.random.default_rng(seed)
  shapes = {'decoder.0': (128, width, 1, 1)}
  for block in (2, 3):
    for layer, side in ((0, 3), (2, 3), (4, 1)):
      shapes[f'decoder.{block}.net.{layer}'] = (128, 128, side, side)
  for layer, sides in zip(
    (4, 6, 8, 10), ((128, 128), (128, 64), (64, 32), (32, 16)), strict=True
  ):
    shapes[f'decoder.{layer}'] = (*sides, 4, 4)
  shapes['decoder.12'] = (1, 16, 1, 1)
  arrays = {'_vq_vae._embedding': rng.standard_normal((128, width))}
  for name, shape in shapes.items():
    transposed = shape[2] == 4
    fan_in = shape[0] * 4 if transposed else np.prod(shape[1:])
    outputs = shape[1] if transposed else shape[0]
    arrays[f'{name}.weight'] = rng.standard_normal(shape) * fan_in**-0.5
    arrays[f'{name}.bias'] = rng.standard_normal(outputs) * 0.1
  return {name: value.astype(np.float32) for name, value in arrays.items()}


def write(folder, arrays):
  path = folder / 'vae-oid.npz'
  np.savez(path, **arrays)
  return path


def test_masks_are_big_visions(tmp_path):
  golden = np.load(GOLDEN)
  params = mask_decoder.load(write(tmp_path, weights(int(golden['seed']))))
  masks = mask_decoder.decode(params, golden['codes'])
  np.testing.assert_allclose(masks, golden['masks'], atol=2e-5)
  assert (np.asarray(masks) > 0).mean() > 0.02


def convolved(x, kernel, bias):
  """PyTorch's convolution of [in h w] by [out in k k], padded to its size."""
  side = kernel.shape[2]
  padded = np.pad(x, ((0, 0), *[(side // 2, side // 2)] * 2))
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, (side, side), (1, 2)
  )
  return np.einsum('ihwab,oiab->ohw', windows, kernel) + bias[:, None, None]


def transposed(x, kernel, bias):
  """PyTorch's transposed one of [in out 4 4]: stride 2, padding 1."""
  _, height, width = x.shape
  output = np.zeros((kernel.shape[1], 2 * height + 2, 2 * width + 2))
  for i in range(height):
    for j in range(width):
      patch = np.einsum('i,ioab->oab', x[:, i, j], kernel)
      output[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += patch
  return output[:, 1:-1, 1:-1] + bias[:, None, None]


def oracle(arrays, codes):
  def of(name):
    return arrays[f'{name}.weight'].astype(float), arrays[f'{name}.bias']

  vectors = arrays['_vq_vae._embedding'][codes].reshape(4, 4, -1)
  x = np.maximum(convolved(vectors.transpose(2, 0, 1), *of('decoder.0')), 0)
  for block in (2, 3):
    y = x
    for layer in (0, 2, 4):
      y = convolved(y, *of(f'decoder.{block}.net.{layer}'))
      y = np.maximum(y, 0) if layer < 4 else y
    x = x + y
  for layer in (4, 6, 8, 10):
    x = np.maximum(transposed(x, *of(f'decoder.{layer}')), 0)
  return convolved(x, *of('decoder.12'))[0]


def test_layers_are_those_of_an_oracle(tmp_path):
  arrays = weights(seed=3, width=8)
  params = mask_decoder.load(write(tmp_path, arrays))
  codes = np.random.default_rng(0).integers(0, 128, (2, 16))
  masks = mask_decoder.decode(params, codes)
  for mask, row in zip(masks, codes, strict=True):
    np.testing.assert_allclose(mask, oracle(arrays, row), atol=1e-4)


def spoilt(name, change):
  arrays = weights()
  arrays[name] = change(arrays[name])
  return arrays


@pytest.mark.parametrize(
  ('arrays', 'said'),
  [
    ({}, "has no array '_vq_vae._embedding'"),
    (
      {k: v for k, v in weights().items() if k != 'decoder.6.bias'},
      "has no array 'decoder.6.bias'",
    ),
    (
      spoilt('decoder.4.weight', lambda x: x[:, :, :3]),
      r'decoder.4.weight: got float32\(128, 128, 3, 4\), expected floats of'
      r' the shape \(128, 128, 4, 4\)',
    ),
    (
      spoilt('_vq_vae._embedding', lambda x: x.astype(int)),
      r'got int64\(128, 32\)',
    ),
    (
      spoilt('decoder.0.weight', lambda x: x.astype(object)),
      'Object arrays cannot be loaded',
    ),
  ],
)
def test_other_files_are_refused(tmp_path, arrays, said):
  with pytest.raises(ValueError, match=said):
    mask_decoder.load(write(tmp_path, arrays))


def test_missing_and_damaged_files(tmp_path):
  path = tmp_path / 'vae-oid.npz'
  with pytest.raises(FileNotFoundError, match='get it from gs://big_vision'):
    mask_decoder.load(path)
  path.write_bytes(b'PK\x03\x04 cut off')
  with pytest.raises(ValueError, match=r'mask decoder: .*, whole'):
    mask_decoder.load(path)
