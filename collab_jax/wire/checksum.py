"""CRC-32C (Castagnoli) of many rows of bytes at once.

A CRC is linear: that of a row is the exclusive or of what each of its bytes
adds, which a table tells by place and value. So blocks of 64 bytes become
registers of four bytes, 64 of those become one, and so on until one is left.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Reflected.
_BLOCK = 64
# From so many blocks on, they are looked up place by place.
_MANY = 1024


def rows(data: np.ndarray) -> np.ndarray:
  """Returns the CRC-32C of each row.

  Args:
    data: uint8[B n], n at least 4.

  Returns:
    uint32[B], 0xE3069283 for b'123456789'.

  Source: RFC 3720, appendix B.4, whose examples are a test.
  """
  count, size = data.shape
  # Zeros in front change nothing: the register starts at 0, and where a CRC
  # really starts, at ones, goes into the first four bytes.
  padded = np.zeros((count, -(-size // _BLOCK) * _BLOCK), np.uint8)
  padded[:, -size:] = data
  padded[:, -size : 4 - size or None] ^= 0xFF
  level = 0
  registers = _join(padded, level)
  while registers.shape[1] > 1:
    level += 1
    padded = np.zeros((count, -(-registers.shape[1] // _BLOCK) * _BLOCK), '<u4')
    padded[:, -registers.shape[1] :] = registers
    registers = _join(padded.view(np.uint8), level)
  return registers[:, 0].astype(np.uint32) ^ np.uint32(0xFFFFFFFF)


def _join(data, level):
  """Returns the registers of blocks, uint32[B blocks], little-endian."""
  table = _table(level)
  places = len(table) // 256
  blocks = data.reshape(-1, places)
  if len(blocks) < _MANY:
    found = table.take(blocks + _offsets(level))
    joined = np.bitwise_xor.reduce(found, axis=1)
  else:
    joined = np.zeros(len(blocks), '<u4')
    columns = np.ascontiguousarray(blocks.T)
    for row, column in zip(table.reshape(places, 256), columns, strict=True):
      joined ^= row.take(column)
  return joined.reshape(len(data), -1)


@functools.cache
def _table(level):
  """What a byte adds to the register of its block, [places * 256]."""
  every = np.arange(256, dtype='<u4')
  if level == 0:
    last = every
    for _ in range(8):
      last = np.where(last & 1, (last >> 1) ^ np.uint32(_POLYNOMIAL), last >> 1)
    table = [last]
    for _ in range(1, _BLOCK):
      table.append(last[table[-1] & 255] ^ (table[-1] >> 8))
  else:
    table = [np.concatenate([every << (8 * i) for i in range(4)])]
    for _ in range(1, _BLOCK):
      table.append(_ahead(table[-1], level))
  return np.concatenate(table[::-1]).astype('<u4')


@functools.cache
def _offsets(level):
  return 256 * np.arange(len(_table(level)) // 256)


def _ahead(registers, level):
  """What registers become after the zeros of 64**level bytes."""
  if level == 1:
    a, b, c, d = _table(0).reshape(-1, 256)[:4]
  else:
    first = _table(level - 1).reshape(-1, 256)[:4]
    a, b, c, d = (_ahead(row, level - 1) for row in first)
  return (
    a[registers & 255]
    ^ b[(registers >> 8) & 255]
    ^ c[(registers >> 16) & 255]
    ^ d[registers >> 24]
  )
