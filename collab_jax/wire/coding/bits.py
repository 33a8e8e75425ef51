"""Symbols packed in bits of equal width, and LEB128 numbers."""

import numpy as np

# The widest symbols that fit the int32 of a message.
MAX_WIDTH = 31


def width(alphabet: int) -> int:
  """Returns the bits per symbol: ceil(log2(alphabet)), 0 for one symbol."""
  return (alphabet - 1).bit_length()


def size(count: int, alphabet: int) -> int:
  """Returns the bytes that `count` symbols take."""
  return (count * width(alphabet) + 7) // 8


def pack(symbols: np.ndarray, alphabet: int) -> np.ndarray:
  """Packs rows of symbols, the highest bit first, each row to whole bytes.

  Args:
    symbols: Integers in [0, alphabet), [B count].
    alphabet: Number of distinct symbols.

  Returns:
    uint8[B size(count, alphabet)]; the bits left over are 0.
  """
  rows, count = symbols.shape
  wide = width(alphabet)
  if wide == 1:
    return np.packbits(symbols.astype(np.uint8), axis=1)
  if wide == 8:
    return symbols.astype(np.uint8)
  if wide < 8:
    bits = np.unpackbits(symbols.astype(np.uint8)[..., None], axis=2)
    bits = bits[:, :, 8 - wide :]
  else:
    bytes_ = np.ascontiguousarray(symbols, '>u4')[..., None].view(np.uint8)
    bits = np.unpackbits(bytes_, axis=2)[:, :, 32 - wide :]
  return np.packbits(bits.reshape(rows, count * wide), axis=1)


def unpack(data: np.ndarray, count: int, alphabet: int) -> np.ndarray:
  """Unpacks symbols, without checking them.

  Args:
    data: uint8[B size(count, alphabet)].
    count: Symbols per row.
    alphabet: Number of distinct symbols.

  Returns:
    Symbols int32[B count], which may lie beyond the alphabet if `data` is
    not a result of `pack`.
  """
  rows = data.shape[0]
  wide = width(alphabet)
  if wide == 0:
    return np.zeros((rows, count), np.int32)
  if wide == 8:
    return data.astype(np.int32)
  bits = np.unpackbits(data, axis=1, count=count * wide)
  if wide == 1:
    return bits.astype(np.int32)
  whole = 8 if wide < 8 else 32
  padded = np.zeros((rows, count, whole), np.uint8)
  padded[:, :, whole - wide :] = bits.reshape(rows, count, wide)
  bytes_ = np.packbits(padded, axis=2)
  if whole == 8:
    return bytes_[..., 0].astype(np.int32)
  return bytes_.view('>u4')[..., 0].astype(np.int32)


def leb128(value: int) -> bytes:
  """Returns a number at least 0, seven bits a byte, the low ones first."""
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*out, value])
