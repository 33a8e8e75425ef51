"""Studies: whole experiments, from a config to records, figures and tables."""

from collab_jax.launcher import runtime
from collab_jax.studies.baselines import BaselineStudy
from collab_jax.studies.build import (
  dimensions,
  load_model,
  make_captioner,
  make_data,
  make_mesh,
  make_quantizers,
  make_specs,
)
from collab_jax.studies.channel import ChannelStudy
from collab_jax.studies.comparison import compare_runs
from collab_jax.studies.finetune import FinetuneStudy
from collab_jax.studies.headline import training as describe_training
from collab_jax.studies.html_report import write_html
from collab_jax.studies.rate import RateStudy
from collab_jax.studies.study import (
  Report,
  Study,
  list_files,
  write_scores,
)
from collab_jax.studies.tasks import TaskStudy
from collab_jax.studies.tasks import read_lines as read_task_lines
from collab_jax.studies.tradeoff import TradeoffStudy, report_records

__all__ = [
  'BaselineStudy',
  'ChannelStudy',
  'FinetuneStudy',
  'RateStudy',
  'Report',
  'Study',
  'TaskStudy',
  'TradeoffStudy',
  'compare_runs',
  'describe_training',
  'dimensions',
  'list_files',
  'load_model',
  'make_captioner',
  'make_data',
  'make_mesh',
  'make_quantizers',
  'make_specs',
  'read_task_lines',
  'report_records',
  'runtime',
  'write_html',
  'write_scores',
]
__dir__ = __all__.copy
