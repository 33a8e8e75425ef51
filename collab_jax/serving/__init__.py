"""The edge and the server as two processes, over gRPC: docs/serving.md.

Needs the extra `serving`. Names are imported when first used.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from collab_jax.serving.client.client import EdgeClient
  from collab_jax.serving.engine.engine import EngineConfig
  from collab_jax.serving.server.config import ServerConfig
  from collab_jax.serving.server.run import serve_forever
  from collab_jax.serving.server.security import Security
  from collab_jax.serving.server.server import Server

__all__ = [
  'EdgeClient',
  'EngineConfig',
  'Security',
  'Server',
  'ServerConfig',
  'serve_forever',
]

_HOMES = {
  'EdgeClient': 'client.client',
  'EngineConfig': 'engine.engine',
  'Security': 'server.security',
  'Server': 'server.server',
  'ServerConfig': 'server.config',
  'serve_forever': 'server.run',
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
