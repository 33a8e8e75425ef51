"""Fig. 3 of the paper: scores of captions against vectors or bytes sent."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures
from matplotlib import lines as mpl_lines
from matplotlib import ticker
import numpy as np

from collab_jax.evaluation.report import columns
from collab_jax.evaluation.report import labels as labels_lib
from collab_jax.evaluation.report import text as text_lib
from collab_jax.plots import style

# The paper's findings: (share of the vectors, share of the full score).
CLAIMS = (
  (8 / 256, 0.8, 'the paper:\n8 centroids\nkeep 80%'),
  (0.4, 0.8, 'the paper:\na random 40%\nkeeps 80%'),
)


def tradeoff(
  records: Sequence[Mapping[str, Any]],
  x: str = 'ratio',
  claims: bool = True,
  y: columns.Y = None,
) -> figures.Figure:
  """Draws a score against the share of vectors sent, or against bytes.

  Args:
    records: From `evaluate` or `read_records`, or the rows of `summarize`.
    x: 'ratio' (the paper's axis: vectors sent / vectors) or 'bytes' (mean
      length of a message, indices included).
    claims: Mark the paper's two findings on the 'ratio' axis; they are of
      BLEU-4.
    y: Metric of the score, 'bleu4' or another; None for the first of the rows.

  Returns:
    The figure; the curves' data can be read from its first axes.

  Raises:
    ValueError: x is neither, the rows have no such metric, or there are no
      records.
  """
  if x not in ('ratio', 'bytes'):
    raise ValueError(f"x: got {x!r}, expected 'ratio' or 'bytes'")
  rows = style.rows_of(records, y)
  if not rows:
    raise ValueError('no records: there is nothing to draw')
  column = columns.column(rows, y)
  curves = labels_lib.curves(rows)
  if x == 'bytes':
    curves |= labels_lib.pictures(rows)
  figure = style.new_figure(8.6, 5.0)
  with mpl.rc_context(style.RC):
    height = 0.685 if x == 'ratio' else 0.745
    axes = figure.add_axes((0.068, 0.115, 0.635, height))
    labels = horizontals(axes, rows, column) + _curves(axes, curves, x, column)
    _frame(axes, rows, curves, x, column)
    if claims and x == 'ratio' and column.name == 'bleu4':
      _claims(axes, rows, curves)
    draw_labels(axes, labels)
    unit = 'feature vectors' if x == 'ratio' else 'bytes of features'
    title = f'How many {unit} does {style.text_of(rows)} need?'
    style.titles(figure, title, subtitle(rows), (0.968, 0.915))
    style.fit_width(figure)
  return figure


def tradeoff_panels(
  groups: Mapping[str, Sequence[Mapping[str, Any]]], y: columns.Y = None
) -> figures.Figure:
  """Draws Fig. 3 of several data sets beside each other, on one axis of scores.

  Args:
    groups: Rows of `summarize`, by the title of their panel.
    y: Metric of the score; None for the first of the rows.

  Returns:
    The figure, with a panel for each group; labels stand beside the last.

  Raises:
    ValueError: There is no group, or nothing to draw in one.
  """
  if not groups or not all(groups.values()):
    raise ValueError('groups: got one without rows: there is nothing to draw')
  count = len(groups)
  panel, left, gap, right = 4.3, 0.6, 0.28, 2.9  # Inches.
  width = left + count * panel + (count - 1) * gap + right
  figure = style.new_figure(width, 5.2)
  together = [row for rows in groups.values() for row in rows]
  column = columns.column(together, y)
  with mpl.rc_context(style.RC):
    for n, (title, rows) in enumerate(groups.items()):
      place = (left + n * (panel + gap)) / width, 0.11, panel / width, 0.65
      axes = figure.add_axes(place)
      curves = labels_lib.curves(rows)
      labels = horizontals(axes, rows, column)
      labels += _curves(axes, curves, 'ratio', column)
      _frame(axes, rows, curves, 'ratio', column)
      style.score_axis(axes, together, column)
      if column.name == 'bleu4':
        _claims(axes, rows, curves)
      axes.set_title(style.plain(title), loc='left', fontsize=10, pad=30)
      if n:
        axes.set_ylabel('')
        axes.set_yticklabels([])
      if n == count - 1:
        draw_labels(axes, labels)
    need = f'does {style.text_of(together)} need?'
    titles = f'How many feature vectors {need}', _model(together)
    style.titles(figure, *titles, (0.97, 0.915))
    style.fit_width(figure)
  return figure


def _model(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the model of several data sets, and how bands were made."""
  seeds = max(row['seeds'] for row in rows)
  return (
    f'The {style.plain(rows[0].get("model") or "unnamed")} model, mean of'
    f' {seeds} seed{"s" if seeds > 1 else ""}; bands:'
    f' {text_lib.coverage(rows)} bootstrap over the pictures'
  )


