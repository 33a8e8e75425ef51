"""JPEG files: the frame is everything but the scan and the Huffman tables.

A payload is the scan, after tables of its own where these pay: they begin with
FF C4, as no scan does.

Source: ITU-T T.81, B.2 and, for tables that both ends know, B.5.
"""

import re
from typing import NamedTuple

from collab_jax.codecs.image_files import container


class JpegFrame(NamedTuple):
  """The constant parts of a file."""

  head: bytes
  tables: bytes
  scan: bytes


def _segments(file: bytes) -> tuple[JpegFrame, bytes]:
  """Returns the parts before the scan's data, and the data to the end."""
  at, parts = 2, {'head': file[:2], 'tables': b'', 'scan': b''}
  while True:
    marker, length = file[at : at + 2], file[at + 2 : at + 4]
    if len(length) < 2 or marker[0] != 0xFF:
      raise container.wrong('the JPEG ends within its header')
    end = at + 2 + int.from_bytes(length, 'big')
    name = {0xC4: 'tables', 0xDA: 'scan'}.get(marker[1], 'head')
    if name == 'head' and parts['tables']:
      raise container.wrong('the JPEG has tables before other segments')
    if end > len(file) or end < at + 4:
      raise container.wrong('the JPEG ends within a segment')
    parts[name] += file[at:end]
    at = end
    if name == 'scan':
      return JpegFrame(**parts), file[at:]


def frame_of(save: container.Save, black: container.Pixels) -> JpegFrame:
  """Returns the parts that all files of these settings share."""
  return _segments(save(black))[0]


def split(frame: JpegFrame, file: bytes) -> container.Parts:
  """Takes the payload out of a file; FormatError for another frame."""
  segments, data = _segments(file)
  if (segments.head, segments.scan) != (frame.head, frame.scan):
    raise container.wrong('the JPEG has another header')
  if data[-2:] != b'\xff\xd9':
    raise container.wrong('the JPEG has no end')
  _check_scan(data[:-2])
  tables = b'' if segments.tables == frame.tables else segments.tables
  return container.Parts(tables, data[:-2])


def join(frame: JpegFrame, data: bytes) -> bytes:
  """Puts a payload into its file; FormatError if it is none."""
  at = 0
  while data[at : at + 2] == b'\xff\xc4':
    length = int.from_bytes(data[at + 2 : at + 4], 'big')
    if length < 2 or at + 2 + length > len(data):
      raise container.wrong('the JPEG ends within its tables')
    at += 2 + length
  _check_scan(data[at:])
  tables = data[:at] or frame.tables
  return b''.join((frame.head, tables, frame.scan, data[at:], b'\xff\xd9'))


def _check_scan(data: bytes) -> None:
  """Refuses markers, which may introduce another frame, of any size."""
  if not data or re.search(rb'\xff(?!\x00)', data):
    raise container.wrong('the JPEG has markers in its scan, or no scan')
