"""Encoder and quantizer as programs that run without this package."""

from collab_jax.exporters.bundle import export
from collab_jax.exporters.formats import (
  FORMATS,
  ExportError,
)

__all__ = ['FORMATS', 'ExportError', 'export']
__dir__ = __all__.copy
