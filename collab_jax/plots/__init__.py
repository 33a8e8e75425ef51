"""The paper's figures, drawn from records and from a model."""

from collab_jax.plots.answers import draw_answers
from collab_jax.plots.channels import channel
from collab_jax.plots.compare import compare
from collab_jax.plots.costs import fields, latency
from collab_jax.plots.curves import tradeoff, tradeoff_panels
from collab_jax.plots.finetune import tuned
from collab_jax.plots.maps import cluster_maps, fig2
from collab_jax.plots.rates import rate
from collab_jax.plots.selector_maps import selector_maps
from collab_jax.plots.selectors import selectors
from collab_jax.plots.style import STYLE, bare, save
from collab_jax.plots.tasks import task_rates, tasks

__all__ = [
  'STYLE',
  'bare',
  'channel',
  'cluster_maps',
  'compare',
  'draw_answers',
  'fields',
  'fig2',
  'latency',
  'rate',
  'save',
  'selector_maps',
  'selectors',
  'task_rates',
  'tasks',
  'tradeoff',
  'tradeoff_panels',
  'tuned',
]
__dir__ = __all__.copy
