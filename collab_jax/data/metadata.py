"""Picture files without their metadata, for when a decoder stumbles over it.

A text, a colour profile, EXIF or XMP says nothing about pixels, but a decoder
gives up where a checksum or a length in them is wrong. The files are cut, not
written anew: the bytes of pixels stay as they are, so that what is damaged or
truncated stays so.

Source: the chunks of the PNG specification (5.4: a small first letter is
ancillary), the markers of JPEG (ITU T.81, table B.1), the RIFF container of
WebP, and the directories of TIFF 6.0.
"""

from collections.abc import Iterator
import struct
import zlib

_PNG = b'\x89PNG\r\n\x1a\n'
_EXIF = b'Exif\0\0'

# Tags of TIFF that a decoder needs, and the orientation.
_TIFF_TAGS = frozenset(
  (
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284),
    *(292, 293, 317, 320, 322, 323, 324, 325, 330, 332, 338, 339, 347),
    *(512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
  )
)


def candidates(data: bytes) -> Iterator[bytes]:
  """Yields a file, then with EXIF alone, then without any metadata.

  Args:
    data: Contents of a picture file.

  Returns:
    Files that differ from each other; the first alone for formats other than
    PNG, JPEG, WebP and TIFF, and where nothing can be left out.
  """
  yield data
  before = data
  for keep_exif in (True, False):
    try:
      cut = _strip(data, keep_exif)
    except (struct.error, IndexError):  # Cut off within a length.
      return
    if cut != before:
      yield cut
    before = cut


def _strip(data: bytes, keep_exif: bool) -> bytes:
  """Cuts out metadata; returns other formats as they are."""
  if data.startswith(_PNG):
    return _strip_png(data, keep_exif)
  if data.startswith(b'\xff\xd8'):
    return _strip_jpeg(data, keep_exif)
  if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
    return _strip_webp(data, keep_exif)
  if data[:4] in (b'II*\0', b'MM\0*'):
    return _strip_tiff(data)
  return data


def _strip_png(data: bytes, keep_exif: bool) -> bytes:
  optional = (b'tRNS', b'eXIf') if keep_exif else (b'tRNS',)
  parts, start = [_PNG], len(_PNG)
  while start + 8 <= len(data):
    length, kind = struct.unpack_from('>I4s', data, start)
    chunk = data[start : start + length + 12]
    start += length + 12
    whole = chunk[-4:] == struct.pack('>I', zlib.crc32(chunk[4:-4]))
    # Bit 5 of the first letter: the pixels do not depend on it.
    if not kind[0] & 0x20 or (kind in optional and whole):
      parts.append(chunk)
  return b''.join(parts)


def _strip_jpeg(data: bytes, keep_exif: bool) -> bytes:
  parts, start = [data[:2]], 2
  while data[start] == 0xFF:
    marker = data[start + 1]
    if marker == 0xDA:  # Start of scan: the pixels follow.
      break
    if marker == 0xFF:  # Fill.
      start += 1
      continue
    end = start + 2
    if not (marker == 0x01 or 0xD0 <= marker <= 0xD7):
      (length,) = struct.unpack_from('>H', data, end)
      end += length
    body = data[start + 4 : end]
    if 0xE0 <= marker <= 0xEF:
      keep = (
        # Both say how colours are stored, if they are whole.
        (marker == 0xE0 and body.startswith(b'JFIF\0') and len(body) >= 14)
        or (marker == 0xEE and body.startswith(b'Adobe') and len(body) >= 12)
        or (marker == 0xE1 and keep_exif and body.startswith(_EXIF))
      )
    else:
      keep = marker != 0xFE  # A comment.
    if keep:
      parts.append(data[start:end])
    start = end
  return b''.join([*parts, data[start:]])


def _strip_webp(data: bytes, keep_exif: bool) -> bytes:
  kinds = {b'VP8X', b'VP8 ', b'VP8L', b'ALPH', b'ANIM', b'ANMF'}
  if keep_exif:
    kinds.add(b'EXIF')
  parts, start, flags = [], 12, 0x1A if keep_exif else 0x12
  while start + 8 <= len(data):
    kind, length = struct.unpack_from('<4sI', data, start)
    chunk = data[start : start + 8 + length + length % 2]
    start += 8 + length + length % 2
    if kind == b'VP8X' and len(chunk) > 8:
      # Of the flags those of what is kept: alpha, animation, EXIF.
      chunk = chunk[:8] + bytes([chunk[8] & flags]) + chunk[9:]
    if kind in kinds:
      parts.append(chunk)
  body = b''.join(parts)
  return b'RIFF' + struct.pack('<I', len(body) + 4) + b'WEBP' + body


def _strip_tiff(data: bytes) -> bytes:
  """Shortens the first directory to `_TIFF_TAGS`, and ends with it."""
  order = '<' if data.startswith(b'II') else '>'
  (start,) = struct.unpack_from(order + 'I', data, 4)
  (count,) = struct.unpack_from(order + 'H', data, start)
  entries = [
    data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)
  ]
  kept = [
    entry
    for entry in entries
    if struct.unpack_from(order + 'H', entry)[0] in _TIFF_TAGS
  ]
  if len(kept) == count:
    return data
  table = struct.pack(order + 'H', len(kept)) + b''.join(kept) + bytes(4)
  return data[:start] + table + data[start + len(table) :]
