"""Decoding and resizing of picture files as in PaliGemma's training.

Three methods resize a picture to the model's size; they differ by up to a
hundred levels of 255 at sharp edges:

  hf_bicubic      Hugging Face's processor, Pillow backend: Pillow's bicubic,
                  which widens its kernel when it makes a picture smaller
  bv_bilinear     big_vision's `resize(res)`, as in its training and COCO
                  configs: two pixels per axis, no antialiasing, truncated
  bv_bilinear_aa  big_vision's `resize(res, antialias=True)`, as in its demo

Source: transformers' `PilBackend` and `image_transforms`; TensorFlow's
`ResizeBilinear` and `ScaleAndTranslate`, which big_vision calls. Checked
against pixels recorded from both (tests/data/test_pictures.py).
"""

from collections.abc import Callable
import errno
import io
import os
from pathlib import Path
import re
import stat
from typing import Literal, TypeVar

from jaxtyping import Float32, UInt8
import numpy as np
from PIL import ExifTags, Image

from collab_jax import _validate
from collab_jax.data import metadata

_T = TypeVar('_T')

# Accepted formats. Pillow has others, such as EPS, which runs a program.
FORMATS = (
  'JPEG',
  'PNG',
  'WEBP',
  'AVIF',
  'GIF',
  'BMP',
  'TIFF',
  'PPM',
  'JPEG2000',
)

# Transpositions by EXIF orientation; 1 is upright.
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}

# Tags of TIFF.
_TILE_WIDTH, _TILE_LENGTH = 322, 323

# Longest side in pixels, which is that of a JPEG: along one axis a picture is
# resized while the other is as long as in the file.
MAX_SIDE = 65_535

# Longest file in bytes: more than `PIL.Image.MAX_IMAGE_PIXELS` of any format.
MAX_FILE_BYTES = 1 << 30

# Suffixes of the pictures of a folder; a file that is named may have any.
SUFFIXES = (
  *('.avif', '.bmp', '.gif', '.jp2', '.jpeg', '.jpg'),
  *('.png', '.ppm', '.tif', '.tiff', '.webp'),
)

# Errors that another file would meet too.
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
_MATTES: dict[str, Colour | None] = {
  'white': WHITE,
  'black': (0, 0, 0),
  'drop': None,
}
_CHOICE = re.compile(r'(\w+)\(transparent=(\w+)\)')
Pixels = UInt8[np.ndarray, 'H W 3']


class PictureError(ValueError):
  """Raised for a picture that cannot be read; the message names the file."""


def read(
  path: str | os.PathLike[str],
  size: int | None = None,
  method: str = 'hf_bicubic',
  matte: Colour | Literal['method'] | None = 'method',
) -> UInt8[np.ndarray, '{size} {size} 3']:
  """Reads a picture file at a model's size.

  Args:
    path: A file in one of `FORMATS`.
    size: Side in pixels, that of the model's pictures; the aspect ratio is not
      kept. It must be given.
    method: A name in `METHODS`.
    matte: See `decode`; 'method' takes that of the method, see
      `matte_of`.

  Returns:
    u8[size size 3], sRGB.

  Raises:
    FileNotFoundError: There is no such file.
    PictureError: The file is damaged, too large, or no picture.
    ValueError: An unknown method, or a size below 1.
  """
  if size is None:
    raise ValueError(
      "size: is not given, expected the side of the model's pictures in pixels;"
      ' write size=model.config.vision.image_size'
    )
  check_method(size, method)
  if matte == 'method':
    matte = matte_of(method)
  image = decode(contents(path), os.fspath(path), matte)
  return resize(image, size, method)


