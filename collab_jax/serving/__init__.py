"""The edge and the server as two processes, over gRPC: docs/serving.md.

Needs the extra `serving`. Names are imported when first used.
"""

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from collab_jax import _renamed

if TYPE_CHECKING:
  from collab_jax.serving.client.client import EdgeClient
  from collab_jax.serving.client.retry import RemoteError
  from collab_jax.serving.engine.engine import EngineConfig
  from collab_jax.serving.replicas.run import (
    ReplicaConfig,
    make_application,
    serve_replicas,
  )
  from collab_jax.serving.server.config import ServerConfig
  from collab_jax.serving.server.loading import (
    ServerArguments,
    follow,
    make_server,
  )
  from collab_jax.serving.server.run import serve_forever
  from collab_jax.serving.server.security import Security
  from collab_jax.serving.server.server import Server

# gRPC tells the terminal of each stranger's failed handshake, and of each fork;
# its errors stay. Read when gRPC is first imported.
os.environ.setdefault('GRPC_VERBOSITY', 'ERROR')

__all__ = [
  'EdgeClient',
  'EngineConfig',
  'RemoteError',
  'ReplicaConfig',
  'Security',
  'Server',
  'ServerArguments',
  'ServerConfig',
  'follow',
  'make_application',
  'make_server',
  'serve_forever',
  'serve_replicas',
]
__dir__ = __all__.copy

_HOMES = {
  'EdgeClient': 'client.client',
  'EngineConfig': 'engine.engine',
  'RemoteError': 'client.retry',
  'ReplicaConfig': 'replicas.run',
  'Security': 'server.security',
  'Server': 'server.server',
  'ServerArguments': 'server.loading',
  'ServerConfig': 'server.config',
  'follow': 'server.loading',
  'make_application': 'replicas.run',
  'make_server': 'server.loading',
  'serve_forever': 'server.run',
  'serve_replicas': 'replicas.run',
}
_no_attribute = _renamed.module_getattr(__name__)


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    _no_attribute(name)
  if importlib.util.find_spec('grpc') is None:
    raise ImportError(
      f"{name} needs the extra 'serving': pip install 'collab_jax[serving]'"
    )
  value = getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
  globals()[name] = value
  return value
