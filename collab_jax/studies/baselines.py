"""All ways to choose what is sent, side by side: from a config to a figure."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any, cast

import ml_collections

from collab_jax import evaluation, jsonl, plots, provenance
from collab_jax.studies import (
  build,
)


def check_baselines(config: ml_collections.ConfigDict) -> None:
  """Checks what `settings.check` does, and that there is a comparison.

  Args:
    config: From configs/baselines.py.

  Raises:
    ValueError: As `settings.check`, or all vectors are left out, or there is
      nothing else.
    ImportError: As `settings.check`.
  """
  build.check(config)
  if not cast(Any, config).full:
    raise ValueError('full: got False, but scores are shares of all vectors')
  if not (config.codecs or (config.methods and config.ks)):
    raise ValueError(
      f'methods, ks: got {config.methods} and {config.ks}, and no codecs;'
      ' expected something to compare'
    )


def report_baselines(
  records: Sequence[Mapping[str, Any]],
  workdir: str | os.PathLike[str],
  config: ml_collections.ConfigDict,
) -> str:
  """Writes the figure, table.txt and summary.json, and returns what to print.

  Args:
    records: From `evaluate`, with the config's codecs.
    workdir: Folder to write to.
    config: From configs/baselines.py.
  """
  workdir = Path(workdir)
  draws: dict[str, Any] = {
    name: config[name] for name in ('resamples', 'level', 'seed')
  }
  rows = evaluation.summarize(records, **draws)
  ahead = evaluation.paired_differences(records, rows, **draws)
  plots.save(plots.selectors(rows), workdir / 'selectors')
  text = evaluation.selector_table(rows, ahead)
  whole = f'{text}\n\n{evaluation.table(rows)}\n'
  (workdir / 'table.txt').write_text(whole)
  summary = {
    'settings': config.to_dict(),
    'made_with': provenance.provenance(),
    'ahead': ahead,
    'rows': rows,
  }
  jsonl.write_json(workdir / 'summary.json', summary)
  return text
