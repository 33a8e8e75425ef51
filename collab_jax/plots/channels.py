"""Scores of captions against loss or noise of a channel."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures

from collab_jax.evaluation.report import channel as channel_lib
from collab_jax.evaluation.report import columns, labels
from collab_jax.plots import style

_AXES = {
  'p': 'packets lost',
  'snr': 'signal-to-noise ratio of a symbol, Es/N0 in dB',
  'to_bad': 'probability that a burst begins',
  'rate': 'bits per second',
}
_LOOKS = (
  (style.BLUE, 'o', '-'),
  (style.SKY, 's', '-'),
  (style.GREEN, 'D', '--'),
  (style.VERMILION, '^', '-'),
  (style.ORANGE, 'v', '--'),
  (style.PURPLE, 'X', '-.'),
  (style.INK, 'P', ':'),
  (style.GREY, '*', '-'),
)
_COLUMNS = 2


def channel(
  records: Sequence[Mapping[str, Any]], y: columns.Y = None
) -> figures.Figure:
  """Draws a score against loss or noise, a panel for each kind of channel.

  Args:
    records: From `evaluate` or `read_records`, or the rows of `summarize`;
      those of links are drawn as curves.
    y: Metric of the score; None for the first of the rows.

  Returns:
    The figure; the curves' data can be read from its axes.

  Raises:
    ValueError: There is no link among them, or the rows have no such metric.
  """
  rows = [dict(row) for row in style.rows_of(records, y)]
  column = columns.column(rows, y)
  sweeps = channel_lib.link_curves(rows)
  if not sweeps:
    raise ValueError('no records of links: there is nothing to draw')
  lines = [sweeps[n : n + _COLUMNS] for n in range(0, len(sweeps), _COLUMNS)]
  # Inches of the legends, below each line of panels.
  below = [
    0.19 * max(len(sweep.curves) for sweep in line) + 0.7 for line in lines
  ]
  width = 5.4 * len(lines[0])
  height = 3.6 * len(lines) + sum(below)
  figure = style.new_figure(width, height)
  with mpl.rc_context(style.RC):
    for n, line in enumerate(lines):
      bottom = (height - 3.6 * (n + 1) - sum(below[:n])) / height
      for place, sweep in enumerate(line):
        left = (0.62 + 5.4 * place) / width
        axes = figure.add_axes((left, bottom, 4.55 / width, 3.0 / height))
        _panel(axes, sweep, rows, column)
    _title(figure, rows, height)
  return figure


def _panel(
  axes: mpl_axes.Axes,
  sweep: channel_lib.ChannelSweep,
  rows,
  column: columns.Column,
) -> None:
  """Draws the curves of a sweep."""
  size = _size(sweep)
  for n, (name, curve) in enumerate(sweep.curves.items()):
    colour, marker, line = _LOOKS[n % len(_LOOKS)]
    xs = [x for x, _ in curve]
    points = [row for _, row in curve]
    style.band(axes, xs, points, column, color=colour, alpha=0.13)
    axes.plot(
      xs,
      [column.shown(row) for row in points],
      color=colour,
      marker=marker,
      linestyle=line,
      label=style.plain(f'{name}, {size(points[-1])}'),
      zorder=20 - n,
      **style.LINE,
    )
  full = labels.full(rows)
  if full:
    _levels(axes, full, column)
  style.score_axis(axes, rows, column, room=1.06)
  style.grid(axes, 'y')
  axes.tick_params(length=3)
  axes.set_xlabel(_AXES.get(sweep.setting) or style.plain(sweep.setting))
  if sweep.setting in ('p', 'to_bad'):
    axes.xaxis.set_major_formatter(lambda x, _: f'{100 * x:g}%')
  if sweep.setting == 'rate':
    axes.set_xscale('log')
  channel_name = style.plain(sweep.channel)
  axes.set_title(channel_name, fontsize=9, loc='left', color=style.GREY)
  axes.legend(
    loc='upper left',
    bbox_to_anchor=(-0.1, -0.17),
    frameon=False,
    fontsize=8,
    labelspacing=0.45,
    handlelength=2.6,
  )


def _levels(axes: mpl_axes.Axes, full, column: columns.Column) -> None:
  """Draws the score of all vectors, and 90% of it if higher is better."""
  levels = (
    (1.0, 'all vectors', style.INK, (0, (6, 2))),
    (0.9, '90% of it', style.GREY, (0, (1, 2))),
  )
  # 0.8 of BLEU-4, which is 0 to 100, whatever the metric.
  above = 0.8 if column.name == 'bleu4' else 0.008 * column.shown(full)
  for share, text, colour, line in levels[: 2 if column.sign > 0 else 1]:
    score = share * column.shown(full)
    axes.axhline(score, color=colour, linestyle=line, lw=1.1)
    axes.text(
      0.995,
      score + above,
      text,
      transform=axes.get_yaxis_transform(),
      horizontalalignment='right',
      fontsize=7.5,
      color=style.GREY,
      path_effects=[style.HALO],
      zorder=30,
    )


def _size(
  sweep: channel_lib.ChannelSweep,
) -> Callable[[Mapping[str, Any]], str]:
  """Returns how to write a row's size: in bytes, or on air if any is analog."""
  rows = [row for curve in sweep.curves.values() for _, row in curve]
  if any(row['codec']['transport'] == 'analog' for row in rows):
    return lambda row: f'{1000 * row["link"]["airtime"]:.1f} ms on air'
  return lambda row: f'{row["bytes"]:,.0f} B'


def _title(figure: figures.Figure, rows, height: float) -> None:
  first = rows[0]
  seeds = 'one seed' if first['seeds'] == 1 else f'{first["seeds"]} seeds'
  figure.text(
    0.01,
    1 - 0.12 / height,
    f'Captions over a channel: {style.plain(first["model"])} model,'
    f' {first["images"]} pictures of {style.plain(first["data"])}, {seeds};'
    f' bands: {100 * first["level"]:g}% bootstrap intervals',
    verticalalignment='top',
    fontsize=10,
  )
