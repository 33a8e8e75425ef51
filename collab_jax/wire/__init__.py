"""Wire format: messages as bytes, specified by docs/wire.md."""

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
