"""WebP files: the frame is the headers of RIFF and of the one lossy frame.

A payload is the length of the first partition, LEB128, and the partitions.

Source: RFC 9649, 2.5; RFC 6386, 9.1.
"""

import struct

from collab_jax.codecs.image_files import container
from collab_jax.wire.coding import bits

_SHOWN = 0x1F  # Bits of the first three bytes that are no length.


def frame_of(save: container.Save, black: container.Pixels) -> bytes:
  """Returns the bytes that all files of these settings share."""
  file = save(black)
  return bytes([file[20] & _SHOWN]) + file[23:30]


def split(frame: bytes, file: bytes) -> container.Parts:
  """Takes the payload out of a file; FormatError for another frame."""
  if len(file) <= 30 or file[0:4] != b'RIFF' or file[8:16] != b'WEBPVP8 ':
    raise container.wrong('this is no WebP of one lossy frame')
  length = int.from_bytes(file[16:20], 'little')
  tag = int.from_bytes(file[20:23], 'little')
  header = bits.leb128(tag >> 5)
  pixels = file[30 : 20 + length]
  if join(frame, header + pixels) != file:
    raise container.wrong('the WebP has another header')
  return container.Parts(header, pixels)


def join(frame: bytes, data: bytes) -> bytes:
  """Puts a payload into its file; FormatError if it is none."""
  # As a length, 'R' is 82 bytes; no partition begins like the bytes after it.
  if data[:4] == b'RIFF' and data[8:16] == b'WEBPVP8 ':
    raise container.wrong('the message is a WebP that was not stripped')
  first, at = container.read_leb128(data)
  pixels = data[at:]
  if not 0 < first <= min(len(pixels), 0x7FFFF):
    raise container.wrong(
      'the first partition of the WebP is longer than the message'
    )
  tag = (first << 5 | frame[0]).to_bytes(3, 'little')
  chunk = tag + frame[1:] + pixels
  padded = chunk + bytes(len(chunk) % 2)
  return (
    struct.pack('<4sI8sI', b'RIFF', len(padded) + 12, b'WEBPVP8 ', len(chunk))
    + padded
  )
