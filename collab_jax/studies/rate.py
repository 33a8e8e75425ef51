"""Bytes against scores: features beside image codecs."""

from collections.abc import Sequence
import re

from collab_jax import (
  _validate,
  channels,
  codecs,
  evaluation,
  plots,
)
from collab_jax.evaluation.report import columns, labels
from collab_jax.metrics import bd_rate
from collab_jax.studies import study, tradeoff


class RateStudy(tradeoff.TradeoffStudy):
  """Study of scores against bytes, from configs/rate.py.

  RateStudy(rate.get_config()).run('runs/rate/records.jsonl')
  """

  def links(self) -> evaluation.LinkRates:
    """Returns the lossless links that latency is reported for."""
    link = self._fields.link
    return evaluation.LinkRates(
      rates_kbps=tuple(link.rates_kbps),
      overhead_bytes=link.overhead_bytes,
      delay_ms=link.delay_ms,
    )

  def _validate(self) -> list[codecs.CodecSpec]:
    specs = super()._validate()
    fields = self._fields
    self.links()
    channels.Budget(**fields.budget)
    bd_rate([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], fields.bd)
    if not fields.full:
      raise ValueError('full: got False, but levels are shares of all vectors')
    for level in fields.levels:
      if not _validate.is_number(level) or not 0 < level <= 1:
        raise _validate.error('levels', level, 'shares above 0 up to 1')
    return specs

  def analyze(
    self, records: Sequence[study.Record], rows: study.Rows
  ) -> study.Report:
    """Returns fronts, delta rates and latencies; see `Study`."""
    fields = self._fields
    deltas = evaluation.bd_rates(
      records, y=self.metrics[0], method=fields.bd, **self.draws
    )
    points = evaluation.operating_points(rows, fields.levels)
    budget = channels.Budget(**fields.budget)
    latency = self.links().table(points, budget)
    findings = evaluation.rate_findings(rows, deltas, fields.levels)
    made_with = self.made_with
    note = (
      f'compute as measured on {made_with["device"]}, {made_with["cores"]}'
      f' cores, per picture of a batch of {fields.batch_size}'
    )
    small = {n: row for n, row in points.items() if not labels.is_full(row)}
    fronts = evaluation.rate_table(rows, fronts_only=True)
    # Names of codecs stay whole.
    lines = study.wrap(findings, break_long_words=False, break_on_hyphens=False)
    return study.Report(
      text='\n'.join([fronts, '', *lines]),
      table=f'{evaluation.rate_table(rows)}\n\n{evaluation.table(rows)}',
      figures={
        'rate': plots.rate(rows),
        **{f'rate_{_stem(y)}': plots.rate(rows, y) for y in _others(rows)},
        'rate_fields': plots.fields(small or points),
        'rate_latency': plots.latency(latency, note),
      },
      summary={'findings': findings, 'bd_rate': deltas, 'latency': latency},
    )


def _others(rows: study.Rows) -> list[str]:
  """Returns the metrics that get a figure beside that of the first."""
  main = columns.column(rows)
  return [column.name for column in columns.others(rows, main)]


def _stem(metric: str) -> str:
  """Returns a metric's name as a part of a file's: letters and digits."""
  return re.sub(r'\W+', '_', metric.rpartition(':')[2]).strip('_')
