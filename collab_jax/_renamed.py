"""Names that were documented once and are called otherwise now.

Importing or reading an old name fails with one line that has the new one.
"""

from collections.abc import Callable
from importlib import abc
from typing import NoReturn

# Modules, and names in modules; a name in a moved module stands here only if
# it changed itself, under its new module.
NAMES = {
  'collab_jax.artefacts': 'collab_jax.exporters',
  'collab_jax.codecs.ImageSettings': 'collab_jax.codecs.ImageCodecSpec',
  'collab_jax.codecs.PicturePlan': 'collab_jax.codecs.ImageCodecSpec',
  'collab_jax.codecs.Plan': 'collab_jax.codecs.FeatureCodecSpec',
  'collab_jax.data.Entry': 'collab_jax.data.ListedImage',
  'collab_jax.evaluation.Link': 'collab_jax.evaluation.LinkRates',
  'collab_jax.evaluation.between': 'collab_jax.evaluation.bd_rate',
  'collab_jax.evaluation.chosen': 'collab_jax.evaluation.operating_points',
  'collab_jax.evaluation.leads': 'collab_jax.evaluation.paired_differences',
  'collab_jax.evaluation.savings': 'collab_jax.evaluation.bd_rates',
  'collab_jax.models.gemma.arrange': 'collab_jax.models.gemma.transpose_layers',
  'collab_jax.models.siglip.Block': 'collab_jax.models.siglip.EncoderBlock',
  'collab_jax.models.siglip.Config': 'collab_jax.models.siglip.VisionConfig',
  'collab_jax.models.siglip.arrange': 'collab_jax.models.siglip.unstack_blocks',
  'collab_jax.models.siglip.by_name': (
    'collab_jax.models.siglip.with_stacked_names'
  ),
  'collab_jax.quantizers.Attended': 'collab_jax.quantizers.VisionZip',
  'collab_jax.quantizers.BookError': (
    'collab_jax.quantizers.QuantizerParamsError'
  ),
  'collab_jax.quantizers.Centred': 'collab_jax.quantizers.PositionMean',
  'collab_jax.quantizers.Merge': 'collab_jax.quantizers.Agglomerative',
  'collab_jax.quantizers.Pool': 'collab_jax.quantizers.AvgPool',
  'collab_jax.quantizers.Resized': 'collab_jax.quantizers.LowResolution',
  'collab_jax.quantizers.Salient': 'collab_jax.quantizers.WeightedKMeans',
  'collab_jax.quantizers.base.check_choice': 'collab_jax._validate.choice',
  'collab_jax.quantizers.base.check_int': 'collab_jax._validate.integer',
  'collab_jax.quantizers.base.check_iters': 'collab_jax._validate.integer',
  'collab_jax.quantizers.base.check_number': 'collab_jax._validate.number',
  'collab_jax.quantizers.base.grid': 'collab_jax.quantizers.base.full_grid',
  'collab_jax.quantizers.base.needs': (
    'collab_jax.quantizers.Quantizer.aux_inputs'
  ),
  'collab_jax.quantizers.base.over_images': (
    'collab_jax.quantizers.math.vmap.map_or_vmap'
  ),
  'collab_jax.quantizers.base.priors': 'collab_jax.quantizers.Quantizer.priors',
  'collab_jax.quantizers.base.receiver': (
    'collab_jax.quantizers.Quantizer.receiver'
  ),
  'collab_jax.quantizers.base.split': (
    'collab_jax.quantizers.base.Composite.split_key'
  ),
  'collab_jax.quantizers.books': 'collab_jax.quantizers.pretrained',
  'collab_jax.quantizers.clustering': 'collab_jax.quantizers.clusters.base',
  'collab_jax.quantizers.clusters.base.Rebuilding': (
    'collab_jax.quantizers.clusters.base.CentroidQuantizer'
  ),
  'collab_jax.quantizers.clusters.base.Received': (
    'collab_jax.quantizers.clusters.base.ReceivedClusters'
  ),
  'collab_jax.quantizers.clusters.base.origins': (
    'collab_jax.quantizers.clusters.base.token_origins'
  ),
  'collab_jax.quantizers.clusters.base.rebuilt': (
    'collab_jax.quantizers.clusters.base.expand'
  ),
  'collab_jax.quantizers.clusters.base.rows': (
    'collab_jax.quantizers.clusters.base.token_rows'
  ),
  'collab_jax.quantizers.codebook': 'collab_jax.quantizers.vectors.vq',
  'collab_jax.quantizers.conceal': 'collab_jax.quantizers.Quantizer.conceal',
  'collab_jax.quantizers.identity': 'collab_jax.quantizers.vectors.identity',
  'collab_jax.quantizers.layered': (
    'collab_jax.quantizers.Quantizer.decode_partial'
  ),
  'collab_jax.quantizers.needs': 'collab_jax.quantizers.Quantizer.aux_inputs',
  'collab_jax.quantizers.pretrained.Features': (
    'collab_jax.quantizers.pretrained.FeatureSource'
  ),
  'collab_jax.quantizers.pretrained.check': (
    'collab_jax.quantizers.pretrained.check_features'
  ),
  'collab_jax.quantizers.pretrained.of': (
    'collab_jax.quantizers.pretrained.names_of'
  ),
  'collab_jax.quantizers.pretrained.unnamed': (
    'collab_jax.quantizers.pretrained.with_default_books'
  ),
  'collab_jax.quantizers.priors': 'collab_jax.quantizers.Quantizer.priors',
  'collab_jax.quantizers.row_fields': (
    'collab_jax.quantizers.Quantizer.row_fields'
  ),
  'collab_jax.quantizers.selection': 'collab_jax.quantizers.selectors.base',
  'collab_jax.serving.Settings': 'collab_jax.serving.ServerConfig',
  'collab_jax.serving.Sizes': 'collab_jax.serving.EngineConfig',
  'collab_jax.serving.connection': 'collab_jax.serving.client.channel',
  'collab_jax.serving.run': 'collab_jax.serving.serve_forever',
  'collab_jax.sharding.each': 'collab_jax.sharding.map_rows',
  'collab_jax.sharding.every': 'collab_jax.sharding.sample',
  'collab_jax.training.bottleneck.Passed': (
    'collab_jax.training.bottleneck.BottleneckOutput'
  ),
  'collab_jax.training.bottleneck.through': (
    'collab_jax.training.bottleneck.apply'
  ),
  'collab_jax.training.choices': 'collab_jax.training.param_groups',
  'collab_jax.training.codebooks.codebook': (
    'collab_jax.training.codebooks.fit_codebook'
  ),
  'collab_jax.training.codebooks.linear': (
    'collab_jax.training.codebooks.fit_pca'
  ),
  'collab_jax.training.codebooks.places': (
    'collab_jax.training.codebooks.fit_position_mean'
  ),
  'collab_jax.training.codebooks.principal': (
    'collab_jax.training.codebooks.principal_axes'
  ),
  'collab_jax.training.finetune.choose': (
    'collab_jax.training.finetune.draw_quantizer'
  ),
  'collab_jax.training.finetune.first_codes': (
    'collab_jax.training.finetune.initial_codebook'
  ),
  'collab_jax.training.finetune.merged': (
    'collab_jax.training.finetune.merge_adapters'
  ),
  'collab_jax.training.finetune.start': (
    'collab_jax.training.finetune.split_params'
  ),
  'collab_jax.training.finetune.start_params': (
    'collab_jax.training.finetune.initial_params'
  ),
  'collab_jax.training.finetune_step.State': (
    'collab_jax.training.finetune_step.FinetuneState'
  ),
  'collab_jax.training.finetune_step.Weights': (
    'collab_jax.training.finetune_step.LossWeights'
  ),
  'collab_jax.training.finetune_step.divergence': (
    'collab_jax.training.finetune_step.kl_divergence'
  ),
  'collab_jax.training.finetune_step.learns': (
    'collab_jax.training.finetune_step.learned_codebook'
  ),
  'collab_jax.training.finetune_step.params_of': (
    'collab_jax.training.finetune_step.quantizer_params'
  ),
  'collab_jax.training.finetune_step.passed': (
    'collab_jax.training.finetune_step.apply_bottleneck'
  ),
  'collab_jax.training.finetune_step.prefix': (
    'collab_jax.training.finetune_step.project'
  ),
  'collab_jax.training.finetune_step.tune_step': (
    'collab_jax.training.finetune_step.finetune_step'
  ),
  'collab_jax.training.memory.Needs': 'collab_jax.training.memory.StepMemory',
  'collab_jax.training.memory.batch': 'collab_jax.training.memory.batch_shapes',
  'collab_jax.training.memory.needs': 'collab_jax.training.memory.step_memory',
  'collab_jax.training.memory.replaced': (
    'collab_jax.training.memory.loaded_copies'
  ),
  'collab_jax.training.memory.shapes': (
    'collab_jax.training.memory.param_shapes'
  ),
  'collab_jax.training.param_groups.part': (
    'collab_jax.training.param_groups.group_of'
  ),
  'collab_jax.training.param_groups.trained': (
    'collab_jax.training.param_groups.trainable_groups'
  ),
  'collab_jax.training.settings': 'collab_jax.training.validate',
  'collab_jax.training.tuning': 'collab_jax.training.finetune_step',
  'collab_jax.wire.Saved': 'collab_jax.wire.MessageFile',
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
