"""The edge and the server as two processes, over gRPC: docs/serving.md.

Needs the extra `serving`. Names are imported when first used.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from collab_jax.serving.client import EdgeClient
  from collab_jax.serving.engine import Sizes
  from collab_jax.serving.running import run
  from collab_jax.serving.security import Security
  from collab_jax.serving.server import Server
  from collab_jax.serving.settings import Settings

__all__ = ['EdgeClient', 'Security', 'Server', 'Settings', 'Sizes', 'run']

_HOMES = {
  'EdgeClient': 'client',
  'Security': 'security',
  'Server': 'server',
  'Settings': 'settings',
  'Sizes': 'engine',
  'run': 'running',
}


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  if importlib.util.find_spec('grpc') is None:
    raise ImportError(
      f"{name} needs the extra 'serving': pip install 'collab_jax[serving]'"
    )
  value = getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
  globals()[name] = value
  return value