def _curves(
  axes: mpl_axes.Axes, curves, x: str, column: columns.Column
) -> list[tuple]:
  """Draws curves with their bands, and returns their labels."""
  labels = []
  for order, (name, looks) in enumerate(style.curve_styles([*curves]).items()):
    colour, marker, line = looks
    rows, front = curves[name], 20 - order
    xs = [row[x] for row in rows]
    band = {'color': colour, 'alpha': 0.13, 'zorder': front - 18}
    style.band(axes, xs, rows, column, **band)
    axes.plot(
      xs,
      [column.shown(row) for row in rows],
      color=colour,
      marker=marker,
      linestyle=line,
      label=style.plain(name),
      zorder=front,
      **style.LINE,
    )
    labels.append((column.shown(rows[-1]), xs[-1], name, looks))
    if x == 'bytes' and not order and not labels_lib.is_picture(rows[0]):
      _annotate_k(axes, rows, column)
  return labels


def _annotate_k(axes: mpl_axes.Axes, rows, column: columns.Column) -> None:
  """Writes the number of vectors beside the points of a curve of bytes."""
  for n, row in enumerate(rows):
    axes.annotate(
      f'k={row["sent"]}',
      (row['bytes'], column.shown(row)),
      xytext=(-4 if n else 0, 6),
      textcoords='offset points',
      horizontalalignment='right' if n else 'center',
      fontsize=7.5,
      color=style.GREY,
      zorder=30,
      path_effects=[style.HALO],
    )


def horizontals(
  axes: mpl_axes.Axes, rows, column: columns.Column
) -> list[tuple]:
  """Draws rows without a curve as lines across; returns their labels."""
  labels = []
  for row in text_lib.horizontal_rows(rows, column.name):
    name = style.plain(labels_lib.label(row))
    value = column.shown(row)
    blind = labels_lib.is_blind(row)
    line = (0, (1, 2)) if blind else (0, (6, 2))
    colour = style.GREY if blind else style.INK
    axes.axhspan(
      column.shown(row, '_low'),
      column.shown(row, '_high'),
      color=colour,
      alpha=0.05 if blind else 0.08,
      linewidth=0,
      zorder=0,
    )
    axes.axhline(
      value, color=colour, linestyle=line, linewidth=1.1, zorder=1, label=name
    )
    if not blind:
      name += f' ({row["sent"]})'
    labels.append((value, None, f'{name}, {value:.1f}', (colour, '', line)))
  return labels


def draw_labels(axes: mpl_axes.Axes, labels) -> None:
  """Writes labels at the ends of their curves, with a short line to each.

  Args:
    axes: The axes, whose limits are final.
    labels: Of each curve the last y and x (None at the right edge), its name,
      and colour, marker and line style.
  """
  low, high = axes.get_ylim()
  gap = 0.056 * (high - low)
  places = style.spread([label[0] for label in labels], gap, low, high)
  across = axes.get_yaxis_transform()
  for (y, x, name, looks), place in zip(labels, places, strict=True):
    colour, marker, line = looks
    start = 1.0
    if x is not None:
      point = axes.transData.transform((x, y))
      start = axes.transAxes.inverted().transform(point)[0]
    axes.plot(
      [start, 1.02, 1.045],
      [y, place, place],
      color=style.PALE,
      linewidth=0.8,
      transform=across,
      clip_on=False,
      zorder=0,
    )
    axes.plot(
      [1.05, 1.075, 1.1],
      [place] * 3,
      color=colour,
      linestyle=line,
      linewidth=1.8 if marker else 1.1,
      marker=marker,
      markevery=[1],
      markersize=6,
      # A marker of strokes is all edge.
      markeredgecolor='white'
      if marker in mpl_lines.Line2D.filled_markers
      else None,
      markeredgewidth=0.7,
      transform=across,
      clip_on=False,
    )
    axes.text(
      1.112,
      place,
      style.plain(name),
      transform=across,
      verticalalignment='center',
      fontsize=8.5,
      color=style.INK if marker or 'blind' not in name else style.GREY,
    )


