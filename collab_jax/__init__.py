"""Edge-server collaborative captioning, on the wire and measured.

    import collab_jax as cj

    model = cj.load('tiny')
    codec = cj.FeatureCodec(model, cj.quantizers.KMeans(k=8))

Submodules and names are imported when first used, so that a process pays only
for what it needs. Modules that are not listed here are private.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from collab_jax import _renamed

if TYPE_CHECKING:
  from collab_jax import (
    captioner,
    channels,
    checkpoints,
    codecs,
    config,
    data,
    distributed,
    evaluation,
    exporters,
    message,
    metrics,
    models,
    plots,
    quantizers,
    serving,
    sharding,
    studies,
    tasks,
    testing,
    training,
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
  '__version__',
  'captioner',
  'channels',
  'checkpoints',
  'codecs',
  'config',
  'data',
  'distributed',
  'evaluate',
  'evaluation',
  'export',
  'exporters',
  'load',
  'message',
  'metrics',
  'models',
  'plots',
  'quantizers',
  'serving',
  'sharding',
  'studies',
  'tasks',
  'testing',
  'training',
  'wire',
]

__version__ = '0.1.0'

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
_no_attribute = _renamed.module_getattr(__name__)
# First: folders of old modules may be left in a checkout, empty.
sys.meta_path.insert(0, _renamed.Finder())


def __getattr__(name: str) -> Any:
  if name in _HOMES:
    module = importlib.import_module(f'collab_jax.{_HOMES[name]}')
    value = getattr(module, name)
  elif name in __all__:
    value = importlib.import_module(f'collab_jax.{name}')
  else:
    _no_attribute(name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return list(__all__)
