"""Messages as bytes."""

from collab_jax.wire.plain import (
  FormatError,
  pack,
  pack_batch,
  sizes,
  unpack,
  unpack_batch,
)

__all__ = [
  'FormatError',
  'pack',
  'pack_batch',
  'sizes',
  'unpack',
  'unpack_batch',
]
