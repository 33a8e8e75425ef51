"""Evaluation of codecs on captions: records, summaries, tables."""

from typing import TYPE_CHECKING

from collab_jax import _renamed
from collab_jax.evaluation.blind import KINDS as BLIND
from collab_jax.evaluation.comparison import Comparison, compare
from collab_jax.evaluation.loop import evaluate
from collab_jax.evaluation.message_cache import MessageCache
from collab_jax.evaluation.record_store import (
  SettingsError,
  read_records,
  record_files,
)
from collab_jax.evaluation.report.budgets import (
  best_within,
  blind_share,
  budget_table,
  cheapest_with,
  control_table,
  control_within,
  kept_table,
)
from collab_jax.evaluation.report.captions import captions_table
from collab_jax.evaluation.report.channel import (
  link_curves,
  link_table,
)
from collab_jax.evaluation.report.compared import comparison_table
from collab_jax.evaluation.report.grids import (
  kinds,
  metrics_of,
  of_kinds,
  of_wrong,
)
from collab_jax.evaluation.report.labels import (
  crossing,
  curves,
  full,
  label,
  pictures,
)
from collab_jax.evaluation.report.latency import LinkRates
from collab_jax.evaluation.report.rate import (
  bd_rate,
  bd_rates,
  operating_points,
  rate_findings,
  rate_table,
)
from collab_jax.evaluation.report.selectors import (
  paired_differences,
  ranked,
  selector_table,
)
from collab_jax.evaluation.report.summary import (
  check_draws,
  summarize,
)
from collab_jax.evaluation.report.task_scores import kinds_table, published
from collab_jax.evaluation.report.text import (
  findings,
  pivot,
  samples,
  scores,
  table,
  unrelated_captions,
)
from collab_jax.evaluation.report.unlike import unlike_pictures
from collab_jax.evaluation.validate import check_passes

__all__ = [
  'BLIND',
  'Comparison',
  'LinkRates',
  'MessageCache',
  'SettingsError',
  'bd_rate',
  'bd_rates',
  'best_within',
  'blind_share',
  'budget_table',
  'captions_table',
  'cheapest_with',
  'check_draws',
  'check_passes',
  'compare',
  'comparison_table',
  'control_table',
  'control_within',
  'crossing',
  'curves',
  'evaluate',
  'findings',
  'full',
  'kept_table',
  'kinds',
  'kinds_table',
  'label',
  'link_curves',
  'link_table',
  'metrics_of',
  'of_kinds',
  'of_wrong',
  'operating_points',
  'paired_differences',
  'pictures',
  'pivot',
  'published',
  'ranked',
  'rate_findings',
  'rate_table',
  'read_records',
  'record_files',
  'samples',
  'scores',
  'selector_table',
  'summarize',
  'table',
  'unlike_pictures',
  'unrelated_captions',
]
__dir__ = __all__.copy

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)
