"""Rate of messages: 8 times their bytes, not an estimate."""


def bits(data: bytes) -> int:
  """Returns the number of sent bits."""
  return 8 * len(data)


def bpp(data: bytes, height: int, width: int) -> float:
  """Returns the sent bits per pixel of the input picture.

  Args:
    data: The message of a picture.
    height: Height of the encoder's input in pixels.
    width: Width of the encoder's input in pixels.

  Returns:
    Bits per pixel.

  Raises:
    ValueError: The picture has no pixels.
  """
  if height < 1 or width < 1:
    raise ValueError(f'got a picture of {height} x {width}, expected pixels')
  return bits(data) / (height * width)
