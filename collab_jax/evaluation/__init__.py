"""Codecs compared on captions: records, and what they add up to."""

from collab_jax.evaluation.blind import KINDS as BLIND
from collab_jax.evaluation.loop import evaluate
from collab_jax.evaluation.records import SettingsError, read_records
from collab_jax.evaluation.series import crossing, curves, full, label
from collab_jax.evaluation.summary import check_draws, summarize
from collab_jax.evaluation.tables import findings, pivot, samples, scores, table

__all__ = [
  'BLIND',
  'SettingsError',
  'check_draws',
  'crossing',
  'curves',
  'evaluate',
  'findings',
  'full',
  'label',
  'pivot',
  'read_records',
  'samples',
  'scores',
  'summarize',
  'table',
]
