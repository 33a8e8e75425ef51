"""Documented names of version 0.1.0 that are called otherwise now.

Importing or reading an old name fails with one line that has the new one.
"""

from collections.abc import Callable
from importlib import abc
from typing import NoReturn

# Modules, and names in modules; a name in a moved module stands here only if
# it changed itself, under its new module.
NAMES = {
  'collab_jax.artefacts': 'collab_jax.exporters',
  'collab_jax.evaluation.between': 'collab_jax.evaluation.bd_rate',
  'collab_jax.evaluation.chosen': 'collab_jax.evaluation.operating_points',
  'collab_jax.evaluation.leads': 'collab_jax.evaluation.paired_differences',
  'collab_jax.evaluation.savings': 'collab_jax.evaluation.bd_rates',
  'collab_jax.quantizers.Attended': 'collab_jax.quantizers.VisionZip',
  'collab_jax.quantizers.BookError': (
    'collab_jax.quantizers.QuantizerParamsError'
  ),
  'collab_jax.quantizers.Centred': 'collab_jax.quantizers.PositionMean',
  'collab_jax.quantizers.Merge': 'collab_jax.quantizers.Agglomerative',
  'collab_jax.quantizers.Pool': 'collab_jax.quantizers.AvgPool',
  'collab_jax.quantizers.Resized': 'collab_jax.quantizers.LowResolution',
  'collab_jax.quantizers.Salient': 'collab_jax.quantizers.WeightedKMeans',
  'collab_jax.quantizers.base.grid': 'collab_jax.quantizers.base.full_grid',
  'collab_jax.quantizers.base.over_images': (
    'collab_jax.quantizers.base.map_or_vmap'
  ),
  'collab_jax.quantizers.books': 'collab_jax.quantizers.pretrained',
  'collab_jax.quantizers.clustering': 'collab_jax.quantizers.clusters.base',
  'collab_jax.quantizers.identity': 'collab_jax.quantizers.vectors.identity',
  'collab_jax.quantizers.layered': 'collab_jax.quantizers.decode_partial',
  'collab_jax.quantizers.selection': 'collab_jax.quantizers.selectors.base',
  'collab_jax.serving.Settings': 'collab_jax.serving.ServerConfig',
  'collab_jax.serving.Sizes': 'collab_jax.serving.EngineConfig',
  'collab_jax.serving.connection': 'collab_jax.serving.client.channel',
  'collab_jax.serving.run': 'collab_jax.serving.serve_forever',
  'collab_jax.training.choices': 'collab_jax.training.param_groups',
  'collab_jax.training.codebooks.Transform': (
    'collab_jax.training.codebooks.train.Transform'
  ),
  'collab_jax.training.codebooks.codebook': (
    'collab_jax.training.codebooks.train.codebook'
  ),
  'collab_jax.training.codebooks.linear': (
    'collab_jax.training.codebooks.train.linear'
  ),
  'collab_jax.training.codebooks.make_metric': (
    'collab_jax.training.codebooks.train.make_metric'
  ),
  'collab_jax.training.codebooks.places': (
    'collab_jax.training.codebooks.train.places'
  ),
  'collab_jax.training.codebooks.principal': (
    'collab_jax.training.codebooks.train.principal'
  ),
  'collab_jax.training.finetune_step.tune_step': (
    'collab_jax.training.finetune_step.finetune_step'
  ),
  'collab_jax.training.settings': 'collab_jax.training.validate',
  'collab_jax.training.tuning': 'collab_jax.training.finetune_step',
}


def describe(name: str) -> str | None:
  """Returns 'old name is now new name', or None for other names."""
  return f'{name} is now {NAMES[name]}' if name in NAMES else None


def module_getattr(module: str) -> Callable[[str], NoReturn]:
  """Makes the `__getattr__` of a module that some names have left."""

  def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
      describe(f'{module}.{name}')
      or f'module {module!r} has no attribute {name!r}'
    )

  return __getattr__


class Finder(abc.MetaPathFinder):
  """Import hook that refuses old modules."""

  def find_spec(self, fullname, path, target=None):
    """Raises ModuleNotFoundError for an old name; see `importlib`."""
    del path, target
    if message := describe(fullname):
      # Without its name: `from package import name` would hide the message.
      raise ModuleNotFoundError(message)
