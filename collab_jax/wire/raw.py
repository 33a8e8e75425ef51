"""Fields as bytes and nothing around them, for packets with their own frame."""

from collections.abc import Mapping, Sequence

import numpy as np

from collab_jax.wire import fields as declared
from collab_jax.wire.coding import fixed


def size(fields: declared.Fields) -> int:
  """Returns the bytes of a message of these fields."""
  return sum(fixed.sizes(fields).values())


def pack_batch(
  message: Mapping[str, np.ndarray], fields: declared.Fields
) -> list[bytes]:
  """Turns B messages into bytes: 'fixed' coding, no header, no checksum.

  Args:
    message: One array per field, with an axis B in front.
    fields: At least one.

  Returns:
    For each of B messages `size(fields)` bytes.

  Raises:
    ValueError: A field is not as declared.
  """
  rows = {
    name: declared.flat(name, np.asarray(message[name]), field)
    for name, field in fields.items()
  }
  return [row.tobytes() for row in fixed.pack(rows, fields)]


def unpack_batch(
  data: Sequence[bytes], fields: declared.Fields
) -> declared.Message:
  """Turns bytes back into arrays with an axis B in front.

  Args:
    data: What `pack_batch` returned, or anything.
    fields: As given to it.

  Raises:
    FormatError: A length is wrong, or a message is none of these fields.
  """
  total = size(fields)
  for n, row in enumerate(data):
    if len(row) != total:
      raise declared.FormatError(
        f'Message {n} has {len(row)} bytes, expected {total}.'
      )
  table = np.frombuffer(b''.join(data), np.uint8).reshape(len(data), total)
  return fixed.unpack(table, fields)
