"""Flags of launchers that open a monitor."""

from collections.abc import Callable
import os

from absl import flags
import ml_collections

from collab_jax import distributed
from collab_jax.monitoring import monitor, writers

# The flags belong to the launcher that defines them, and to its --help.
flags.disclaim_key_flags()

OpenMonitor = Callable[
  [str | os.PathLike[str], ml_collections.ConfigDict], monitor.Monitor
]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> OpenMonitor:
  """Defines `--log` and `--profile`.

  Args:
    flag_values: Registry of the flags.

  Returns:
    A function that makes the monitor which the flags name, of a run's folder
    and config.
  """
  log = flags.DEFINE_list(
    'log',
    [],
    f'Where losses and scores go beside the files: {", ".join(writers.NAMES)}.',
    flag_values=flag_values,
  )
  profile = flags.DEFINE_string(
    'profile',
    '',
    'Folder for a trace of some steps, which xprof shows.',
    flag_values=flag_values,
  )

  def open_monitor(workdir, config):
    # Of several processes the first alone writes.
    is_first = distributed.is_first()
    return monitor.Monitor(
      log.value if is_first else (),
      workdir,
      config.to_dict(),
      (profile.value or None) if is_first else None,
    )

  return open_monitor
