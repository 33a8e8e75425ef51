"""CRC-32C (Castagnoli), the checksum of messages and their layers."""

import google_crc32c
import numpy as np

SIZE = 4  # Bytes of a checksum in a message.

# Without its C extension the package reads bytes only.
_READS_ARRAYS = google_crc32c.implementation == 'c'


def crc32c(*parts: bytes | np.ndarray, start: int = 0) -> int:
  """Returns the CRC-32C of parts that follow each other.

  Args:
    *parts: Bytes, or contiguous arrays of uint8, which are not copied.
    start: CRC-32C of the bytes before them.

  Returns:
    The CRC-32C of all, 0xE3069283 for b'123456789'.

  Source: RFC 3720, appendix B.4, whose examples are a test.
  """
  for part in parts:
    data = part if _READS_ARRAYS else bytes(part)
    start = google_crc32c.extend(start, data)
  return start


def to_bytes(crc: int) -> bytes:
  """Returns a CRC-32C as messages have it, little-endian."""
  return crc.to_bytes(SIZE, 'little')
