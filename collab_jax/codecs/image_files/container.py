"""What is left of a picture file without its frame."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import UInt8
import numpy as np

from collab_jax.wire import FormatError

Pixels = UInt8[np.ndarray, 'S S 3']
Save = Callable[[Pixels], bytes]


class Parts(NamedTuple):
  """A payload in two: what describes the pixels, and the pixels."""

  header: bytes
  pixels: bytes


def wrong(what: str) -> FormatError:
  """The error of a message that is not as it says."""
  return FormatError(
    f'{what}; expected a message of this codec: kind, quality, size and strip'
    ' must be those of the sender'
  )


def read_leb128(data: bytes) -> tuple[int, int]:
  """A `bits.leb128` of at most four bytes, and where it ends."""
  value = 0
  for at, byte in enumerate(data[:4]):
    value |= (byte & 0x7F) << 7 * at
    if byte < 0x80:
      if at and not byte:
        break
      return value, at + 1
  raise wrong('the message begins with no length')
