"""Share of each task's score that is kept, against vectors and bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures
from matplotlib import ticker

from collab_jax.evaluation.report import (
  budgets,
  columns,
  labels,
  rate,
  text,
)
from collab_jax.plots import curves, style

Row = Mapping[str, Any]
Groups = Mapping[str, Sequence[Row]]

_LOOKS = [
  (style.BLUE, 'o', '-'),
  (style.VERMILION, '^', '-'),
  (style.GREEN, 'D', '-'),
  (style.PURPLE, 'X', '-'),
  (style.ORANGE, 'v', '-'),
  (style.SKY, 's', '-'),
]
_KEPT = 0.95  # Marked by a line.


def tasks(groups: Groups, k: int = 8) -> figures.Figure:
  """Draws what each task keeps: by k-means++ over k, by the best over bytes.

  Args:
    groups: Rows of `summarize`, by the title of their line; those of all
      vectors among them.
    k: Number of vectors that is marked.

  Returns:
    The figure, whose lines can be read from its two axes.

  Raises:
    ValueError: There is no group.
  """
  if not groups or not all(groups.values()):
    raise ValueError('groups: got one without rows: there is nothing to draw')
  figure = style.new_figure(11.4, 4.9)
  looks = dict(zip(groups, _LOOKS * len(groups), strict=False))
  with mpl.rc_context(style.RC):
    left = figure.add_axes((0.055, 0.115, 0.375, 0.7))
    right = figure.add_axes((0.48, 0.115, 0.375, 0.7))
    by_k = {t: budgets.paper_curve(rows) for t, rows in groups.items()}
    by_bytes = {t: _front(rows) for t, rows in groups.items()}
    for axes, lines, x in ((left, by_k, 'sent'), (right, by_bytes, 'bytes')):
      labelled = _lines(axes, groups, lines, x, looks)
      _frame(axes, [r for line in lines.values() for r in line], x)
      if axes is right:
        curves.draw_labels(axes, labelled)
    left.axvline(k, color=style.PALE, linewidth=5, zorder=0)
    left.set_title("the paper's scheme: k-means++", loc='left', fontsize=10)
    right.set_title('the best codec at each size', loc='left', fontsize=10)
    right.set_ylabel('')
    first = next(iter(groups.values()))
    note = (
      f'The {style.plain(first[0].get("model") or "unnamed")} model; bands:'
      f' {text.coverage(first)} bootstrap over the pictures; short lines at the'
      ' left: answers without the picture'
    )
    title = "How much of each task's score is kept?"
    style.titles(figure, title, note, (0.972, 0.918))
    style.fit_width(figure)
  return figure


def _front(rows: Sequence[Row]) -> list[Row]:
  seen = [r for r in rows if not (labels.is_blind(r) or labels.is_full(r))]
  return rate.front(seen) if seen else []


def _lines(
  axes: mpl_axes.Axes,
  groups: Groups,
  lines: Mapping[str, Sequence[Row]],
  x: str,
  looks: Mapping[str, tuple[str, str, str]],
) -> list[tuple]:
  """Draws the lines with their bands and blind floors; returns their labels."""
  labelled = []
  for title, line in lines.items():
    column = columns.column(groups[title])
    points = [r for r in line if column.kept(r) is not None]
    if not points:
      continue
    colour, marker, dashes = looks[title]
    kept = [100 * (column.kept(r) or 0) for r in points]
    low, high = (
      [100 * (column.kept(r, end) or 0) for r in points]
      for end in ('_low', '_high')
    )
    xs = [r[x] for r in points]
    axes.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(
      xs, kept, color=colour, marker=marker, linestyle=dashes, **style.LINE
    )
    blind = budgets.blind_share(groups[title])
    if blind is not None:
      axes.plot(
        [0, 0.035],
        [100 * blind] * 2,
        color=colour,
        linewidth=2.5,
        transform=axes.get_yaxis_transform(),
        solid_capstyle='butt',
      )
    labelled.append((kept[-1], xs[-1], title, looks[title]))
  return labelled


def _frame(axes: mpl_axes.Axes, rows: Sequence[Row], x: str) -> None:
  axes.set_xscale('log')
  xs = sorted({row[x] for row in rows})
  if x == 'sent':
    axes.set_xticks(xs)
    axes.set_xlabel('vectors sent, k')
  else:
    axes.set_xlabel('bytes of a message')
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f'{v:g}'))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  axes.set_ylim(0, 105)
  axes.set_ylabel("% of all vectors' score")
  axes.axhline(100 * _KEPT, color=style.GREY, linewidth=0.8, linestyle=':')
  style.grid(axes, 'y')


def task_rates(groups: Groups) -> figures.Figure:
  """Draws the share kept over bytes: a panel a task, a line a kind of codec.

  Args:
    groups: As of `tasks`.

  Returns:
    The figure.

  Raises:
    ValueError: There is no group.
  """
  if not groups or not all(groups.values()):
    raise ValueError('groups: got one without rows: there is nothing to draw')
  count = len(groups)
  columns_count = min(3, count)
  lines = -(-count // columns_count)
  figure = style.new_figure(3.5 * columns_count + 0.6, 2.9 * lines + 1.2)
  names = dict.fromkeys(
    name
    for rows in groups.values()
    for name, family in rate.families(rows).items()
    if not labels.is_full(family[0])
  )
  cycle = [*_LOOKS, *((c, m, '-') for c, m, _ in style.OTHERS)]
  looks = dict(zip(names, cycle * len(names), strict=False))
  with mpl.rc_context(style.RC):
    grid = figure.subplots(
      lines, columns_count, sharey=True, squeeze=False
    ).flatten()
    figure.subplots_adjust(0.075, 0.2, 0.985, 0.82, 0.08, 0.42)
    for axes, (title, rows) in zip(grid, groups.items(), strict=False):
      _panel(axes, title, rows, looks)
    for axes in grid[count:]:
      axes.set_visible(False)
    handles, shown = grid[0].get_legend_handles_labels()
    figure.legend(
      handles, shown, loc='lower left', ncols=4, frameon=False, fontsize=8
    )
    note = (
      'share of the score of all vectors; grey: answers without the picture'
    )
    style.titles(figure, 'Which codec for which task?', note, (0.975, 0.925))
  return figure


def _panel(
  axes: mpl_axes.Axes,
  title: str,
  rows: Sequence[Row],
  looks: Mapping[str, tuple[str, str, str]],
) -> None:
  column = columns.column(rows)
  families = rate.families(rows)
  for name, (colour, marker, line) in looks.items():
    points = [r for r in families.get(name, ()) if column.kept(r) is not None]
    axes.plot(
      [r['bytes'] for r in points],
      [100 * (column.kept(r) or 0) for r in points],
      color=colour,
      marker=marker,
      linestyle=line,
      label=name,
      linewidth=1.3,
      markersize=4,
      **style.EDGE,
    )
  _frame(axes, [r for f in families.values() for r in f], 'bytes')
  blind = budgets.blind_share(rows)
  if blind is not None:
    axes.axhline(100 * blind, color=style.GREY, linewidth=0.8)
  axes.set_title(style.plain(title), loc='left', fontsize=9.5)
