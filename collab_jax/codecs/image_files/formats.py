"""Picture files without the bytes that both ends know: JPEG, WebP, AVIF.

A file of a given kind, quality and size is a constant frame around a payload,
the only part that depends on the picture. Both ends take the frame from the
file of a black picture. A file is accepted only if it has this frame, so a
decoder sees no other dimensions, tools or boxes than those of the settings.
"""

from collections.abc import Callable
import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from collab_jax.codecs.image_files import (
  avif,
  container,
  jpeg,
  webp,
)


class Format:
  """Encoder and parser of files of one kind, quality and size."""

  def __init__(self, kind: str, quality: int, size: int, chroma: int = 420):
    """Takes the frame from the file of a black picture.

    Args:
      kind: A key of KINDS.
      quality: As Pillow takes it.
      size: Side of the pictures in pixels.
      chroma: 420 halves colours each way, 444 does not; see `KINDS`.

    Raises:
      ValueError: Pillow was built without the kind.
    """
    check_available(kind)
    self._kind, self._name, self._size = KINDS[kind], kind.upper(), size
    self._options = {'quality': quality, **self._kind.options(chroma)}
    black = np.zeros((size, size, 3), np.uint8)
    self._frame = self._kind.frame(self.save, black)

  def save(self, image: container.Pixels, **options: object) -> bytes:
    """Returns the file that Pillow writes, always the same bytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, self._name, **self._options | options)
    return file.getvalue()

  def encode(self, image: container.Pixels, strip: bool) -> bytes:
    """Returns the shortest message that holds a picture.

    Args:
      image: The picture.
      strip: Leave out the frame.

    Returns:
      A whole file, or its payload.
    """
    files = [self.save(image, **options) for options in self._kind.tries]
    if strip:
      files = [b''.join(self._kind.split(self._frame, f)) for f in files]
    return min(files, key=len)

  def largest(self, strip: bool) -> int:
    """Returns the bytes of a message of noise; no picture takes many more."""
    shape = (self._size, self._size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return len(self.encode(noise, strip))

  def file(self, message: bytes, strip: bool) -> bytes:
    """Returns the whole file, as Pillow wrote it.

    Args:
      message: From `encode`.
      strip: Whether the frame was left out.

    Returns:
      The file.

    Raises:
      FormatError: The message is no such file or payload.
    """
    if strip:
      return self._kind.join(self._frame, message)
    self._kind.split(self._frame, message)
    return message

  def sizes(self, message: bytes, strip: bool) -> dict[str, int]:
    """Returns the bytes of a message by field; see `file`."""
    file = self.file(message, strip)
    pixels = len(self._kind.split(self._frame, file).pixels)
    return {'header': len(message) - pixels, 'pixels': pixels}


@functools.lru_cache(maxsize=1024)
def known(kind: str, quality: int, size: int, chroma: int = 420) -> Format:
  """Returns the format of these settings, whose frame is taken once."""
  return Format(kind, quality, size, chroma)


_LIBRARIES = {
  'jpeg': ('libjpeg-turbo', 'libjpeg_turbo'),
  'webp': ('libwebp', 'webp'),
  'avif': ('libavif', 'avif'),
}


def check_available(kind: str) -> None:
  """Raises ValueError if Pillow was built without this kind."""
  if not features.check(KINDS[kind].feature):
    raise ValueError(
      f'{kind}: this Pillow was built without it; install a wheel of pillow>=12'
    )


def encoder(kind: str) -> str:
  """Returns name and version of the library that writes a kind."""
  check_available(kind)
  library, name = _LIBRARIES[kind]
  return f'{library} {features.version(name)}'


class _Kind(NamedTuple):
  feature: str  # Name in `PIL.features`.
  chromas: tuple[int, ...]
  options: Callable[[int], dict[str, object]]  # By chroma.
  tries: tuple[dict[str, object], ...]  # Further options; the shortest is sent.
  frame: Callable
  split: Callable
  join: Callable


def _subsampled(**options: object) -> Callable[[int], dict[str, object]]:
  return lambda chroma: {'subsampling': ':'.join(str(chroma)), **options}


KINDS = {
  'jpeg': _Kind(
    'jpg',
    (420, 444),
    _subsampled(),
    ({}, {'optimize': True}),
    jpeg.frame_of,
    jpeg.split,
    jpeg.join,
  ),
  # The slowest method makes the smallest files. Lossy WebP has one chroma.
  'webp': _Kind(
    'webp',
    (420,),
    lambda _: {'method': 6},
    ({},),
    webp.frame_of,
    webp.split,
    webp.join,
  ),
  # One thread: tiles must not depend on the machine. Tuned for PSNR: the
  # default is tuned for eyes, and needs more bytes for a caption.
  'avif': _Kind(
    'avif',
    (420, 444),
    _subsampled(codec='aom', max_threads=1, advanced={'tune': 'psnr'}),
    ({},),
    avif.frame_of,
    avif.split,
    avif.join,
  ),
}
