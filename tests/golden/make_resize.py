"""Records what Hugging Face and TensorFlow make of pictures in resize.npz.

Needs transformers (without torchvision), pillow and tensorflow:

  python tests/golden/make_resize.py
"""

import importlib.metadata
import pathlib

import numpy as np
from PIL import Image
import tensorflow as tf
from transformers.models.siglip import image_processing_pil_siglip

# Height, width, new side; both larger and smaller, and neither.
CASES = ((45, 61, 28), (70, 30, 28), (17, 90, 28), (20, 14, 28), (28, 28, 28))


def picture(seed, height, width):
  """Smooth areas, hard edges, noise, and clipped parts."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
  image = np.array(small.resize((width, height), Image.Resampling.NEAREST))
  image[height // 2 :] = small.resize((width, height)).crop(
    (0, height // 2, width, height)
  )
  noise = rng.integers(-30, 31, image.shape)
  image = np.clip(image + noise * (rng.random(image.shape) < 0.3), 0, 255)
  image[: height // 6] = 255
  return image.astype(np.uint8)


def main():
  """Writes resize.npz."""
  arrays = {}
  for number, (height, width, size) in enumerate(CASES):
    image = picture(number, height, width)
    arrays[f'{number}/image'] = image
    processor = image_processing_pil_siglip.SiglipImageProcessorPil(
      size={'height': size, 'width': size}
    )
    values = processor(Image.fromarray(image), return_tensors='np')
    values = np.asarray(values['pixel_values'])[0].transpose(1, 2, 0)
    arrays[f'{number}/hf_bicubic_values'] = values
    for name, antialias in (('bv_bilinear', False), ('bv_bilinear_aa', True)):
      resized = tf.image.resize(
        image, (size, size), 'bilinear', antialias=antialias
      )
      arrays[f'{number}/{name}'] = tf.cast(resized, tf.uint8).numpy()
  versions = [
    f'{name} {importlib.metadata.version(name)}'
    for name in ('transformers', 'pillow', 'tensorflow-cpu')
  ]
  arrays['versions'] = np.array(versions)
  path = pathlib.Path(__file__).with_name('resize.npz')
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size, *versions)


if __name__ == '__main__':
  main()
