"""Metrics: scores of captions, rates, distortion and confidence intervals."""

from collab_jax.metrics.bd_rate import bd_rate, overlap, pareto_front
from collab_jax.metrics.bleu import (
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
from collab_jax.metrics.cider import CiderD, cider, cider_scores
from collab_jax.metrics.distortion import mse
from collab_jax.metrics.rate import bits, bpp
from collab_jax.metrics.rouge import rouge_l, rouge_l_scores

__all__ = [
  'CiderD',
  'Difference',
  'bd_rate',
  'bits',
  'bleu',
  'bleu4',
  'bleu_from_stats',
  'bleu_stats',
  'bootstrap',
  'bpp',
  'cider',
  'cider_scores',
  'corpus_bleu_stats',
  'drawn_scores',
  'interval',
  'mean',
  'mean_stats',
  'mse',
  'overlap',
  'paired_bootstrap',
  'pareto_front',
  'rouge_l',
  'rouge_l_scores',
  'simultaneous',
]
__dir__ = __all__.copy