def contents(path: str | os.PathLike[str]) -> bytes:
  """Reads a picture's file.

  Raises:
    FileNotFoundError: There is no such file.
    PictureError: The path is a folder, a pipe or a device, the file may not be
      read, or it has more than `MAX_FILE_BYTES`.
  """
  name = os.fspath(path)
  try:
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
      raise PictureError(f'{name} is a folder, expected a picture')
    # A pipe would be waited for.
    if not stat.S_ISREG(status.st_mode):
      raise PictureError(f'{name} is a pipe or a device, expected a picture')
    if status.st_size > MAX_FILE_BYTES:
      raise PictureError(
        f'{name} is refused, it has {status.st_size:,} bytes, the limit is'
        f' {MAX_FILE_BYTES:,}'
      )
    return Path(path).read_bytes()
  except FileNotFoundError:
    raise
  except OSError as error:
    if error.errno in _NO_RESOURCES:
      raise
    raise PictureError(f'{name} cannot be read: {error.strerror}') from error


def decode(
  data: bytes, name: str = 'the picture', matte: Colour | None = WHITE
) -> Pixels:
  """Decodes the contents of a picture file.

  Grey, palette, CMYK and 16-bit pictures become 8-bit RGB (16 bits keep the
  high byte), and a picture is turned as its EXIF orientation says. Of an
  animation the first frame is taken. Colour profiles are not applied. Damaged
  metadata of PNG, JPEG, WebP and TIFF are left out; damaged EXIF turns nothing.

  Args:
    data: The file's contents.
    name: Name of the picture in errors.
    matte: Colour behind a transparent picture, white as in transformers from
      5.24 on. None leaves the alpha channel out, as transformers did before
      and big_vision does, so that hidden colours show.

  Returns:
    u8[H W 3], sRGB.

  Raises:
    PictureError: The data are damaged or truncated, in no known format, have
      more than `PIL.Image.MAX_IMAGE_PIXELS` pixels or a side of more than
      `MAX_SIDE`, or numbers without a known range.
  """
  return _read(data, name, lambda p: np.asarray(_rgb(p, name, matte), np.uint8))


def check(data: bytes, name: str = 'the picture', size: int = 1) -> None:
  """Checks whether a picture can be read; a JPEG much faster than by `decode`.

  Args:
    data: The file's contents.
    name: Name of the picture in errors.
    size: Side in pixels to which the picture will be resized.

  Raises:
    PictureError: As `decode` and `resize`.
  """

  def skim(picture: Image.Image) -> None:
    _check_sides(*picture.size, size, name)
    if picture.format in ('JPEG', 'MPO'):
      picture.draft(None, (1, 1))  # An eighth of the size reads all bits.
      picture.load()
      _turned(picture)
    else:
      _rgb(picture, name, None)

  _read(data, name, skim)


def check_method(size: int, method: str) -> None:
  """Raises ValueError for an unknown method or a size below 1."""
  name, matte = _parts(method)
  if name not in METHODS:
    raise _validate.unknown('preprocess', method, METHODS)
  _validate.choice('preprocess: transparent', matte, (None, *_MATTES))
  if size < 1:
    raise ValueError(f'size: got {size} px, expected at least 1')


def matte_of(method: str) -> Colour | None:
  """Returns the colour that a method puts behind transparent pictures.

  Args:
    method: A name in `METHODS`, whose reference decides: white for
      'hf_bicubic', None for big_vision's; or the name with a choice,
      'hf_bicubic(transparent=black)', of white, black and drop.

  Returns:
    The colour; None leaves the alpha channel out.
  """
  name, matte = _parts(method)
  return _MATTES[matte or ('white' if name == 'hf_bicubic' else 'drop')]


def _parts(method: str) -> tuple[str, str | None]:
  """Returns a method's name, and its choice for transparent pictures."""
  match = _CHOICE.fullmatch(method)
  return (match[1], match[2]) if match else (method, None)


