"""The paper's experiment: captions against the number of vectors sent."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from collab_jax import data as datasets
from collab_jax import distributed, evaluation, plots
from collab_jax.studies import build, study


class TradeoffStudy(study.Study):
  """Study of scores against vectors sent, from configs/tradeoff.py.

  TradeoffStudy(tradeoff.get_config()).run('runs/demo/records.jsonl')
  """

  def analyze(
    self, records: Sequence[study.Record], rows: study.Rows
  ) -> study.Report:
    """Returns Fig. 3, its table, and the paper's claims; see `Study`."""
    del records
    return analyze(rows)

  def draw_fig2(self, stem: str | os.PathLike[str]) -> None:
    """Draws Fig. 2 of the picture with the longest caption of the first 24.

    Args:
      stem: Path of the figure's files, without suffix.
    """
    _check_alone('fig2')
    examples = [self.data[i] for i in range(min(24, len(self.data)))]
    longest = max(examples, key=lambda e: len((*e.captions, '')[0]))
    figure = plots.fig2(
      self.model,
      longest.image,
      captioner=self.captioner,
      batch_size=min(self._fields.batch_size, len(self.data)),
    )
    plots.save(figure, stem)

  def draw_photographs(self, stem: str | os.PathLike[str]) -> None:
    """Draws clusters of the photographs that ship with the package.

    Args:
      stem: Path of the figure's files, without suffix.
    """
    _check_alone('fig2_photos')
    batch = min(self._fields.batch_size, len(self.data))
    size = self.dimensions.vision.image_size
    photos = datasets.photos(
      batch, size, build.text_settings(self.config).preprocess
    )
    figure = plots.cluster_maps(
      self.model,
      [example.image for example in photos],
      [k for k in (32, 8, 4) if k <= self.dimensions.vision.num_tokens],
      batch_size=batch,
    )
    plots.save(figure, stem)


def _check_alone(figure: str) -> None:
  """Raises ValueError for a figure that several processes do not draw."""
  if distributed.number() > 1:
    raise ValueError(
      f'distributed: got {distributed.number()} processes, expected one to draw'
      f' {figure}; evaluate with experiments/evaluate.py'
    )


def analyze(rows: Sequence[Mapping[str, Any]]) -> study.Report:
  """Returns Fig. 3, its table, and the paper's claims beside the findings.

  Args:
    rows: From `evaluation.summarize`.
  """
  findings = [*evaluation.findings(rows), *evaluation.published(rows)]
  figures, table = {}, evaluation.scores
  if evaluation.curves(rows):
    figures = {
      'fig3': plots.tradeoff(rows, x='ratio'),
      'fig3_bytes': plots.tradeoff(rows, x='bytes'),
    }
    table = evaluation.pivot
  return study.Report(
    text='\n'.join([table(rows), '', *study.wrap(findings)]),
    table='\n\n'.join(
      filter(None, [evaluation.table(rows), evaluation.kinds_table(rows)])
    ),
    figures=figures,
    summary={'findings': findings},
  )


def report_records(
  records: Sequence[Mapping[str, Any]],
  workdir: str | os.PathLike[str],
  **how: Any,
) -> str:
  """Writes the files of a `TradeoffStudy` whose config is unknown.

  Args:
    records: From `evaluation.read_records`.
    workdir: Folder to write to.
    **how: Arguments of `evaluation.summarize`: metrics, draws.

  Returns:
    What to print.
  """
  rows = evaluation.summarize(records, **how)
  return study.write_report(analyze(rows), rows, workdir, None)
