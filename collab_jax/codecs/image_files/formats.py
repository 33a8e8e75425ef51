"""Picture files without what both ends know of them: JPEG, WebP, AVIF.

A file of a given kind, quality and size is a constant frame around a payload,
which is all that depends on the picture. Both ends take the frame from the file
of a black picture. A file is taken only if its frame is the known one, so a
decoder sees no other dimensions, tools or boxes than those it was told of.
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
  """Files of one kind, quality and size."""

  def __init__(self, kind: str, quality: int, size: int, chroma: int = 420):
    """Finds the frame.

    Args:
      kind: A key of KINDS.
      quality: As Pillow takes it.
      size: Side of the pictures in pixels.
      chroma: One of the kind's: 420 halves colours each way, 444 does not.

    Raises:
      ValueError: Pillow was built without the kind.
    """
    check_available(kind)
    self._kind, self._name, self._size = KINDS[kind], kind.upper(), size
    self._options = {'quality': quality, **self._kind.options(chroma)}
    black = np.zeros((size, size, 3), np.uint8)
    self._frame = self._kind.frame(self.save, black)

  def save(self, image: container.Pixels, **options: object) -> bytes:
    """What Pillow writes: always the same bytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, self._name, **self._options | options)
    return file.getvalue()

  def encode(self, image: container.Pixels, strip: bool) -> bytes:
    """The shortest message that holds a picture.

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
    """Bytes of a message of noise; no picture takes many more."""
    shape = (self._size, self._size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return len(self.encode(noise, strip))

  def file(self, message: bytes, strip: bool) -> bytes:
    """The whole file, as Pillow wrote it.

    Args:
      message: From `encode`.
      strip: Whether the frame was left out.

    Returns:
      The file.

    Raises:
      FormatError: It is no such file or payload.
    """
    if strip:
      return self._kind.join(self._frame, message)
    self._kind.split(self._frame, message)
    return message

  def sizes(self, message: bytes, strip: bool) -> dict[str, int]:
    """Bytes of a message by field; see `file`."""
    file = self.file(message, strip)
    pixels = len(self._kind.split(self._frame, file).pixels)
    return {'header': len(message) - pixels, 'pixels': pixels}


@functools.lru_cache(maxsize=1024)
def known(kind: str, quality: int, size: int, chroma: int = 420) -> Format:
  """The format of these settings, whose frame is looked for once."""
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
  """Name and version of the library that writes a kind."""
  check_available(kind)
  library, name = _LIBRARIES[kind]
  return f'{library} {features.version(name)}'


class _Kind(NamedTuple):
  feature: str  # As Pillow calls it.
  chromas: tuple[int, ...]
  options: Callable[[int], dict[str, object]]  # Of the chroma.
  tries: tuple[dict[str, object], ...]  # More options; the shortest is sent.
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
  # The slowest of its methods, which makes the smallest files. Lossy WebP has
  # one chroma.
  'webp': _Kind(
    'webp',
    (420,),
    lambda _: {'method': 6},
    ({},),
    webp.frame_of,
    webp.split,
    webp.join,
  ),
  # One thread: how a picture is divided must not depend on the machine. Tuned
  # for PSNR: the default is for eyes, and needs more bytes for a caption.
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
