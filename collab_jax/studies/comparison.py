"""Comparison of runs, from their folders to a figure and a table."""

from collections.abc import Sequence
import os
from typing import Any

from collab_jax import evaluation, plots
from collab_jax.studies import study


def compare_runs(
  paths: Sequence[str | os.PathLike[str]],
  workdir: str | os.PathLike[str],
  x: str = 'bytes',
  **how: Any,
) -> str:
  """Compares runs and writes compare.png, table.txt and summary.json.

  Args:
    paths: Folders or files of records; the first is compared with the others.
    workdir: Folder to write to.
    x: As of `plots.compare`.
    **how: Arguments of `evaluation.compare`.

  Returns:
    The table, to be printed.

  Raises:
    ValueError: As `evaluation.compare` and `plots.compare`.
  """
  comparison = evaluation.compare(paths, **how)
  table = evaluation.comparison_table(comparison)
  report = study.Report(
    text=table,
    table=table,
    figures={'compare': plots.compare(comparison, x)},
    summary={
      'differences': comparison.differences,
      'unpaired': comparison.unpaired,
      'settings_that_differ': comparison.settings,
      'bd_rate': comparison.delta_rates,
      'images': comparison.images,
      'left_out': comparison.left_out,
    },
  )
  return study.write_report(report, comparison.rows, workdir, None)
