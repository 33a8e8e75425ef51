"""Picture files at a model's size."""

import os

from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps


def read(
  path: str | os.PathLike[str], size: int
) -> UInt8[np.ndarray, '{size} {size} 3']:
  """Reads a picture file and resizes it to a square, as PaliGemma does.

  Args:
    path: Any format that Pillow reads.
    size: Side in pixels.

  Returns:
    u8[size size 3], sRGB.
  """
  with Image.open(path) as picture:
    picture = ImageOps.exif_transpose(picture).convert('RGB')
    return np.asarray(
      picture.resize((size, size), Image.Resampling.BICUBIC), np.uint8
    )
