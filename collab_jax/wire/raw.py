"""Fields as bytes without header or checksum, which packets bring."""

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
  """Packs B messages in the coding 'fixed', without header and checksum.

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
  columns = fixed.pack(rows, fields)
  return [b''.join(parts) for parts in zip(*columns, strict=True)]


def unpack_batch(
  data: Sequence[bytes], fields: declared.Fields
) -> declared.Message:
  """Unpacks B messages.

  Args:
    data: Bytes that `pack_batch` returned, or any others.
    fields: The fields that were given to it.

  Returns:
    One array per field, with an axis B in front.

  Raises:
    FormatError: A length is wrong, or a message does not have these fields.
  """
  total = size(fields)
  for index, row in enumerate(data):
    if len(row) != total:
      raise declared.FormatError(
        f'message {index}: got {len(row)} bytes, expected {total}'
      )
  return fixed.unpack([np.frombuffer(row, np.uint8) for row in data], fields)
