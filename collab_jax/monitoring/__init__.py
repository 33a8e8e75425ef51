"""Monitors of runs: losses and scores in TensorBoard or W&B, traces of steps.

Functions that train or evaluate write to the monitor that is open, and to
nothing where there is none.
"""

from collab_jax.monitoring.flags import define_flags
from collab_jax.monitoring.monitor import (
  Monitor,
  group,
  run_step,
  run_steps,
  write,
)
from collab_jax.monitoring.writers import NAMES

__all__ = [
  'NAMES',
  'Monitor',
  'define_flags',
  'group',
  'run_step',
  'run_steps',
  'write',
]
__dir__ = __all__.copy
