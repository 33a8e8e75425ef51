"""Names that were documented once and are called otherwise now.

Importing or reading an old name fails with one line that has the new one.
"""

from collections.abc import Callable
from importlib import abc
from typing import NoReturn

# Modules, without 'collab_jax.'.
_MODULES = {
  'artefacts': 'exporters',
  'experiment': 'studies',
  'quantizers.books': 'quantizers.pretrained',
  'quantizers.clustering': 'quantizers.clusters.base',
  'quantizers.codebook': 'quantizers.vectors.vq',
  'quantizers.identity': 'quantizers.vectors.identity',
  'quantizers.selection': 'quantizers.selectors.base',
  'serving.connection': 'serving.client.channel',
  'training.choices': 'training.param_groups',
  'training.settings': 'training.validate',
  'training.tuning': 'training.finetune_step',
}
# Names that have left their module.
_MOVED = {
  'quantizers.base.check_choice': '_validate.choice',
  'quantizers.base.check_int': '_validate.integer',
  'quantizers.base.check_iters': '_validate.integer',
  'quantizers.base.check_number': '_validate.number',
  'quantizers.base.needs': 'quantizers.Quantizer.aux_inputs',
  'quantizers.base.over_images': 'quantizers.math.vmap.map_or_vmap',
  'quantizers.base.priors': 'quantizers.Quantizer.priors',
  'quantizers.base.receiver': 'quantizers.Quantizer.receiver',
  'quantizers.base.split': 'quantizers.base.Composite.split_key',
  'quantizers.conceal': 'quantizers.Quantizer.conceal',
  'quantizers.layered': 'quantizers.Quantizer.decode_partial',
  'quantizers.needs': 'quantizers.Quantizer.aux_inputs',
  'quantizers.priors': 'quantizers.Quantizer.priors',
  'quantizers.row_fields': 'quantizers.Quantizer.row_fields',
  'serving.client.channel.RemoteError': 'serving.client.retry.RemoteError',
}
# Names that changed within a module, by the module's name of today.
_IN_MODULE = {
  'codecs': {
    'ImageSettings': 'ImageCodecSpec',
    'PicturePlan': 'ImageCodecSpec',
    'Plan': 'FeatureCodecSpec',
  },
  'data': {
    'Entry': 'ListedImage',
  },
  'evaluation': {
    'Link': 'LinkRates',
    'between': 'bd_rate',
    'chosen': 'operating_points',
    'leads': 'paired_differences',
    'savings': 'bd_rates',
  },
  'models.gemma': {
    'arrange': 'transpose_layers',
  },
  'models.siglip': {
    'Block': 'EncoderBlock',
    'Config': 'VisionConfig',
    'arrange': 'unstack_blocks',
    'by_name': 'with_stacked_names',
  },
  'quantizers': {
    'Attended': 'VisionZip',
    'BookError': 'QuantizerParamsError',
    'Centred': 'PositionMean',
    'Merge': 'Agglomerative',
    'Pool': 'AvgPool',
    'Resized': 'LowResolution',
    'Salient': 'WeightedKMeans',
  },
  'quantizers.base': {
    'grid': 'full_grid',
  },
  'quantizers.clusters.base': {
    'Rebuilding': 'CentroidQuantizer',
    'Received': 'ReceivedClusters',
    'origins': 'token_origins',
    'rebuilt': 'expand',
    'rows': 'token_rows',
  },
  'quantizers.pretrained': {
    'Features': 'FeatureSource',
    'check': 'check_features',
    'of': 'names_of',
    'unnamed': 'with_default_books',
  },
  'serving': {
    'Settings': 'ServerConfig',
    'Sizes': 'EngineConfig',
    'run': 'serve_forever',
  },
  'sharding': {
    'checksum': 'fingerprint',
    'each': 'map_rows',
    'every': 'sample',
  },
  'training.bottleneck': {
    'Passed': 'BottleneckOutput',
    'through': 'apply',
  },
  'training.codebooks': {
    'codebook': 'fit_codebook',
    'linear': 'fit_pca',
    'places': 'fit_position_mean',
    'principal': 'principal_axes',
  },
  'training.finetune': {
    'choose': 'draw_quantizer',
    'first_codes': 'initial_codebook',
    'merged': 'merge_adapters',
    'start': 'split_params',
    'start_params': 'initial_params',
  },
  'training.finetune_step': {
    'State': 'FinetuneState',
    'Weights': 'LossWeights',
    'divergence': 'kl_divergence',
    'learns': 'learned_codebook',
    'params_of': 'quantizer_params',
    'passed': 'apply_bottleneck',
    'prefix': 'project',
    'tune_step': 'finetune_step',
  },
  'training.memory': {
    'Needs': 'StepMemory',
    'batch': 'batch_shapes',
    'needs': 'step_memory',
    'replaced': 'loaded_copies',
    'shapes': 'param_shapes',
  },
  'training.param_groups': {
    'part': 'group_of',
    'trained': 'trainable_groups',
  },
  'wire': {
    'Saved': 'MessageFile',
  },
}
# Flags, by those of today: a command has one of them.
FLAGS = {
  'method': ('quantizer', 'quantizers'),
  'methods': ('quantizers', 'quantizer'),
}
NAMES = {
  **{
    f'collab_jax.{old}': f'collab_jax.{new}'
    for old, new in (_MODULES | _MOVED).items()
  },
  **{
    f'collab_jax.{module}.{old}': f'collab_jax.{module}.{new}'
    for module, names in _IN_MODULE.items()
    for old, new in names.items()
  },
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
    """Raises an error for an old name; see `importlib`."""
    del path, target
    if message := describe(fullname):
      is_module = fullname.removeprefix('collab_jax.') in _MODULES
      # Without its name: `from package import name` would hide the message.
      raise (ModuleNotFoundError if is_module else ImportError)(message)
