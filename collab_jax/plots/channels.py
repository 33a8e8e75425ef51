"""Quality of the captions against what a channel does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures

from collab_jax import evaluation
from collab_jax.evaluation.report import (
  channel as channel_lib,
)
from collab_jax.evaluation.report import (
  labels,
)
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


def channel(records: Sequence[Mapping[str, Any]]) -> figures.Figure:
  """Draws BLEU-4 against loss or noise, a panel for each kind of channel.

  Args:
    records: From `evaluate` or `read_records`, or the rows of `summarize`;
      those of links are drawn as curves.

  Returns:
    The figure; the curves' data can be read from its axes.

  Raises:
    ValueError: There is no link among them.
  """
  rows = [dict(record) for record in records]
  if rows and 'bleu4' not in rows[0]:
    rows = evaluation.summarize(rows)
  families = channel_lib.link_curves(rows)
  if not families:
    raise ValueError('no records of links: there is nothing to draw')
  lines = [
    families[n : n + _COLUMNS] for n in range(0, len(families), _COLUMNS)
  ]
  # Inches of the names of the curves, below each line of panels.
  below = [
    0.19 * max(len(family.curves) for family in line) + 0.7 for line in lines
  ]
  width = 5.4 * len(lines[0])
  height = 3.6 * len(lines) + sum(below)
  figure = style.new_figure(width, height)
  with mpl.rc_context(style.RC):
    for n, line in enumerate(lines):
      bottom = (height - 3.6 * (n + 1) - sum(below[:n])) / height
      for column, family in enumerate(line):
        left = (0.62 + 5.4 * column) / width
        axes = figure.add_axes((left, bottom, 4.55 / width, 3.0 / height))
        _panel(axes, family, rows)
    _title(figure, rows, height)
  return figure


def _panel(axes: mpl_axes.Axes, family: channel_lib.ChannelSweep, rows) -> None:
  size = _size(family)
  for n, (name, curve) in enumerate(family.curves.items()):
    colour, marker, line = _LOOKS[n % len(_LOOKS)]
    xs = [x for x, _ in curve]
    low, high = ([row[f'bleu4_{e}'] for _, row in curve] for e in _ENDS)
    axes.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
      xs,
      [row['bleu4'] for _, row in curve],
      color=colour,
      marker=marker,
      linestyle=line,
      linewidth=1.8,
      markersize=6,
      markeredgecolor='white',
      markeredgewidth=0.7,
      label=f'{name}, {size(curve[-1][1])}',
      zorder=20 - n,
    )
  full = labels.full(rows)
  if full:
    axes.axhline(full['bleu4'], color=style.INK, linestyle=(0, (6, 2)), lw=1.1)
    axes.axhline(
      0.9 * full['bleu4'], color=style.GREY, linestyle=(0, (1, 2)), lw=1.1
    )
    across = axes.get_yaxis_transform()
    for share, text in ((1.0, 'all vectors'), (0.9, '90% of it')):
      axes.text(
        0.995,
        share * full['bleu4'] + 0.8,
        text,
        transform=across,
        horizontalalignment='right',
        fontsize=7.5,
        color=style.GREY,
        path_effects=[style.HALO],
        zorder=30,
      )
  top = max(row['bleu4_high'] for row in rows)
  axes.set_ylim(-0.015 * top, 1.06 * top or 1.0)
  axes.set_ylabel('BLEU-4')
  axes.yaxis.grid(True, color='#EEEEEE', linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(length=3)
  axes.set_xlabel(_AXES.get(family.setting) or family.setting)
  if family.setting in ('p', 'to_bad'):
    axes.xaxis.set_major_formatter(lambda x, _: f'{100 * x:g}%')
  if family.setting == 'rate':
    axes.set_xscale('log')
  axes.set_title(family.channel, fontsize=9, loc='left', color=style.GREY)
  axes.legend(
    loc='upper left',
    bbox_to_anchor=(-0.1, -0.17),
    frameon=False,
    fontsize=8,
    labelspacing=0.45,
    handlelength=2.6,
  )


_ENDS = ('low', 'high')


def _size(
  family: channel_lib.ChannelSweep,
) -> Callable[[Mapping[str, Any]], str]:
  """How to tell what a row sends: bytes, unless some send more than those."""
  rows = [row for curve in family.curves.values() for _, row in curve]
  if any(row['codec']['transport'] == 'analog' for row in rows):
    return lambda row: f'{1000 * row["link"]["airtime"]:.1f} ms on air'
  return lambda row: f'{row["bytes"]:,.0f} B'


def _title(figure: figures.Figure, rows, height: float) -> None:
  first = rows[0]
  seeds = 'one seed' if first['seeds'] == 1 else f'{first["seeds"]} seeds'
  figure.text(
    0.01,
    1 - 0.12 / height,
    f'Captions over a channel: {first["model"]} model,'
    f' {first["images"]} pictures of {first["data"]}, {seeds};'
    f' bands: {100 * first["level"]:g}% bootstrap intervals',
    verticalalignment='top',
    fontsize=10,
  )
