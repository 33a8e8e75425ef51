"""What crossing the link cost: 8 times the bytes, and nothing estimated."""


def bits(data: bytes) -> int:
  """Number of bits that were sent."""
  return 8 * len(data)


def bpp(data: bytes, height: int, width: int) -> float:
  """Bits sent per pixel of the input picture.

  Args:
    data: What crossed the link for one picture.
    height: Of the picture as it entered the encoder, in pixels.
    width: The same.

  Returns:
    Bits per pixel.

  Raises:
    ValueError: The picture has no pixels.
  """
  if height < 1 or width < 1:
    raise ValueError(f'got a picture of {height} x {width}, expected pixels')
  return bits(data) / (height * width)