def resize(
  image: Pixels, size: int, method: str = 'hf_bicubic'
) -> UInt8[np.ndarray, '{size} {size} 3']:
  """Resizes a picture to a square.

  Args:
    image: u8[H W 3].
    size: Side in pixels.
    method: A name in `METHODS`.

  Returns:
    u8[size size 3].

  Raises:
    ValueError: An unknown method, or a size below 1.
    PictureError: One axis resized and the other as it is would be more than
      `PIL.Image.MAX_IMAGE_PIXELS`.
  """
  check_method(size, method)
  height, width = image.shape[:2]
  _check_sides(width, height, size, 'the picture')
  return METHODS[_parts(method)[0]](image, size)


def normalize(
  image: UInt8[np.ndarray, '*b H W 3'],
) -> Float32[np.ndarray, '*b H W 3']:
  """Maps 0..255 to [-1, 1] in the steps of Hugging Face's processor.

  Equal to x / 127.5 - 1 in float32; the codecs' compiled form of that differs
  by up to 1.2e-7.

  Args:
    image: A picture or a batch.

  Returns:
    `pixel_values`, channels last.
  """
  scaled = (image.astype(np.float64) * (1 / 255)).astype(np.float32)
  return (scaled - np.float32(0.5)) / np.float32(0.5)


def _read(data: bytes, name: str, read: Callable[[Image.Image], _T]) -> _T:
  """Opens a picture and reads it; whatever is raised becomes a PictureError.

  If that fails, once more without the file's metadata.
  """
  if not data:
    raise PictureError(f'{name} is empty, expected a picture')
  failure = None
  for candidate in metadata.candidates(data):
    try:
      with Image.open(io.BytesIO(candidate), formats=FORMATS) as picture:
        _check_sides(*_stored_sides(picture), 1, name)
        return read(picture)
    except PictureError:
      raise
    except (
      Image.DecompressionBombError,
      Image.DecompressionBombWarning,  # An error if warnings are errors.
    ) as error:
      raise _too_large(name, str(error).rstrip('.')) from error
    # Decoders raise anything: a list of it was never whole.
    except Exception as error:
      failure = failure or error
  if isinstance(failure, Image.UnidentifiedImageError):
    raise PictureError(
      f'{name} is no picture that can be read: it begins with {data[:8]!r}, '
      f'expected one of {", ".join(FORMATS)}'
    ) from failure
  reason = ' '.join(str(failure).split()) or type(failure).__name__
  raise PictureError(f'{name} is damaged or truncated: {reason}') from failure


