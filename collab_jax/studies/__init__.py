"""The paper's experiment, from a config to files: what the launchers call."""

from collab_jax.launcher import runtime
from collab_jax.studies.baselines import (
  check_baselines,
  report_baselines,
)
from collab_jax.studies.build import (
  check,
  dimensions,
  load_model,
  make_captioner,
  make_data,
  make_mesh,
  make_quantizers,
  make_specs,
)
from collab_jax.studies.channel import (
  check_links,
  evaluate_links,
  report_links,
)
from collab_jax.studies.finetune import (
  check_tuned,
  evaluate_tuned,
  report_tuned,
  tune_both,
)
from collab_jax.studies.rate import (
  check_rate,
  make_link,
  report_rate,
)
from collab_jax.studies.tradeoff import (
  describe_run,
  draw_fig2,
  evaluate,
  list_files,
  report,
)

__all__ = [
  'check',
  'check_baselines',
  'check_links',
  'check_rate',
  'check_tuned',
  'describe_run',
  'dimensions',
  'draw_fig2',
  'evaluate',
  'evaluate_links',
  'evaluate_tuned',
  'list_files',
  'load_model',
  'make_captioner',
  'make_data',
  'make_link',
  'make_mesh',
  'make_quantizers',
  'make_specs',
  'report',
  'report_baselines',
  'report_links',
  'report_rate',
  'report_tuned',
  'runtime',
  'tune_both',
]
