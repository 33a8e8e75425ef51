"""Encoder and quantizer as programs that run without this package."""

from collab_jax.artefacts.exporting import export
from collab_jax.artefacts.formats import FORMATS, ExportError

__all__ = ['FORMATS', 'ExportError', 'export']
