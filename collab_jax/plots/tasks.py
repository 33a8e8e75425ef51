"""Share of each task's score that is kept, against vectors and bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures
from matplotlib import lines as mpl_lines
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
_IMAGE_LOOKS = [
  (style.INK, 'P', '--'),
  ('#8C6D31', 'h', '--'),
  (style.GREY, '<', '--'),
]
_THIN: dict[str, Any] = {'linewidth': 1.3, 'markersize': 4.5, **style.EDGE}
_KEPT = 0.95  # Marked by a line.
_HIGHEST = 130.0  # Percent that are drawn; more is chance.
_PANEL = 3.4, 2.05  # Inches of a panel of `task_rates`.
_ACROSS, _DOWN = 0.18, 0.78  # Inches between panels.
_LEFT, _ABOVE, _BELOW = 0.7, 1.1, 0.55  # Inches around them.


def tasks(
  groups: Groups,
  k: int = 8,
  title: str = "How much of each task's score is kept?",
  beside: Sequence[str] = (),
) -> figures.Figure:
  """Draws what each task keeps: by k-means++ over k, by the best over bytes.

  Where k-means++ was not run, the first of the other methods is drawn.

  Args:
    groups: Rows of `summarize`, by the title of their line; those of all
      vectors among them.
    k: Number of vectors that is marked.
    title: Title of the figure.
    beside: Lines of the figure beside which this one stands, whose colours
      its lines keep.

  Returns:
    The figure, whose lines can be read from its two axes.

  Raises:
    ValueError: There is no group.
  """
  _check(groups)
  figure = style.new_figure(11.4, 4.9)
  names = dict.fromkeys([*beside, *groups])
  looks = dict(zip(names, _LOOKS * len(names), strict=False))
  with mpl.rc_context(style.RC):
    left = figure.add_axes((0.055, 0.115, 0.37, 0.7))
    right = figure.add_axes((0.475, 0.115, 0.345, 0.7))
    by_k = {t: budgets.paper_curve(rows) for t, rows in groups.items()}
    by_bytes = {t: _front(rows) for t, rows in groups.items()}
    points = {
      t: [r for line in (by_k[t], by_bytes[t]) for r in line] for t in groups
    }
    top = _top(groups, points)
    for axes, lines, x in ((left, by_k, 'sent'), (right, by_bytes, 'bytes')):
      _frame(axes, [r for line in lines.values() for r in line], x, top)
      ends = _lines(axes, groups, lines, x, looks)
      if axes is right:
        curves.draw_labels(axes, ends)
    _mark(left, groups, by_k, k, looks)
    scheme = style.plain(budgets.paper_label(groups))
    if scheme == 'k-means++':
      scheme = f"the paper's scheme: {scheme}"
    left.set_title(scheme, loc='left', fontsize=10)
    right.set_title('the best codec at each size', loc='left', fontsize=10)
    right.set_ylabel('')
    first = next(iter(groups.values()))
    note = (
      f'The {style.plain(first[0].get("model") or "unnamed")} model; bands:'
      f' {text.coverage(first)} bootstrap over the pictures; short lines at the'
      ' left: answers without the picture; dotted: 95%'
    )
    style.titles(figure, title, note, (0.972, 0.918))
    style.fit_width(figure)
  return figure


def _check(groups: Groups) -> None:
  """Raises ValueError if there is nothing to draw."""
  if not groups or not all(groups.values()):
    raise ValueError('groups: got one without rows: there is nothing to draw')


def _front(rows: Sequence[Row]) -> list[Row]:
  seen = [r for r in rows if not (labels.is_blind(r) or labels.is_full(r))]
  return rate.front(seen) if seen else []


def _top(groups: Groups, points: Groups) -> float:
  """Returns the upper limit of the axes in percent."""
  shares = [
    100 * (columns.column(groups[title]).kept(row) or 0)
    for title, line in points.items()
    for row in line
  ]
  return min(max([103.0, *shares]) + 2.0, _HIGHEST)


def _lines(
  axes: mpl_axes.Axes,
  groups: Groups,
  lines: Mapping[str, Sequence[Row]],
  x: str,
  looks: Mapping[str, tuple[str, str, str]],
) -> list[tuple]:
  """Draws the lines with their bands and blind floors; returns their labels."""
  labelled = []
  top = axes.get_ylim()[1]
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
    axes.fill_between(xs, low, high, color=colour, alpha=0.1, linewidth=0)
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
    name = f'{title}: {_needed(groups[title])}'
    labelled.append((min(kept[-1], top), xs[-1], name, looks[title]))
  return labelled


def _needed(rows: Sequence[Row]) -> str:
  """Returns the fewest bytes that keep 95%, in words."""
  row = _cheapest(rows)
  return '95% by none' if row is None else f'95% at {text.size(row["bytes"])}'


def _cheapest(rows: Sequence[Row]) -> Row | None:
  """Returns the codec of the fewest bytes that keeps 95%, but all vectors."""
  if labels.full(rows) is None:
    return None
  coded = [r for r in rows if not labels.is_full(r)]
  enough = [r for r in budgets.cheapest_with(coded, _KEPT).values() if r]
  return min(enough, key=lambda row: row['bytes'], default=None)


def _mark(
  axes: mpl_axes.Axes,
  groups: Groups,
  lines: Mapping[str, Sequence[Row]],
  k: int,
  looks: Mapping[str, tuple[str, str, str]],
) -> None:
  """Marks k vectors, and writes beside them what is kept."""
  axes.axvline(k, color=style.PALE, linewidth=5, zorder=0)
  shares = {}
  for title, line in lines.items():
    row = labels.at_k(line, k)
    if row is None:
      continue
    share = columns.column(groups[title]).kept(row)
    if share is not None:
      shares[title] = 100 * share
  low, top = axes.get_ylim()
  wanted = [min(share, top) for share in shares.values()]
  places = style.spread(wanted, 0.05 * (top - low), low, top)
  for (title, share), place in zip(shares.items(), places, strict=True):
    axes.annotate(
      f'{share:.0f}%',
      (k, place),
      xytext=(8, 0),
      textcoords='offset points',
      verticalalignment='center',
      fontsize=8.5,
      color=looks[title][0],
      fontweight='bold',
      path_effects=[style.HALO],
    )


def _frame(
  axes: mpl_axes.Axes, rows: Sequence[Row], x: str, top: float
) -> None:
  """Sets scales, limits, ticks and labels of the axes."""
  axes.set_xscale('log')
  xs = sorted({row[x] for row in rows})
  if xs:
    axes.set_xlim(xs[0] / 1.25, xs[-1] * 1.25 if xs[1:] else xs[0] * 2)
  if x == 'sent':
    axes.set_xticks(xs)
    axes.set_xlabel('vectors sent, k')
  else:
    axes.set_xlabel('bytes of a message')
    if xs and xs[-1] < 30 * xs[0]:  # Else a decade has room for one label.
      axes.xaxis.set_major_locator(ticker.LogLocator(10, (1.0, 2.0, 5.0)))
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(_count))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  if x == 'sent':
    axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.set_ylim(0, top)
  axes.set_ylabel("% of all vectors' score")
  axes.axhline(100 * _KEPT, color=style.GREY, linewidth=0.8, linestyle=':')
  style.grid(axes, 'y')


def _count(value: float, _: Any) -> str:
  """Returns the label of a tick: '8', '100', '10k'."""
  return f'{value:g}' if value < 1000 else f'{value / 1000:g}k'


def task_rates(groups: Groups) -> figures.Figure:
  """Draws the share kept over bytes: a panel a task, a line a kind of codec.

  Args:
    groups: As of `tasks`.

  Returns:
    The figure.

  Raises:
    ValueError: There is no group.
  """
  _check(groups)
  across = min(3, max(2, len(groups)))  # The note has room above two.
  down = -(-len(groups) // across)
  looks = _family_looks(groups)
  # The legend takes the place of a panel, or a row of its own.
  legend_rows = 0 if across * down > len(groups) else -(-len(looks) // 3)
  width = _LEFT + across * (_PANEL[0] + _ACROSS)
  height = _ABOVE + down * (_PANEL[1] + _DOWN) + 0.22 * legend_rows
  figure = style.new_figure(width, height)
  top = _top(groups, groups)
  points = [r for rows in groups.values() for r in _seen(rows)]
  with mpl.rc_context(style.RC):
    for n, (title, rows) in enumerate(groups.items()):
      row, place = divmod(n, across)
      left = _LEFT + place * (_PANEL[0] + _ACROSS)
      bottom = height - _ABOVE - row * (_PANEL[1] + _DOWN) - _PANEL[1]
      axes = figure.add_axes(
        (
          left / width,
          bottom / height,
          _PANEL[0] / width,
          _PANEL[1] / height,
        )
      )
      _frame(axes, points, 'bytes', top)
      _panel(axes, title, rows, looks)
      if place:
        axes.set_ylabel('')
        axes.tick_params(axis='y', labelleft=False)
      if n + across < len(groups):
        axes.set_xlabel('')
    _legend(figure, looks, legend_rows, across)
    note = (
      "Share of all vectors' score; dashed: pictures as files; dotted: 95%;"
      ' grey: answers without the picture'
    )
    y = 1 - 0.12 / height, 1 - 0.42 / height
    style.titles(figure, 'Which codec for which task?', note, y)
  return figure


def _seen(rows: Sequence[Row]) -> list[Row]:
  """Returns the rows of codecs: neither blind nor of all vectors."""
  return [r for r in rows if not (labels.is_blind(r) or labels.is_full(r))]


def _families(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Returns kinds of codecs; the coding is not named where all are coded."""
  families = rate.families(_seen(rows))
  return {name.removesuffix(', coded'): each for name, each in families.items()}


