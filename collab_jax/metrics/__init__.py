"""Metrics: scores of captions and answers, rates and confidence intervals."""

from collections.abc import Iterable, Mapping
from typing import Any

from collab_jax import _validate, config, registry
from collab_jax.metrics.anls import Anls
from collab_jax.metrics.base import (
  AnswerMetric,
  MeanMetric,
  Metric,
  as_metric,
  checked_statistics,
)
from collab_jax.metrics.bd_rate import bd_rate, overlap, pareto_front
from collab_jax.metrics.bleu import (
  Bleu1,
  Bleu2,
  Bleu3,
  Bleu4,
  bleu,
  bleu4,
  bleu_from_stats,
  bleu_stats,
  corpus_bleu_stats,
)
from collab_jax.metrics.bootstrap import (
  Difference,
  bootstrap,
  drawn_scores,
  interval,
  mean,
  mean_stats,
  paired_bootstrap,
  simultaneous,
)
from collab_jax.metrics.cider import Cider, CiderD, cider, cider_scores
from collab_jax.metrics.distortion import mse
from collab_jax.metrics.exact import ChoiceAccuracy, CountAccuracy, ExactMatch
from collab_jax.metrics.rate import bits, bpp
from collab_jax.metrics.regions import (
  BoxAccuracy,
  BoxIou,
  BoxMatches,
  MaskIou,
)
from collab_jax.metrics.relaxed import RelaxedAccuracy
from collab_jax.metrics.rouge import RougeL, rouge_l, rouge_l_scores
from collab_jax.metrics.vqa import VqaAccuracy, VqaMatches

__all__ = [
  'DEFAULT',
  'NAMES',
  'Anls',
  'AnswerMetric',
  'Bleu1',
  'Bleu2',
  'Bleu3',
  'Bleu4',
  'BoxAccuracy',
  'BoxIou',
  'BoxMatches',
  'ChoiceAccuracy',
  'Cider',
  'CiderD',
  'CountAccuracy',
  'Difference',
  'ExactMatch',
  'MaskIou',
  'MeanMetric',
  'Metric',
  'RelaxedAccuracy',
  'RougeL',
  'VqaAccuracy',
  'VqaMatches',
  'bd_rate',
  'bits',
  'bleu',
  'bleu4',
  'bleu_from_stats',
  'bleu_stats',
  'bootstrap',
  'bpp',
  'checked_statistics',
  'cider',
  'cider_scores',
  'corpus_bleu_stats',
  'drawn_scores',
  'interval',
  'make',
  'make_all',
  'mean',
  'mean_stats',
  'mse',
  'name',
  'overlap',
  'paired_bootstrap',
  'pareto_front',
  'rouge_l',
  'rouge_l_scores',
  'simultaneous',
]
__dir__ = __all__.copy

NAMES: Mapping[str, type] = {
  'bleu1': Bleu1,
  'bleu2': Bleu2,
  'bleu3': Bleu3,
  'bleu4': Bleu4,
  'cider': Cider,
  'rouge_l': RougeL,
  'vqa': VqaAccuracy,
  'vqa_matches': VqaMatches,
  'exact': ExactMatch,
  'count': CountAccuracy,
  'choice': ChoiceAccuracy,
  'anls': Anls,
  'relaxed': RelaxedAccuracy,
  'box_iou': BoxIou,
  'box_accuracy': BoxAccuracy,
  'box_matches': BoxMatches,
  'mask_iou': MaskIou,
}

# What is computed and shown unless a config says otherwise; tables and curves
# are of the first.
DEFAULT = ('bleu4', 'bleu1', 'bleu2', 'bleu3', 'cider', 'rouge_l')


def make(metric: Any) -> Metric:
  """Makes a metric by name, as configs have it.

      make('bleu4')
      make('package.module:WordRecall(words=3)')

  Args:
    metric: A key of `NAMES` or 'package.module:Class', settings in
      parentheses; a metric is returned as it is.

  Returns:
    The metric.

  Raises:
    ValueError: The name or a setting is unknown, with the nearest known one.
    ImportError: The module cannot be imported.
    TypeError: It is no metric.
  """
  if not isinstance(metric, str):
    return as_metric('metric', metric)
  title, settings = config.call(metric, 'metric', 'bleu4')
  return as_metric('metric', registry.make(NAMES, 'metric', title, **settings))


def make_all(metrics: Iterable[str | Metric]) -> dict[str, Metric]:
  """Makes the metrics of an evaluation.

  Args:
    metrics: Names or metrics, at least one, each once; the first is that of
      curves.

  Returns:
    Metrics by their names, in that order.

  Raises:
    ValueError: There is none, or one is there twice; else as `make`.
    ImportError: As `make`.
    TypeError: As `make`.
  """
  if isinstance(metrics, str | Metric):
    raise _validate.error(
      'metrics', metrics, 'a list of names', f'write [{metrics!r}]'
    )
  made: dict[str, Metric] = {}
  for metric in map(make, metrics):
    if name(metric) in made:
      raise ValueError(f'metrics: {name(metric)} is there twice')
    made[name(metric)] = metric
  if not made:
    raise _validate.error('metrics', metrics, 'one or more names')
  return made


def name(metric: Any) -> str:
  """Returns the name of a metric, which is the field of its score in rows.

  Args:
    metric: The metric.

  Returns:
    'bleu4', or 'package.module:Class(setting=1)'; defaults are left out.
  """
  return registry.name(NAMES, metric)
