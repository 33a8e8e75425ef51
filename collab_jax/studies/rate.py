"""Bytes against scores, from a config to figures."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
import textwrap
from typing import Any, cast

import ml_collections

from collab_jax import channels, evaluation, jsonl, plots, provenance
from collab_jax.evaluation.report import labels
from collab_jax.metrics import bd_rate
from collab_jax.studies import (
  build,
)


def check_rate(config: ml_collections.ConfigDict) -> None:
  """Checks what `settings.check` does, and the fields of configs/rate.py.

  Args:
    config: From configs/rate.py.

  Raises:
    ValueError: As `settings.check`, or a field of the report is out of range.
    ImportError: As `settings.check`.
  """
  fields = cast(Any, config)
  build.check(config)
  make_link(config)
  channels.Budget(**fields.budget)
  bd_rate([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], fields.bd)
  if not fields.full:
    raise ValueError('full: got False, but levels are shares of all vectors')
  for level in fields.levels:
    number = isinstance(level, int | float) and not isinstance(level, bool)
    if not number or not 0 < level <= 1:
      raise ValueError(
        f'levels: got {level!r}, expected shares above 0 up to 1'
      )


def make_link(config: ml_collections.ConfigDict) -> evaluation.LinkRates:
  """The links of several rates that a config asks for."""
  fields = cast(Any, config)
  link = fields.link
  return evaluation.LinkRates(
    rates_kbps=tuple(link.rates_kbps),
    overhead_bytes=link.overhead_bytes,
    delay_ms=link.delay_ms,
  )


def report_rate(
  records: Sequence[Mapping[str, Any]],
  workdir: str | os.PathLike[str],
  config: ml_collections.ConfigDict,
) -> str:
  """Writes figures, table and summary.json, and returns what to print.

  Args:
    records: From `evaluate`, with the config's codecs.
    workdir: Folder to write to.
    config: From configs/rate.py.

  Returns:
    The fronts, and what was found.
  """
  fields = cast(Any, config)
  workdir = Path(workdir)
  draws: dict[str, Any] = {
    name: config[name] for name in ('resamples', 'level', 'seed')
  }
  rows = evaluation.summarize(records, **draws)
  saved = evaluation.bd_rates(records, method=fields.bd, **draws)
  chosen = evaluation.operating_points(rows, fields.levels)
  budget = channels.Budget(**fields.budget)
  latency = make_link(config).table(chosen, budget)
  findings = evaluation.rate_findings(rows, saved, fields.levels)
  made = provenance.provenance()
  for y, name in (('bleu4', 'rate'), ('cider', 'rate_cider')):
    plots.save(plots.rate(rows, y), workdir / name)
  small = {n: row for n, row in chosen.items() if not labels.is_full(row)}
  plots.save(plots.fields(small or chosen), workdir / 'rate_fields')
  note = (
    f'compute as measured on {made["device"]}, {made["cores"]} cores,'
    f' per picture of a batch of {fields.batch_size}'
  )
  plots.save(plots.latency(latency, note), workdir / 'rate_latency')
  (workdir / 'table.txt').write_text(evaluation.rate_table(rows) + '\n')
  summary = {
    'settings': config.to_dict(),
    'made_with': made,
    'findings': findings,
    'bd_rate': saved,
    'latency': latency,
    'rows': rows,
  }
  jsonl.write_json(workdir / 'summary.json', summary)
  text = [evaluation.rate_table(rows, fronts_only=True), '']
  for line in findings:
    text += textwrap.wrap(
      line,
      78,
      subsequent_indent='  ',
      break_long_words=False,
      break_on_hyphens=False,
    )
  return '\n'.join(text)