def _family_looks(groups: Groups) -> dict[str, tuple[str, str, str]]:
  """Returns colour, marker and line of each kind: features, then pictures."""
  is_picture = {
    name: labels.is_picture(family[0])
    for rows in groups.values()
    for name, family in _families(rows).items()
  }
  looks = {}
  features = [*_LOOKS, *((colour, m, '-') for colour, m, _ in style.OTHERS)]
  for pictures, cycle in ((False, features), (True, _IMAGE_LOOKS)):
    names = [name for name, is_one in is_picture.items() if is_one == pictures]
    looks |= dict(zip(sorted(names), cycle * len(is_picture), strict=False))
  return looks


def _legend(
  figure: figures.Figure,
  looks: Mapping[str, tuple[str, str, str]],
  rows: int,
  across: int,
) -> None:
  """Draws the legend in the last panel's place, or in rows at the bottom."""
  handles = [
    mpl_lines.Line2D(
      [],
      [],
      color=c,
      marker=m,
      linestyle=cast(Any, dashes),
      label=style.plain(name),
      **_THIN,
    )
    for name, (c, m, dashes) in looks.items()
  ]
  width, height = figure.get_size_inches()
  left = _LEFT + (across - 1) * (_PANEL[0] + _ACROSS)
  where: dict[str, Any] = {
    'loc': 'lower left',
    'bbox_to_anchor': (left / width, _BELOW / height),
  }
  if rows:
    where = {
      'loc': 'lower left',
      'bbox_to_anchor': (_LEFT / width, 0.02),
      'ncols': -(-len(looks) // rows),
    }
  figure.legend(handles=handles, frameon=False, fontsize=8.5, **where)


def _panel(
  axes: mpl_axes.Axes,
  title: str,
  rows: Sequence[Row],
  looks: Mapping[str, tuple[str, str, str]],
) -> None:
  """Draws the lines of a task, its blind floor and its title."""
  column = columns.column(rows)
  families = _families(rows)
  for name, (colour, marker, line) in looks.items():
    points = [r for r in families.get(name, ()) if column.kept(r) is not None]
    axes.plot(
      [r['bytes'] for r in points],
      [100 * (column.kept(r) or 0) for r in points],
      color=colour,
      marker=marker,
      linestyle=line,
      **_THIN,
    )
  blind = budgets.blind_share(rows)
  if blind is not None:
    axes.axhline(100 * blind, color=style.GREY, linewidth=0.8)
  row = _cheapest(rows)
  by = '' if row is None else f' ({_family(rows, row)})'
  axes.set_title(
    style.plain(f'{title}: {_needed(rows)}{by}'), loc='left', fontsize=9
  )


def _family(rows: Sequence[Row], row: Row) -> str:
  """Returns the kind of a row's codec."""
  return next(n for n, each in _families(rows).items() if row in each)
