"""AVIF files: the frame is boxes, sequence header and starts of AV1 frames.

A payload is an AV1 frame, without as many first bytes as the frames of a dozen
other pictures share. The bytes 0 1 precede a frame that differs there; 0 0
precedes a payload that begins with 0, or 0 1 if it then looked like a file.

Source: ISO/IEC 14496-12 and 23000-22; the AV1 specification, 5.3 to 5.9.
"""

import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from collab_jax.codecs.image_files import container
from collab_jax.wire.coding import bits


class AvifFrame(NamedTuple):
  """The constant parts of a file."""

  boxes: bytes  # Everything before the contents of mdat, both lengths at 0.
  extent: int  # Offset of the item's length.
  media: int  # Offset of the length of mdat.
  sequence: bytes  # Units before the frame, and the frame's type.
  shared: bytes  # First bytes of every frame.


# Escapes before a payload that begins with 0, and before a whole frame.
_SHARED, _WHOLE = b'\x00\x00', b'\x00\x01'


def frame_of(save: container.Save, black: container.Pixels) -> AvifFrame:
  """Returns the parts that all files of these settings share."""
  file = save(black)
  media = file.index(b'mdat') - 4
  item = file[media + 8 :]
  # The location box: version 0, one item of one extent, 32 bits each.
  extent = file.index(b'iloc') + 22
  boxes = bytearray(file[: media + 8])
  assert boxes[extent : extent + 4] == len(item).to_bytes(4, 'big')
  boxes[extent : extent + 4] = boxes[media : media + 4] = bytes(4)
  at = 0
  while item[at] >> 3 & 15 != 6:  # Until the frame; its type is 6.
    size, start = container.read_leb128(item[at + 1 :])
    at += 1 + start + size
  empty = AvifFrame(bytes(boxes), extent, media, item[: at + 1], b'')
  frames = [
    _item(empty, save(image)) for image in _diverse_pictures(len(black))
  ]
  shared = frames[0]
  while not all(contents.startswith(shared) for contents in frames):
    shared = shared[:-1]
  return empty._replace(shared=shared)


def _diverse_pictures(size: int) -> list[container.Pixels]:
  """Returns pictures that have little in common: flat, noise, and spots."""
  rng = np.random.default_rng(0)
  tiles = [
    rng.integers(0, 256, (side, side, 3), np.uint8)
    for side in (1, 1, size, size, *range(2, 10))
  ]
  tiles[1] //= 8  # Nearly black.
  return [
    np.asarray(
      Image.fromarray(tile).resize((size, size), Image.Resampling.BICUBIC)
    )
    for tile in tiles
  ]


def _item(frame: AvifFrame, file: bytes) -> bytes:
  """Returns the contents of the frame of a file with the known boxes."""
  start = len(frame.boxes) + len(frame.sequence)
  size, at = container.read_leb128(file[start : start + 4])
  contents = file[start + at :]
  if size != len(contents) or _file(frame, contents) != file:
    raise container.wrong('the AVIF has other boxes')
  return contents


def _file(frame: AvifFrame, contents: bytes) -> bytes:
  """Returns the file of a frame's contents."""
  item = frame.sequence + bits.leb128(len(contents)) + contents
  boxes = bytearray(frame.boxes)
  boxes[frame.extent : frame.extent + 4] = struct.pack('>I', len(item))
  boxes[frame.media : frame.media + 4] = struct.pack('>I', len(item) + 8)
  return bytes(boxes) + item


def split(frame: AvifFrame, file: bytes) -> container.Parts:
  """Takes the payload out of a file; FormatError for another frame."""
  contents = _item(frame, file)
  payload = contents.removeprefix(frame.shared)
  whole = not contents.startswith(frame.shared) or not payload
  if whole or _is_file(_SHARED + payload):
    return container.Parts(_WHOLE, contents)
  return container.Parts(_SHARED if payload[0] == 0 else b'', payload)


def join(frame: AvifFrame, data: bytes) -> bytes:
  """Puts a payload into its file; FormatError if it is none."""
  if _is_file(data):
    raise container.wrong('the message is an AVIF that was not stripped')
  escape, shared = data[:2], frame.shared
  if escape in (_SHARED, _WHOLE):
    data = data[2:]
    shared = shared if escape == _SHARED else b''
  elif escape[:1] in (b'', b'\x00'):
    raise container.wrong('the message begins like no frame of an AVIF')
  if not data:
    raise container.wrong('the message holds no frame')
  return _file(frame, shared + data)


def _is_file(data: bytes) -> bool:
  """Returns whether a message is a file: a short box named ftyp is first."""
  return data[:2] == _SHARED and data[4:8] == b'ftyp'
