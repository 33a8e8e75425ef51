"""Fingerprints of pictures, by content."""

import hashlib

import numpy as np


def fingerprint(image: np.ndarray) -> str:
  """Returns the fingerprint of a picture as the model sees it.

  Args:
    image: The picture at the model's size, u8[H, W, 3].

  Returns:
    16 hexadecimal digits of BLAKE2b over numbers, shape and dtype.
  """
  image = np.ascontiguousarray(image)
  content = hashlib.blake2b(image.data, digest_size=8)
  content.update(f'{image.shape} {image.dtype}'.encode())
  return content.hexdigest()
