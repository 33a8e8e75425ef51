"""Wire format: messages as bytes, specified by docs/wire.md."""

from typing import TYPE_CHECKING

from collab_jax import _renamed
from collab_jax.wire.container import (
  MessageFile,
  dumps,
  load,
  loads,
  save,
)
from collab_jax.wire.fields import DTYPES, FormatError
from collab_jax.wire.packets import PacketFormat, Received
from collab_jax.wire.session import Session
from collab_jax.wire.session_json import (
  CODINGS,
  check_coding,
)

__all__ = [
  'CODINGS',
  'DTYPES',
  'FormatError',
  'MessageFile',
  'PacketFormat',
  'Received',
  'Session',
  'check_coding',
  'dumps',
  'load',
  'loads',
  'save',
]
__dir__ = __all__.copy

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)