def _stored_sides(picture: Image.Image) -> tuple[int, int]:
  """Returns width and height of what is decoded: a tile may be larger."""
  width, height = picture.size
  tags = getattr(picture, 'tag_v2', {})
  tile = [tags.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
  if not all(isinstance(side, int) for side in tile):
    return width, height
  return max(width, tile[0]), max(height, tile[1])


def _check_sides(width: int, height: int, size: int, name: str) -> None:
  """Raises a PictureError if pixels, a side or a resized axis is too large."""
  limit = Image.MAX_IMAGE_PIXELS
  if not limit:
    return
  if width * height > limit:
    raise _too_large(name, f'{width} x {height} pixels, the limit is {limit}')
  side = max(width, height)
  if side > MAX_SIDE:
    raise _too_large(
      name,
      f'{width} x {height} pixels, the longest side is {MAX_SIDE}',
      'collab_jax.data.pictures.MAX_SIDE',
    )
  if side * size > limit:
    raise _too_large(
      name,
      f'{width} x {height} pixels, {side} x {size} on the way to {size} x'
      f' {size}, the limit is {limit}',
    )


def _too_large(
  name: str, reason: str, limit: str = 'PIL.Image.MAX_IMAGE_PIXELS'
) -> PictureError:
  return PictureError(
    f'{name} is refused, it could fill the memory ({reason}): if it is what '
    f'you want, raise {limit}'
  )


def _rgb(picture: Image.Image, name: str, matte: Colour | None) -> Image.Image:
  """Converts a picture of any mode to upright 8-bit RGB."""
  picture.load()
  picture = _turned(picture)
  if picture.mode == 'F':
    raise PictureError(
      f'{name} holds floating-point numbers, whose range is not known: '
      'expected whole numbers of 8 or 16 bits'
    )
  if picture.mode.startswith('I'):
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 0xFFFF:
      raise PictureError(
        f'{name} has values from {values.min()} to {values.max()}, expected '
        'at most 16 bits'
      )
    picture = Image.fromarray((values >> 8).astype(np.uint8))
  if picture.has_transparency_data:
    picture = picture.convert('RGBA')
    if matte is not None:
      ground = Image.new('RGBA', picture.size, (*matte, 255))
      picture = Image.alpha_composite(ground, picture)
  return picture.convert('RGB')


def _turned(picture: Image.Image) -> Image.Image:
  """Turns a picture upright by its EXIF orientation.

  `ImageOps.exif_transpose` also writes all tags again, and fails on tags of
  unusual types.
  """
  try:
    turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
  except Exception:  # Damaged EXIF or XMP; the pixels are whole.
    turn = None
  return picture if turn is None else picture.transpose(turn)


def _hf_bicubic(image, size):
  """Interpolates along both axes, rounding to 8 bits after each.

  Pillow 13 begins along the height where that shrinks much more than the width,
  older versions never: here the axes are told apart, for the same pixels with
  all of them.
  """
  height, width = image.shape[:2]
  tall = height > size and height - size > 2 * (width - size)
  picture = Image.fromarray(image)
  for shape in ((width, size) if tall else (size, height), (size, size)):
    picture = picture.resize(shape, Image.Resampling.BICUBIC)
  return np.asarray(picture)


def _bv_bilinear(image, size):
  """Interpolates across, then down, in float32; truncates."""
  (top, bottom, down), (left, right, across) = (
    _neighbours(length, size) for length in image.shape[:2]
  )

  def row(index):
    pixels = image[index].astype(np.float32)
    start = pixels[:, left]
    return start + (pixels[:, right] - start) * across[:, None]

  start = row(top)
  image = start + (row(bottom) - start) * down[:, None, None]
  return image.astype(np.uint8)


def _neighbours(length, size):
  """Returns the two pixels around each new centre, and the second's weight.

  Centres are at half pixels, so that the outermost may lie outside.
  """
  centres = np.arange(size, dtype=np.float32) + np.float32(0.5)
  centres = centres * (np.float32(length) / np.float32(size)) - np.float32(0.5)
  below = np.floor(centres)
  first = np.maximum(below, 0).astype(int)
  second = np.minimum(below + 1, length - 1).astype(int)
  return first, second, centres - below


def _bv_bilinear_aa(image, size):
  """Filters by a triangle as wide as the scale, in float32; truncates."""
  image = _filtered(image, size)
  image = _filtered(image.transpose(1, 0, 2), size).transpose(1, 0, 2)
  return np.clip(image, 0, 255).astype(np.uint8)


def _filtered(image, size):
  """Resizes axis 0."""
  length = len(image)
  scale = np.float32(length) / np.float32(size)
  width = max(scale, np.float32(1))
  centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale
  first = np.ceil(centres - width - np.float32(0.5)).astype(int)
  taps = first[:, None] + np.arange(int(2 * width) + 2)
  away = np.abs(taps.astype(np.float32) + np.float32(0.5) - centres[:, None])
  weights = np.maximum(1 - away / width, 0).astype(np.float32)
  weights[(taps < 0) | (taps >= length)] = 0
  weights /= weights.sum(1, keepdims=True)
  taps = np.clip(taps, 0, length - 1)
  total = np.zeros((size, *image.shape[1:]), np.float32)
  for tap, weight in zip(taps.T, weights.T, strict=True):
    # A few rows at a time: all in float32 would be four times the picture.
    total += weight[:, None, None] * image[tap].astype(np.float32)
  return total


METHODS = {
  'hf_bicubic': _hf_bicubic,
  'bv_bilinear': _bv_bilinear,
  'bv_bilinear_aa': _bv_bilinear_aa,
}
