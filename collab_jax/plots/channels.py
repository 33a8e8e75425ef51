"""Scores of captions against loss or noise of a channel."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures

from collab_jax.evaluation.report import channel as channel_lib
from collab_jax.evaluation.report import columns, link_labels
from collab_jax.evaluation.report import labels as labels_lib
from collab_jax.plots import curves as curves_lib
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
_PANEL = 3.5  # Inches of a panel and of what stands above and below it.
_WIDTH = 9.6
_LABEL = 0.2  # Of a label.


def channel(
  records: Sequence[Mapping[str, Any]], y: columns.Y = None
) -> figures.Figure:
  """Draws a score against loss or noise, a panel for each kind of channel.

  Args:
    records: From `evaluate` or `read_records`, or the rows of `summarize`;
      those of links are drawn as curves.
    y: Metric of the score; None for the first of the rows.

  Returns:
    The figure; the curves' data can be read from its axes, where a line's
    label is the codec's name.

  Raises:
    ValueError: There is no link among them, or the rows have no such metric.
  """
  rows = [dict(row) for row in style.rows_of(records, y)]
  column = columns.column(rows, y)
  sweeps = channel_lib.link_curves(rows)
  if not sweeps:
    raise ValueError('no records of links: there is nothing to draw')
  # Labels stand beside a panel, which has to be as high as they are.
  heights = [
    max(_PANEL, _LABEL * (len(sweep.curves) + 1) + 1.1) for sweep in sweeps
  ]
  height = sum(heights) + 0.72
  figure = style.new_figure(_WIDTH, height)
  with mpl.rc_context(style.RC):
    top = height - 0.72
    for sweep, room in zip(sweeps, heights, strict=True):
      place = 0.62, top - room + 0.56, 5.35, room - 1.06
      scaled = [
        inches / size
        for inches, size in zip(place, (_WIDTH, height) * 2, strict=True)
      ]
      axes = figure.add_axes((scaled[0], scaled[1], scaled[2], scaled[3]))
      _panel(axes, sweep, rows, column)
      top -= room
    style.titles(
      figure,
      'What arrives of a caption over a channel',
      curves_lib.subtitle(rows),
      (1 - 0.14 / height, 1 - 0.42 / height),
    )
    style.fit_width(figure)
  return figure


def _panel(
  axes: mpl_axes.Axes,
  sweep: channel_lib.ChannelSweep,
  rows,
  column: columns.Column,
) -> None:
  """Draws the curves of a sweep, and their labels."""
  size = _size(sweep)
  names = _names(sweep)
  labels = []
  for n, (name, curve) in enumerate(sweep.curves.items()):
    looks = _LOOKS[n % len(_LOOKS)]
    colour, marker, line = looks
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
    shown = f'{names[name]}, {size(points[-1])}'
    labels.append((column.shown(points[-1]), xs[-1], shown, looks))
  full = labels_lib.full(rows)
  if full:
    labels.append(_level(axes, full, column))
  style.score_axis(axes, rows, column, room=1.06)
  style.grid(axes, 'y')
  axes.tick_params(length=3)
  axes.set_xlabel(_AXES.get(sweep.setting) or style.plain(sweep.setting))
  if sweep.setting in ('p', 'to_bad'):
    axes.xaxis.set_major_formatter(lambda x, _: f'{100 * x:g}%')
  if sweep.setting == 'rate':
    axes.set_xscale('log')
  _heading(axes, sweep)
  curves_lib.draw_labels(axes, labels)


def _names(sweep: channel_lib.ChannelSweep) -> dict[str, str]:
  """Returns the name of each curve in words; where two agree, as it is."""
  words = {}
  for name, curve in sweep.curves.items():
    row = curve[0][1]
    words[name] = f'{link_labels.codec(row)}: {link_labels.transport(row)}'
  shown = [*words.values()]
  return {
    name: text if shown.count(text) == 1 else name
    for name, text in words.items()
  }


def _heading(axes: mpl_axes.Axes, sweep: channel_lib.ChannelSweep) -> None:
  """Writes a channel in words, and its settings beside them."""
  rows = [row for curve in sweep.curves.values() for _, row in curve]
  heading = style.plain(link_labels.channel(rows))
  text = axes.annotate(
    heading,
    (0, 1),
    xytext=(0, 8),
    xycoords='axes fraction',
    textcoords='offset points',
    fontsize=10,
    fontweight='bold',
  )
  axes.annotate(
    style.plain(sweep.channel),
    (1, 0),
    xytext=(8, 0),
    xycoords=text,
    textcoords='offset points',
    fontsize=8,
    color=style.GREY,
    verticalalignment='bottom',
  )


def _level(axes: mpl_axes.Axes, full, column: columns.Column) -> tuple:
  """Draws the score of all vectors; returns its label.

  Where higher is better, so is 90% of it.
  """
  score = column.shown(full)
  looks = style.INK, '', (0, (6, 2))
  axes.axhline(score, color=looks[0], linestyle=looks[2], lw=1.1)
  label = score, None, f'all vectors, no channel, {score:.1f}', looks
  if column.sign < 0:
    return label
  axes.axhline(0.9 * score, color=style.GREY, linestyle=(0, (1, 2)), lw=1.1)
  axes.annotate(
    '90% of it',
    (0.008, 0.9 * score),
    xycoords=axes.get_yaxis_transform(),
    xytext=(0, -9),
    textcoords='offset points',
    fontsize=7.5,
    color=style.GREY,
    path_effects=[style.HALO],
    zorder=30,
  )
  return label


def _size(
  sweep: channel_lib.ChannelSweep,
) -> Callable[[Mapping[str, Any]], str]:
  """Returns how to write a row's size: in bytes, or on air if any is analog."""
  rows = [row for curve in sweep.curves.values() for _, row in curve]
  if any(row['codec']['transport'] == 'analog' for row in rows):
    return lambda row: f'{1000 * row["link"]["airtime"]:.1f} ms on air'
  return lambda row: f'{row["bytes"]:,.0f} B'
