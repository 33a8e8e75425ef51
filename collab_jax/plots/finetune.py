"""Rate curves of a model before and after training."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import figure as figures

from collab_jax.evaluation.report import columns, labels, rate
from collab_jax.plots import style

_LOOKS = (
  (style.GREY, 's', '--'),
  (style.BLUE, 'D', '-.'),
  (style.VERMILION, 'o', '-'),
)
_MAX_BYTES = 200  # Beyond, all are at their full score.


def tuned(
  models: Mapping[str, Sequence[Mapping[str, Any]]],
  y: columns.Y = None,
) -> figures.Figure:
  """Draws a score against bytes, the front of each model.

  Args:
    models: Rows from `evaluation.summarize`, by name of the model.
    y: Metric of the score; None for the first of the rows.

  Returns:
    The figure; a line's label is its model.

  Raises:
    ValueError: There is no model, or more than there are looks.
  """
  if not 0 < len(models) <= len(_LOOKS):
    raise ValueError(f'got {len(models)} models, expected 1 to {len(_LOOKS)}')
  figure = style.new_figure(7.2, 4.6)
  with mpl.rc_context(style.RC):
    axes = figure.add_axes((0.09, 0.11, 0.88, 0.76))
    column = columns.column(next(iter(models.values())), y)
    for (name, rows), looks in zip(models.items(), _LOOKS, strict=False):
      colour, marker, line = looks
      full = next((row for row in rows if labels.is_full(row)), None)
      features, _ = rate.split(rows)
      front = rate.front([row for row in features if row is not full], y)
      front = [row for row in front if row['bytes'] < _MAX_BYTES] or front
      x = [row['bytes'] for row in front]
      axes.plot(
        x,
        [column.shown(row) for row in front],
        color=colour,
        marker=marker,
        linestyle=line,
        markersize=5,
        label=style.plain(name),
      )
      style.band(axes, x, front, column, color=colour, alpha=0.13)
      if full:
        across = {'color': colour, 'linestyle': line, 'linewidth': 0.7}
        axes.axhline(column.shown(full), **across)
    axes.set_xscale('log')
    style.log_ticks(axes.xaxis, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), '{:g}')
    axes.set_xlabel('mean bytes of a message, all of it (logarithmic)')
    axes.set_ylabel(column.title)
    style.grid(axes)
    axes.legend(loc='lower right', frameon=False)
    note = 'the best codec at each size; thin: all features of each model'
    style.titles(figure, 'Trained through the bottleneck', note, (0.965, 0.905))
  return figure
