"""Headline of a server: what it serves, on what, and to whom."""

from importlib import metadata
import os
from typing import Any

import jax

from collab_jax import __version__, provenance, sharding
from collab_jax.models import paligemma
from collab_jax.serving import protocol, tls
from collab_jax.serving.server.server import Server

_NAME = 12  # Width of the names of lines.


def describe(server: Server) -> dict[str, str]:
  """Describes a server that listens.

  Args:
    server: The server.

  Returns:
    Short texts by name, in the order of the headline.
  """
  config, model = server.config, server.model
  leaves = jax.tree.leaves(model.params)
  count = paligemma.count_parameters(model.params)
  # Of one device, as all else of its memory.
  weights = sum(map(sharding.device_bytes, leaves))
  mesh = sharding.mesh_of(model.params)
  device = min(leaves[0].devices(), key=lambda device: device.id)
  kind = provenance.device_text(device)
  if device.platform == 'cpu':
    kind += f', {os.cpu_count()} cores'
  if mesh:
    kind += f'; {sharding.describe(mesh)}'
  return {
    'version': f'collab_jax {__version__}, jax {metadata.version("jax")}',
    'model': f'{model.config.name}, {_count(count)} parameters in'
    f' {leaves[0].dtype.name}, products in {model.compute_dtype}',
    'device': kind,
    'memory': _memory(server, device, weights),
    'quantizers': _listed(config.quantizers),
    'images': _listed(config.images),
    'address': f'{server.address}, {_identity(server)}',
    **({'log': config.log_requests} if config.log_requests else {}),
  }


def lines(server: Server) -> list[str]:
  """Returns the headline of a server that listens."""
  return [f'{name:{_NAME}}{text}' for name, text in describe(server).items()]


def _memory(server: Server, device: Any, weights: int) -> str:
  slots = server.config.engine.max_slots
  mesh = sharding.mesh_of(server.model.params)
  cache = server.cache_bytes // sharding.sizes(mesh)['data']
  text = (
    f'{_size(weights)} of weights, {_size(cache)} for {slots} captions at a'
    f' time{" on each device" if mesh else ""}'
  )
  limit = provenance.memory_limit(device)
  return f'{text}, of {_size(limit)}' if limit else text


def _listed(text: str) -> str:
  """Describes an operator's list."""
  named = [entry for entry in protocol.entries(text) if entry != protocol.ANY]
  others = ['all others on demand' if named else 'all, on demand']
  parts = named + others * (protocol.ANY in protocol.entries(text))
  return '; '.join(parts) or 'none'


def _identity(server: Server) -> str:
  """Says who may reach a server, and how callers are identified."""
  security, host = server.config.security, server.config.host
  parts = [
    'this machine only' if tls.is_loopback(host) else 'open to the network',
    'TLS' if security.cert else 'no TLS',
  ]
  parts += ["clients' certificates"] if security.client_ca else []
  parts += ['through its proxy alone'] if security.proxy_secret_file else []
  parts += ['tokens' if security.token_file else 'no tokens']
  return ', '.join(parts)


def _count(number: int) -> str:
  for unit, name in ((10**9, 'G'), (10**6, 'M'), (10**3, 'k')):
    if number >= unit:
      return f'{number / unit:.3g} {name}'
  return f'{number} '


def _size(number: int) -> str:
  return f'{_count(number)}B'
