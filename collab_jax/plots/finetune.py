"""Rate curves of a model before and after training."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import figure as figures

from collab_jax.evaluation.report import columns, labels, rate
from collab_jax.plots import curves, style

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
  figure = style.new_figure(9.0, 4.6)
  with mpl.rc_context(style.RC):
    axes = figure.add_axes((0.07, 0.11, 0.66, 0.76))
    column = columns.column(next(iter(models.values())), y)
    drawn = []
    for (name, rows), looks in zip(models.items(), _LOOKS, strict=False):
      drawn += _model(axes, name, rows, looks, column)
    axes.set_xscale('log')
    style.log_ticks(axes.xaxis, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), '{:g}')
    axes.set_xlabel('mean bytes of a message, all of it (logarithmic)')
    axes.set_ylabel(column.title)
    style.grid(axes)
    axes.tick_params(length=3)
    curves.draw_labels(axes, drawn)
    note = 'the best codec of each model at each size'
    style.titles(figure, 'Trained through the bottleneck', note, (0.965, 0.905))
    style.fit_width(figure)
  return figure


def _model(axes, name: str, rows, looks, column: columns.Column) -> list[tuple]:
  """Draws a model's front, and its score of all vectors; returns labels."""
  colour, marker, line = looks
  full = next((row for row in rows if labels.is_full(row)), None)
  features, _ = rate.split(rows)
  front = rate.front([row for row in features if row is not full], column.name)
  front = [row for row in front if row['bytes'] < _MAX_BYTES] or front
  x = [row['bytes'] for row in front]
  axes.plot(
    x,
    [column.shown(row) for row in front],
    color=colour,
    linestyle=line,
    marker=marker,
    label=style.plain(name),
    **style.LINE,
  )
  style.band(axes, x, front, column, color=colour, alpha=0.13)
  drawn = [(column.shown(front[-1]), x[-1], name, looks)]
  if full:
    score = column.shown(full)
    axes.axhline(score, color=colour, linestyle=line, linewidth=0.9)
    text = f'{name}, all vectors, {score:.1f}'
    drawn.append((score, None, text, (colour, '', line)))
  return drawn
