"""Edge-server collaborative captioning, on the wire and measured.

Names are imported when first used, so that a process pays only for what it
needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from collab_jax import (
    channels,
    checkpoints,
    data,
    evaluation,
    exporters,
    message,
    metrics,
    plots,
    quantizers,
    serving,
    sharding,
    testing,
    wire,
  )
  from collab_jax.captioner import Captioner
  from collab_jax.checkpoints import load
  from collab_jax.codecs import FeatureCodec, ImageCodec, Link
  from collab_jax.evaluation import evaluate
  from collab_jax.exporters import export
  from collab_jax.serving import EdgeClient

__all__ = [
  'Captioner',
  'EdgeClient',
  'FeatureCodec',
  'ImageCodec',
  'Link',
  'channels',
  'checkpoints',
  'data',
  'evaluate',
  'evaluation',
  'export',
  'exporters',
  'load',
  'message',
  'metrics',
  'plots',
  'quantizers',
  'serving',
  'sharding',
  'testing',
  'wire',
]

_HOMES = {
  'Captioner': 'captioner',
  'EdgeClient': 'serving',
  'FeatureCodec': 'codecs',
  'ImageCodec': 'codecs',
  'Link': 'codecs',
  'evaluate': 'evaluation',
  'export': 'exporters',
  'load': 'checkpoints',
}


def __getattr__(name: str) -> Any:
  if name in _HOMES:
    module = importlib.import_module(f'collab_jax.{_HOMES[name]}')
    value = getattr(module, name)
  elif name in __all__:
    value = importlib.import_module(f'collab_jax.{name}')
  else:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
