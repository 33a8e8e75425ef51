"""Training of quantizer parameters: transforms and codebooks."""

from typing import TYPE_CHECKING

from collab_jax import _renamed

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)
