"""Where the layers of a message begin and end."""

from collections.abc import Sequence
from typing import NamedTuple

from collab_jax.wire import checksum, layers
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import bits

_LENGTH = 5  # Bytes of a length, at most.


class LayerFrame(NamedTuple):
  """The bytes of one layer.

  Attributes:
    length: How many bytes the rest has, where nothing else tells it.
    head: Version and models.
    check: The CRC.
    body: The fields.
  """

  length: bytes
  head: bytes
  check: bytes
  body: bytes


def length(every: Sequence[layers.Layer], index: int, body: bytes) -> bytes:
  """Returns the length that goes before a layer: seven bits a byte, low first.

  A layer needs none if all its bodies are equally long, or if it is the last.
  """
  if every[index].body is not None or index == len(every) - 1:
    return b''
  return bits.leb128(every[index].head + checksum.SIZE + len(body))


def split(
  every: Sequence[layers.Layer], data: bytes, index: int = 0
) -> list[LayerFrame]:
  """Cuts a message into its layers; nothing but lengths is checked.

  Args:
    every: The layers that a whole message has.
    data: The bytes.
    index: Which message of a batch it is, for errors.

  Returns:
    A `LayerFrame` for each layer that is there, at least one.

  Raises:
    FormatError: It ends inside a layer, or goes on after the last.
    TypeError: It is no bytes at all.
  """
  try:
    data = memoryview(data).tobytes()
  except TypeError as error:
    raise TypeError(
      f'Message {index}: expected the bytes of a message, got '
      f'{type(data).__name__}.'
    ) from error
  frames: list[LayerFrame] = []
  at = 0
  while at < len(data) or not frames:
    if len(frames) == len(every):
      raise declared.FormatError(
        f'Message {index} has {len(data)} bytes, expected {at}.'
      )
    layer = every[len(frames)]
    least = layer.head + checksum.SIZE
    start, size = at, least + (layer.body or 0)
    if layer.body is None and layer is every[-1]:
      size = max(size, len(data) - at)
    elif layer.body is None:
      start, size = _read_length(data, at)
    if size < least or start + size > len(data):
      raise declared.FormatError(
        f'Message {index} is cut or damaged: layer {len(frames)} has '
        f'{len(data) - start} bytes, expected {max(size, least)}.'
      )
    head, check, end = start + layer.head, start + least, start + size
    pieces = data[at:start], data[start:head], data[head:check], data[check:end]
    frames.append(LayerFrame(*pieces))
    at = end
  return frames


def _read_length(data, at):
  """Returns where a length at `at` ends, and the length."""
  value = 0
  for i, byte in enumerate(data[at : at + _LENGTH]):
    value |= (byte & 127) << 7 * i
    if byte < 128:
      return at + i + 1, value
  return len(data), 1  # Longer than any message: cut, or damaged.