def _frame(
  axes: mpl_axes.Axes, rows, curves, x: str, column: columns.Column
) -> None:
  """Sets limits, ticks and labels of the axes."""
  points = [row for curve in curves.values() for row in curve]
  style.score_axis(axes, rows, column)
  style.grid(axes, 'y')
  axes.tick_params(length=3)
  axes.set_xscale('log', base=2)
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  if not points:
    return
  low, high = min(r[x] for r in points), max(r[x] for r in points)
  axes.set_xlim(low / 1.25, high * 1.25 if high > low else low * 2)
  if x == 'bytes':
    axes.set_xlabel('bytes sent per picture, indices included')
    axes.xaxis.set_major_locator(ticker.LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(
      ticker.FuncFormatter(lambda value, _: _binary(value))
    )
    return
  ticks = dict(sorted({row[x]: row['sent'] for row in points}.items()))
  axes.set_xticks([*ticks], [text_lib.percent(t) for t in ticks])
  vectors = points[0]['vectors']
  axes.set_xlabel(f'vectors sent, of {vectors} (logarithmic)')
  above = axes.secondary_xaxis('top')
  above.set_xscale('log', base=2)
  above.xaxis.set_minor_locator(ticker.NullLocator())
  above.set_xticks([*ticks], [str(k) for k in ticks.values()])
  above.tick_params(length=0, pad=1)
  above.spines['top'].set_visible(False)
  above.set_xlabel('number of vectors sent, k', labelpad=4)


def _binary(value: float) -> str:
  for unit in ('B', 'KiB', 'MiB'):
    if value < 1024:
      return f'{value:.0f} {unit}'
    value /= 1024
  return f'{value:.0f} GiB'


def _claims(axes: mpl_axes.Axes, rows, curves) -> None:
  """Marks the paper's two findings."""
  full = labels_lib.full(rows)
  if not full or text_lib.is_unrelated(full):
    return
  low, high = axes.get_xlim()
  level = CLAIMS[0][1] * full['bleu4']
  axes.axhline(
    level, color=style.PALE, linewidth=0.9, zorder=0.5, linestyle=(0, (3, 3))
  )
  axes.annotate(
    "80% of all vectors' score",
    (0.008, level),
    xycoords=axes.get_yaxis_transform(),
    xytext=(0, 2.5),
    textcoords='offset points',
    fontsize=7.5,
    color=style.GREY,
  )
  for ratio, kept, text in CLAIMS:
    if not low <= ratio <= high:
      continue
    y = kept * full['bleu4']
    axes.plot(
      [ratio],
      [y],
      marker='*',
      markersize=15,
      markerfacecolor='white',
      markeredgecolor=style.INK,
      markeredgewidth=1.2,
      linestyle='none',
      zorder=40,
      label='the paper',
    )
    axes.annotate(
      text,
      (ratio, y),
      xytext=_free_place(axes, rows, curves, ratio, y),
      horizontalalignment='center',
      verticalalignment='center',
      fontsize=7.5,
      zorder=41,
      arrowprops=style.ARROW | {'shrinkB': 7},
      bbox=style.BOX,
    )


def _free_place(
  axes: mpl_axes.Axes, rows, curves, x: float, below: float
) -> tuple[float, float]:
  """Returns where under a point, or to its left, a small text hides least."""
  low, high = axes.get_ylim()
  flat = [low, *(row['bleu4'] for row in text_lib.horizontal_rows(rows))]
  # The text with its frame is about 0.75 inches wide, and 0.5 high.
  box = axes.get_window_extent()  # In pixels.
  inch = axes.figure.dpi
  width = 0.75 * inch / box.width * np.diff(np.log2(axes.get_xlim()))[0]
  clear = 0.25 * inch / box.height
  candidates = []
  for shift in (0.0, -1.1 * width):
    octaves = np.log2(x) + shift + np.linspace(-0.5, 0.5, 13) * width
    taken = [np.full(len(octaves), y) for y in flat]
    for curve in curves.values():
      places = np.log2([row['ratio'] for row in curve])
      taken.append(np.interp(octaves, places, [row['bleu4'] for row in curve]))
    places = np.linspace(low, below, 100)[5:-15]
    distances = np.abs(np.stack(taken)[..., None] - places).min((0, 1))
    # Enough is enough: then the nearest place is best.
    good = np.minimum(distances / (high - low), clear) + 0.05 * places / high
    best = int(np.argmax(good))
    candidates.append((good[best] + 0.02 * shift, x * 2**shift, places[best]))
  _, x, y = max(candidates)
  return float(x), float(y)


def subtitle(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns model, pictures and seeds of the rows, in one line."""
  images = max(row['images'] for row in rows)
  seeds = max(row['seeds'] for row in rows)
  model = style.plain(rows[0].get('model') or 'unnamed')
  data = style.plain(rows[0].get('data') or 'unnamed data')
  kind = 'generated scenes' if data.startswith('scenes') else 'pictures'
  return (
    f'The {model} model on {images:,} {kind} ({data}),'
    f' mean of {seeds} seed{"s" if seeds > 1 else ""};'
    f' bands: {text_lib.coverage(rows)} bootstrap over the pictures'
  )
