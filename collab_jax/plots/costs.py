"""Bytes of messages by field, and latency of captions over a link."""

from collections.abc import Mapping, Sequence
import textwrap
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures

from collab_jax.evaluation.report import columns
from collab_jax.plots import style

Row = Mapping[str, Any]

_COLOURS = (
  style.BLUE,
  style.ORANGE,
  style.GREEN,
  style.PURPLE,
  style.SKY,
  style.VERMILION,
)
# One more than colours, so that no two of 42 curves are alike.
_LINES = (
  ('-', 'o'),
  ('--', 's'),
  ('-.', 'D'),
  (':', 'v'),
  ((0, (5, 1)), '^'),
  ((0, (3, 1, 1, 1)), 'P'),
  ((0, (8, 2)), '*'),
)


def fields(rows: Mapping[str, Row], y: columns.Y = None) -> figures.Figure:
  """Draws the bytes of some codecs by field, as shares of their messages.

  Args:
    rows: From `evaluation.summarize`, by label.
    y: Metric that is written beside the bars; None for the first of the rows.

  Returns:
    The figure.

  Raises:
    ValueError: There are no rows, or they have no such metric.
  """
  _check(rows)
  column = columns.column([*rows.values()], y)
  names = list(dict.fromkeys(f for row in rows.values() for f in row['fields']))
  names.sort(key=lambda name: (name == 'header', name))
  looks = {
    name: style.GREY if name == 'header' else _COLOURS[n % len(_COLOURS)]
    for n, name in enumerate(names)
  }
  figure = style.new_figure(8.6, 1.45 + 0.52 * len(rows))
  height = figure.get_figheight()
  with mpl.rc_context(style.RC):
    axes = figure.add_axes((0.27, 0.5 / height, 0.5, 1 - 1.45 / height))
    for n, row in enumerate(rows.values()):
      _bar(axes, n, row, looks)
      axes.text(
        101.5,
        n,
        f'{row["bytes"]:,.0f} bytes, {column.label} {column.text(row)}',
        verticalalignment='center',
        fontsize=8.5,
      )
    wrapped = [textwrap.fill(style.plain(label), 38) for label in rows]
    axes.set_yticks(range(len(rows)), wrapped)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.tick_params(axis='y', length=0)
    axes.set_xlabel('share of the message, %; in the bars: mean bytes')
    handles = dict(
      zip(*reversed(axes.get_legend_handles_labels()), strict=True)
    )
    figure.legend(
      [handles[style.plain(name)] for name in names],
      [*map(style.plain, names)],
      loc='upper left',
      bbox_to_anchor=(0.005, 1 - 0.42 / height),
      ncols=min(len(names), 6),
      frameon=False,
      fontsize=8.5,
      handlelength=1.0,
      columnspacing=1.4,
    )
    _title(figure, 'Where the bytes of a message go')
  return figure


def _bar(axes: mpl_axes.Axes, y: int, row: Row, looks: Mapping[str, str]):
  """Draws the fields of a message as parts of a bar."""
  left = 0.0
  for name, count in row['fields'].items():
    share = 100 * (count or 0.0) / row['bytes']
    axes.barh(
      y,
      share,
      left=left,
      height=0.62,
      color=looks[name],
      edgecolor='white',
      linewidth=0.8,
      label=style.plain(name),
    )
    if share > 6:
      axes.text(
        left + share / 2,
        y,
        f'{count:,.0f}',
        color='white',
        fontweight='bold',
        fontsize=8,
        horizontalalignment='center',
        verticalalignment='center',
      )
    left += share


def latency(table: Sequence[Row], note: str = '') -> figures.Figure:
  """Draws the time from picture to caption against the rate of the link.

  Args:
    table: From `evaluation.LinkRates.table`.
    note: Text under the title.

  Returns:
    The figure; its lines hold the table's 'total'.

  Raises:
    ValueError: The table is empty.
  """
  _check(table)
  names = list(dict.fromkeys(line['codec'] for line in table))
  figure = style.new_figure(8.6, 4.4)
  with mpl.rc_context(style.RC):
    axes = figure.add_axes((0.095, 0.125, 0.54, 0.7))
    for n, name in enumerate(names):
      points = [line for line in table if line['codec'] == name]
      dashes, marker = _LINES[n % len(_LINES)]
      axes.plot(
        [line['rate_kbps'] for line in points],
        [1000 * line['total'] for line in points],
        color=_COLOURS[n % len(_COLOURS)],
        linestyle=dashes,
        marker=marker,
        markersize=5,
        linewidth=1.7,
        label=style.plain(name),
        **style.EDGE,
      )
    axes.set_xscale('log')
    axes.set_yscale('log')
    rates = sorted({line['rate_kbps'] for line in table})
    axes.set_xticks(rates, [_rate(rate) for rate in rates])
    axes.minorticks_off()
    style.log_ticks(axes.yaxis)
    style.grid(axes)
    axes.set_xlabel('rate of the link, bits per second (logarithmic)')
    axes.set_ylabel('picture to caption, ms (logarithmic)')
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
      handles,
      [textwrap.fill(label, 36) for label in labels],
      loc='upper left',
      bbox_to_anchor=(0.645, 0.85),
      frameon=False,
      fontsize=8.5,
      handlelength=3,
      labelspacing=0.9,
    )
    _title(figure, 'How long a caption takes', note)
  return figure


def _check(rows) -> None:
  if not rows:
    raise ValueError('no rows: there is nothing to draw')


def _rate(kbps: float) -> str:
  return f'{kbps:g}k' if kbps < 1000 else f'{kbps / 1000:g}M'


def _title(figure: figures.Figure, title: str, note: str = '') -> None:
  height = figure.get_figheight()
  style.titles(figure, title, note, (1 - 0.13 / height, 1 - 0.42 / height))
