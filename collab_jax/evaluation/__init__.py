"""Codecs compared on captions: records, and what they add up to."""

from collab_jax.evaluation.blind import KINDS as BLIND
from collab_jax.evaluation.crossings import link_curves, link_table
from collab_jax.evaluation.latency import Link
from collab_jax.evaluation.limits import check_passes
from collab_jax.evaluation.loop import evaluate
from collab_jax.evaluation.rate_tables import chosen, rate_findings, rate_table
from collab_jax.evaluation.rates import between, savings
from collab_jax.evaluation.records import SettingsError, read_records
from collab_jax.evaluation.selectors import leads, ranked, selector_table
from collab_jax.evaluation.series import (
  crossing,
  curves,
  full,
  label,
  pictures,
)
from collab_jax.evaluation.summary import check_draws, summarize
from collab_jax.evaluation.tables import findings, pivot, samples, scores, table

__all__ = [
  'BLIND',
  'Link',
  'SettingsError',
  'between',
  'check_draws',
  'check_passes',
  'chosen',
  'crossing',
  'curves',
  'evaluate',
  'findings',
  'full',
  'label',
  'leads',
  'link_curves',
  'link_table',
  'pictures',
  'pivot',
  'ranked',
  'rate_findings',
  'rate_table',
  'read_records',
  'samples',
  'savings',
  'scores',
  'selector_table',
  'summarize',
  'table',
]
