"""Framing: lengths, heads, checksums and bodies of a message's layers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from collab_jax.wire import checksum, layers
from collab_jax.wire import fields as declared
from collab_jax.wire.coding import bits

_LENGTH = 5  # Bytes of a length, at most.


class LayerFrame(NamedTuple):
  """Bytes of a layer.

  Attributes:
    length: Number of bytes that follow; empty where it is known.
    head: Version and models.
    check: The CRC-32C.
    body: The fields, uint8[size]; it shares the message's memory.
  """

  length: bytes
  head: bytes
  check: bytes
  body: np.ndarray


def length(formats: Sequence[layers.Layer], index: int, body: int) -> bytes:
  """Returns the length that goes before a layer: seven bits a byte, low first.

  A layer needs none if all its bodies are equally long, or if it is the last.

  Args:
    formats: The layers of a whole message.
    index: Index of the layer.
    body: Bytes of its body.
  """
  if formats[index].body is not None or index == len(formats) - 1:
    return b''
  return bits.leb128(formats[index].head + checksum.SIZE + body)


def split(
  formats: Sequence[layers.Layer], data: bytes, index: int = 0
) -> list[LayerFrame]:
  """Cuts a message into its layers; nothing but lengths is checked.

  Args:
    formats: The layers of a whole message.
    data: The message, or its first layers.
    index: Index of the message in its batch, for errors.

  Returns:
    A `LayerFrame` for each layer in the data, at least one.

  Raises:
    FormatError: The data end inside a layer, or go on after the last.
    TypeError: The data are no bytes.
  """
  try:
    if not isinstance(data, bytes):
      data = memoryview(data).tobytes()
  except TypeError as error:
    raise TypeError(
      f'message {index}: got {type(data).__name__}, expected bytes'
    ) from error
  content = np.frombuffer(data, np.uint8)
  frames: list[LayerFrame] = []
  at = 0
  while at < len(data) or not frames:
    if len(frames) == len(formats):
      raise declared.FormatError(
        f'message {index}: got {len(data)} bytes, expected {at}'
      )
    layer = formats[len(frames)]
    least = layer.head + checksum.SIZE
    start, size = at, least + (layer.body or 0)
    if layer.body is None and layer is formats[-1]:
      size = max(size, len(data) - at)
    elif layer.body is None:
      start, size = _read_length(data, at)
    if size < least or start + size > len(data):
      raise declared.FormatError(
        f'message {index}: got {len(data) - start} bytes of layer'
        f' {len(frames)}, expected {max(size, least)}: it is cut or damaged'
      )
    head, check, end = start + layer.head, start + least, start + size
    pieces = data[at:start], data[start:head], data[head:check]
    frames.append(LayerFrame(*pieces, content[check:end]))
    at = end
  return frames


def _read_length(data, at):
  """Reads the length at `at`; returns its end and the length."""
  value = 0
  for i, byte in enumerate(data[at : at + _LENGTH]):
    value |= (byte & 127) << 7 * i
    if byte < 128:
      return at + i + 1, value
  return len(data), 1  # Longer than any message: cut, or damaged.
