"""Selectors side by side, a panel for each number of vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures
from matplotlib import lines as mpl_lines

from collab_jax import evaluation
from collab_jax.evaluation.report import columns
from collab_jax.evaluation.report import labels as labels_lib
from collab_jax.plots import curves, style

# The last part of a message's field, and the label and looks of its kind.
_KINDS = (
  ('packed', 'several means in each of k vectors', style.PURPLE, '^'),
  ('mix', 'mixtures of k vectors', style.VERMILION, 'D'),
  ('mask', 'k of the vectors themselves', style.GREEN, 's'),
  ('', 'means of k clusters or cells', style.BLUE, 'o'),
)
_LINE = 0.235  # Inches.


def selectors(
  rows: Sequence[Mapping[str, Any]], y: columns.Y = None
) -> figures.Figure:
  """Draws the share of all vectors' score that each selector keeps.

  A panel for each number of vectors; the selectors are in one order in all of
  them, the best on average on top.

  Args:
    rows: From `summarize`, those of all vectors among them.
    y: Metric of the score; None for the first of the rows. Where lower scores
      are better, scores are drawn, not shares.

  Returns:
    The figure; its axes are the panels.

  Raises:
    ValueError: There is nothing to draw, or the rows have no such metric.
  """
  column = columns.column(rows, y)
  ranked = evaluation.ranked(rows, y)
  if not ranked:
    raise ValueError('no curves: there is nothing to draw')
  ks = sorted({row['sent'] for curve in ranked.values() for row in curve})
  height = 1.35 + _LINE * len(ranked)
  figure = style.new_figure(10.6, height)
  with mpl.rc_context(style.RC):
    left, right, gap = 0.27, 0.985, 0.012
    width = (right - left + gap) / len(ks) - gap
    bottom, top = 0.62 / height, 1 - 0.72 / height
    for n, k in enumerate(ks):
      place = (left + n * (width + gap), bottom, width, top - bottom)
      _panel(figure.add_axes(place), ranked, k, column, labels=not n)
    _titles(figure, rows, height, column)
  return figure


def _shares(row, column: columns.Column) -> list[float]:
  """Returns a row's percent kept and its interval; empty if not known."""
  ends = '', '_low', '_high'
  if not column.higher_is_better:
    return [column.shown(row, end) for end in ends]
  shares = [column.kept(row, end) for end in ends]
  return [100 * share for share in shares if share is not None]


def _panel(
  axes: mpl_axes.Axes, ranked, k: int, column: columns.Column, labels: bool
) -> None:
  """Draws the shares kept at one number of vectors."""
  for y, curve in enumerate(ranked.values()):
    row = labels_lib.at_k(curve, k)
    if row is None or not (shares := _shares(row, column)):
      continue
    share, low, high = shares
    _, _, colour, marker = _kind(row)
    axes.plot(
      [low, high],
      [y, y],
      color=colour,
      linewidth=1.6,
      solid_capstyle='butt',
    )
    axes.plot(
      [share],
      [y],
      color=colour,
      marker=marker,
      markersize=4.2,
      markeredgewidth=0,
      linestyle='none',
    )
  if column.higher_is_better:
    axes.axvline(100, color=style.INK, linewidth=0.9, linestyle=(0, (6, 2)))
    axes.set_xlim(0, 112)
    axes.set_xticks([0, 25, 50, 75, 100])
  axes.set_ylim(len(ranked) - 0.4, -0.6)
  axes.set_yticks(
    range(len(ranked)), [*map(style.plain, ranked)] if labels else []
  )
  axes.tick_params(axis='y', length=0, labelsize=8.5)
  axes.tick_params(axis='x', length=3, labelsize=8)
  style.grid(axes)
  axes.spines['left'].set_visible(False)
  axes.set_title(f'k = {k}', fontsize=9.5, pad=4)


def _kind(row) -> tuple[str, str, str, str]:
  """Returns the kind of a row's selector, by the fields of its messages."""
  ends = {name.rpartition('/')[2] for name in row['fields']}
  return next(kind for kind in _KINDS if not kind[0] or kind[0] in ends)


def _titles(
  figure: figures.Figure, rows, height: float, column: columns.Column
) -> None:
  shown = f'% kept of the {column.label} of all {rows[0]["vectors"]}'
  if not column.higher_is_better:
    shown = f'{column.title}, less is better'
  style.titles(
    figure,
    f'Which k vectors? {shown}',
    curves.subtitle(rows),
    (1 - 0.1 / height, 1 - 0.36 / height),
    sizes=(12, 9),
  )
  handles = [
    mpl_lines.Line2D(
      [], [], color=colour, marker=marker, linestyle='none', label=text
    )
    for _, text, colour, marker in _KINDS
  ]
  figure.legend(
    handles=handles,
    loc='lower center',
    ncols=len(handles),
    frameon=False,
    fontsize=8.5,
  )
