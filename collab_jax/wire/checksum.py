"""CRC-32C (Castagnoli), the checksum of messages and their layers."""

import google_crc32c

SIZE = 4  # Bytes of a checksum in a message.


def crc32c(*parts: bytes, start: int = 0) -> int:
  """Returns the CRC-32C of parts that follow each other.

  Args:
    *parts: Bytes.
    start: CRC-32C of the bytes before them.

  Returns:
    The CRC-32C of all, 0xE3069283 for b'123456789'.

  Source: RFC 3720, appendix B.4, whose examples are a test.
  """
  for part in parts:
    start = google_crc32c.extend(start, part)
  return start


def to_bytes(crc: int) -> bytes:
  """Returns a CRC-32C as messages have it, little-endian."""
  return crc.to_bytes(SIZE, 'little')
