"""Scores of several runs on the same pictures, and their differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures

from collab_jax import evaluation
from collab_jax.evaluation.report import columns, labels
from collab_jax.plots import style

_COLOURS = (
  *(style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE),
  *(style.SKY, style.INK, style.GREY),
)
_LINES = '-', (0, (4, 2)), (0, (1.5, 1.5)), '-.'
_MARKERS = 'o', 's', 'D', '^', 'v', 'X', 'P', '*', 'h', '<', '>'
_FIELDS = {'bytes': 'bytes', 'vectors': 'sent'}
_TITLES = {
  'bytes': 'mean bytes of a message, all of it (logarithmic)',
  'vectors': 'number of vectors sent (logarithmic)',
}


def compare(
  comparison: evaluation.Comparison, x: str = 'bytes'
) -> figures.Figure:
  """Draws the curves of all runs, and their differences to the first one.

  Args:
    comparison: From `evaluation.compare`.
    x: 'bytes', or 'vectors', which leaves out image codecs.

  Returns:
    The figure: its first axes hold the scores, its second ones, if codecs of
    the runs could be paired, the differences with their intervals.

  Raises:
    ValueError: x is neither, or there are more runs than colours.
  """
  if x not in _FIELDS:
    raise ValueError(f"x: got {x!r}, expected 'bytes' or 'vectors'")
  if len(comparison.rows) > len(_COLOURS):
    raise ValueError(
      f'got {len(comparison.rows)} runs, expected at most {len(_COLOURS)}'
    )
  rows = {
    run: [row for row in group if _is_drawn(row, x)]
    for run, group in comparison.rows.items()
  }
  markers = _markers(rows)
  colours = dict(zip(rows, _COLOURS, strict=False))
  column = columns.column(next(iter(comparison.rows.values())))
  pairs = _pairs(comparison, rows)
  entries = sum(len(_curves(group)) for group in rows.values())
  height = 3.95 + 1.9 * bool(pairs) + 0.19 * -(-entries // 2)
  figure = style.new_figure(7.6, height)
  with mpl.rc_context(style.RC):
    top = 1 - 0.75 / height
    axes = figure.add_axes((0.09, top - 2.5 / height, 0.88, 2.5 / height))
    for n, (run, group) in enumerate(rows.items()):
      # Later ones are thinner and dashed, so that equal curves are all seen.
      looks = {
        'color': colours[run],
        'linestyle': _LINES[n % len(_LINES)],
        'linewidth': max(2.6 - 0.5 * n, 1.2),
        'markersize': max(8.5 - 1.6 * n, 4),
      }
      _draw_run(axes, run, group, markers, column, x, looks)
    style.score_axis(axes, [r for g in rows.values() for r in g], column)
    lowest = axes
    if pairs:
      bottom = top - 4.4 / height
      lowest = figure.add_axes((0.09, bottom, 0.88, 1.6 / height), sharex=axes)
      _differences(lowest, pairs, rows, (colours, markers), column, x)
      axes.tick_params(labelbottom=False)
    for panel in {axes, lowest}:
      style.grid(panel)
      panel.tick_params(length=3)
    lowest.set_xscale('log')
    style.log_ticks(lowest.xaxis)
    lowest.set_xlabel(_TITLES[x])
    figure.legend(
      *axes.get_legend_handles_labels(),
      loc='lower left',
      bbox_to_anchor=(0.075, 0.0),
      ncols=2,
      frameon=False,
      fontsize=8,
      labelspacing=0.3,
    )
    style.titles(
      figure,
      f'Runs side by side: {", ".join(rows)}',
      _note(comparison),
      (1 - 0.14 / height, 1 - 0.42 / height),
    )
  return figure


def _is_drawn(row: Mapping[str, Any], x: str) -> bool:
  return not labels.is_blind(row) and not (
    x == 'vectors' and labels.is_picture(row)
  )


def _curves(rows: Sequence[Any]) -> dict[str, list[Any]]:
  """Groups rows by label, as curves of features and of image codecs."""
  full = [row for row in rows if labels.is_full(row)]
  by_label: dict[str, list[Any]] = {}
  for row in full:
    by_label.setdefault(labels.label(row), []).append(row)
  return by_label | labels.curves(rows) | labels.pictures(rows)


def _markers(rows: Mapping[str, Sequence[Any]]) -> dict[str, str]:
  """Chooses a marker for each curve, the same in every run."""
  names = dict.fromkeys(n for group in rows.values() for n in _curves(group))
  return {n: _MARKERS[i % len(_MARKERS)] for i, n in enumerate(names)}


def _draw_run(
  axes: mpl_axes.Axes,
  run: str,
  rows: Sequence[Any],
  markers: Mapping[str, str],
  column: columns.Column,
  x: str,
  looks: Mapping[str, Any],
) -> None:
  """Draws the curves of a run, and the intervals around them."""
  for name, curve in _curves(rows).items():
    curve = sorted(curve, key=lambda row: row[_FIELDS[x]])
    xs = [row[_FIELDS[x]] for row in curve]
    style.band(axes, xs, curve, column, color=looks['color'], alpha=0.1)
    axes.plot(
      xs,
      [column.shown(row) for row in curve],
      marker=markers[name],
      label=style.plain(f'{run}: {name}'),
      **style.EDGE,
      **looks,
    )


def _pairs(
  comparison: evaluation.Comparison, rows: Mapping[str, Sequence[Any]]
) -> list[tuple[Mapping[str, Any], Any]]:
  """Returns differences of rows that are drawn, each with the other's row."""
  first = next(iter(rows))
  drawn = {(run, r['name']): r for run, group in rows.items() for r in group}
  return [
    (line, drawn[line['run'], line['other']])
    for line in comparison.differences
    if {(first, line['codec']), (line['run'], line['other'])} <= drawn.keys()
  ]


def _differences(
  axes: mpl_axes.Axes,
  pairs: Sequence[tuple[Mapping[str, Any], Any]],
  rows: Mapping[str, Sequence[Any]],
  looks: tuple[Mapping[str, str], Mapping[str, str]],
  column: columns.Column,
  x: str,
) -> None:
  """Draws differences with their intervals, at the place of the other run."""
  colours, markers = looks
  named = {
    (run, row['name']): name
    for run, group in rows.items()
    for name, curve in _curves(group).items()
    for row in curve
  }
  axes.axhline(0, color=style.INK, linewidth=0.9, zorder=0)
  for line, other in pairs:
    # Runs stand beside one another, by a few percent.
    place = other[_FIELDS[x]] * 1.05 ** [*colours].index(line['run'])
    low, value, high = (
      column.scale * line[n] for n in ('low', 'value', 'high')
    )
    colour = colours[line['run']]
    axes.plot([place] * 2, [low, high], color=colour, linewidth=1.6)
    axes.plot(
      [place],
      [value],
      color=colour,
      marker=markers[named[line['run'], line['other']]],
      linestyle='none',
      markersize=6,
      **style.EDGE,
    )
  axes.set_ylabel(f'{column.title}\nminus that of the first')


def _note(comparison: evaluation.Comparison) -> str:
  differ = [*comparison.settings]
  names = [{row['name'] for row in rows} for rows in comparison.rows.values()]
  if any(known != names[0] for known in names):
    differ.insert(0, 'codecs')
  what = ', '.join(differ[:3]) + (', ...' if len(differ) > 3 else '')
  return (
    f'{comparison.images:,} pictures; intervals of the differences hold at once'
    f' at {100 * comparison.level:g}%; they differ in {what or "chance only"}'
  )
