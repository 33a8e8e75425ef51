"""Messages as bytes; docs/wire.md specifies the format."""

from collab_jax.wire.container import (
  Saved,
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
  'PacketFormat',
  'Received',
  'Saved',
  'Session',
  'check_coding',
  'dumps',
  'load',
  'loads',
  'save',
]
