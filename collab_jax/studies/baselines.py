"""Selectors compared at equal numbers of vectors."""

from collections.abc import Sequence

from collab_jax import codecs, evaluation, plots
from collab_jax.studies import study, tradeoff


class BaselineStudy(tradeoff.TradeoffStudy):
  """Study of all selectors side by side, from configs/baselines.py.

  BaselineStudy(baselines.get_config()).run('runs/baselines/records.jsonl')
  """

  def _validate(self) -> list[codecs.CodecSpec]:
    specs = super()._validate()
    fields = self._fields
    if not fields.full:
      raise ValueError('full: got False, but scores are shares of all vectors')
    if not (fields.codecs or (fields.methods and fields.ks)):
      raise ValueError(
        f'methods, ks: got {fields.methods} and {fields.ks}, and no codecs;'
        ' expected something to compare'
      )
    return specs

  def analyze(
    self, records: Sequence[study.Record], rows: study.Rows
  ) -> study.Report:
    """Returns the comparison and its figure; see `Study`."""
    differences = evaluation.paired_differences(
      records, rows, y=self.metrics[0], **self.draws
    )
    text = evaluation.selector_table(rows, differences)
    return study.Report(
      text=text,
      table=f'{text}\n\n{evaluation.table(rows)}',
      figures={'selectors': plots.selectors(rows)},
      summary={'ahead': differences},
    )
