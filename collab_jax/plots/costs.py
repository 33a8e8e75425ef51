"""Where the bytes of a message go, and the seconds of a caption."""

from collections.abc import Mapping, Sequence
import textwrap
from typing import Any

import matplotlib as mpl
from matplotlib import figure as figures
from matplotlib import ticker

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
_LINES = (
  ('-', 'o'),
  ('--', 's'),
  ('-.', 'D'),
  (':', 'v'),
  ((0, (5, 1)), '^'),
  ((0, (3, 1, 1, 1)), 'P'),
)


def fields(rows: Mapping[str, Row]) -> figures.Figure:
  """Draws the bytes of some codecs by field, as shares of their messages.

  Args:
    rows: From `evaluation.summarize`, by what to call them.

  Returns:
    The figure.

  Raises:
    ValueError: There are no rows.
  """
  _check(rows)
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
    for at, row in enumerate(rows.values()):
      left = 0.0
      for name, count in row['fields'].items():
        share = 100 * (count or 0.0) / row['bytes']
        axes.barh(
          at,
          share,
          left=left,
          height=0.62,
          color=looks[name],
          edgecolor='white',
          linewidth=0.8,
          label=name,
        )
        if share > 6:
          axes.text(
            left + share / 2,
            at,
            f'{count:,.0f}',
            color='white',
            fontweight='bold',
            fontsize=8,
            horizontalalignment='center',
            verticalalignment='center',
          )
        left += share
      axes.text(
        101.5,
        at,
        f'{row["bytes"]:,.0f} bytes, BLEU-4 {row["bleu4"]:.1f}',
        verticalalignment='center',
        fontsize=8.5,
      )
    axes.set_yticks(range(len(rows)), [_wrapped(label) for label in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.tick_params(axis='y', length=0)
    axes.set_xlabel('share of the message, %; in the bars: mean bytes')
    handles = dict(
      zip(*reversed(axes.get_legend_handles_labels()), strict=True)
    )
    figure.legend(
      [handles[name] for name in names],
      names,
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


def latency(table: Sequence[Row], note: str = '') -> figures.Figure:
  """Draws the time from picture to caption against the rate of the link.

  Args:
    table: From `latency.Link.table`.
    note: What to say under the title.

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
      own = [line for line in table if line['codec'] == name]
      line, marker = _LINES[n % len(_LINES)]
      axes.plot(
        [line['rate_kbps'] for line in own],
        [1000 * line['total'] for line in own],
        color=_COLOURS[n % len(_COLOURS)],
        linestyle=line,
        marker=marker,
        markersize=5,
        markeredgecolor='white',
        markeredgewidth=0.7,
        linewidth=1.7,
        label=name,
      )
    axes.set_xscale('log')
    axes.set_yscale('log')
    rates = sorted({line['rate_kbps'] for line in table})
    axes.set_xticks(rates, [_rate(rate) for rate in rates])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    for axis in (axes.yaxis,):
      axis.set_major_locator(
        ticker.LogLocator(10, (1.0, 2.0, 5.0), numticks=20)
      )
      axis.set_major_formatter(
        ticker.FuncFormatter(lambda value, _: f'{value:,.0f}')
      )
      axis.set_minor_locator(ticker.NullLocator())
    axes.grid(True, color='#EEEEEE', linewidth=0.8)
    axes.set_axisbelow(True)
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


def _wrapped(label: str) -> str:
  return textwrap.fill(label, 38)


def _title(figure: figures.Figure, title: str, note: str = ''):
  height = figure.get_figheight()
  figure.text(
    0.012,
    1 - 0.13 / height,
    title,
    fontsize=13,
    fontweight='bold',
    verticalalignment='top',
  )
  if note:
    figure.text(
      0.012,
      1 - 0.42 / height,
      note,
      fontsize=9,
      color=style.GREY,
      verticalalignment='top',
    )
