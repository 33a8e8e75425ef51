"""Payloads of picture files: the parts that depend on the picture."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import UInt8
import numpy as np

from collab_jax.wire import FormatError

Pixels = UInt8[np.ndarray, 'S S 3']
Save = Callable[[Pixels], bytes]


class Parts(NamedTuple):
  """Payload of a file: tables or lengths, then the coded pixels."""

  header: bytes
  pixels: bytes


def wrong(what: str) -> FormatError:
  """Returns the error for a message that is no file of the known settings."""
  return FormatError(
    f'{what}; expected a message of this codec: kind, quality, size and strip'
    ' must be those of the sender'
  )


def read_leb128(data: bytes) -> tuple[int, int]:
  """Returns the value of a `bits.leb128` of up to four bytes, and its end."""
  value = 0
  for at, byte in enumerate(data[:4]):
    value |= (byte & 0x7F) << 7 * at
    if byte < 0x80:
      if at and not byte:
        break
      return value, at + 1
  raise wrong('the message begins with no length')
