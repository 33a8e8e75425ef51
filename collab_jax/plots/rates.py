"""Scores of captions against the bytes that were sent for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures

from collab_jax.evaluation.report import columns
from collab_jax.evaluation.report import labels as labels_lib
from collab_jax.evaluation.report import rate as rate_lib
from collab_jax.plots import curves, style

# Image codecs are grey, features coloured; markers and lines differ, too.
PICTURES = {
  'JPEG': ('#9A9A9A', 'x', (0, (1, 1.5))),
  'WebP': ('#6E6E6E', '+', (0, (5, 2))),
  'AVIF': ('#222222', '1', '-'),
}
_GREYS = style.INK, style.DARK_GREY  # For image codecs alone.
_MAX_LINES = 8  # Families of features with a line of their own.


def rate(
  rows: Sequence[Mapping[str, Any]], y: columns.Y = None
) -> figures.Figure:
  """Draws a score against bytes, for features and image codecs.

  Every point is a codec; a line is the Pareto front of a family of codecs that
  differ in numbers only. Behind them lie the fronts of all features and of all
  image codecs, as bands.

  Args:
    rows: From `evaluation.summarize`.
    y: Metric of the score, 'bleu4' or another; None for the first of the rows.

  Returns:
    The figure; the lines' data can be read from its first axes.

  Raises:
    ValueError: The rows have no such metric, or there is nothing to draw.
  """
  column = columns.column(rows, y)
  families = rate_lib.families(rows)
  if not families:
    raise ValueError('no records: there is nothing to draw')
  looks, other = styles(families)
  figure = style.new_figure(9.2, 5.6)
  with mpl.rc_context(style.RC):
    axes = figure.add_axes((0.065, 0.105, 0.61, 0.76))
    shown = [r for f in families.values() for r in f]
    _frame(axes, shown, column)
    _fronts(axes, rows, column)
    labels = curves.horizontals(axes, rows, column)
    for order, (label, look) in enumerate(looks.items()):
      group = families[label]
      labels.append(_family(axes, group, label, look, order, column))
    for label in other:
      _points(axes, families[label], style.PALE, 'o', column, 3)
    if column.name == 'bleu4':
      _paper(axes, rows)
    curves.draw_labels(axes, labels)
    title = f'How many bytes does {style.text_of(rows)} need?'
    note = curves.subtitle(rows)
    style.titles(figure, title, note, (0.972, 0.924))
    style.fit_width(figure)
  return figure


def styles(
  families: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[dict[str, tuple[str, str, Any]], list[str]]:
  """Chooses the families that get a line, and their looks.

  Args:
    families: From `report.rate.families`.

  Returns:
    Colour, marker and line style by family: the paper's k-means, those
    features that reach most for few bytes, image codecs; and the names of the
    other families.
  """
  features = [
    name
    for name, rows in families.items()
    if name not in PICTURES and not labels_lib.is_full(rows[0])
  ]
  all_rows = [row for rows in families.values() for row in rows]
  # By the first metric whatever is drawn, so that all figures look alike.
  column = columns.column(all_rows)
  scores = [row[column.name] for row in all_rows]
  enough_score = 0.9 * max(scores)
  if not column.higher_is_better:
    enough_score = min(scores) + 0.1 * (max(scores) - min(scores))

  def rank(name):
    rows = families[name]
    enough = rate_lib.cheapest(rows, enough_score, column.name)
    if enough:
      return 0, enough['bytes']
    return 1, -max(column.quality(row) for row in rows)

  paper = [name for name in style.CURVES if name in features]
  plain = [name for name in paper if name.startswith('k-means')]
  ranked = sorted((n for n in features if n not in plain), key=rank)
  chosen = [*plain, *ranked[: _MAX_LINES - len(plain)]]
  named = [look for n, look in style.CURVES.items() if n not in chosen]
  free = [*named, *(look for look in style.OTHERS if look[0] not in _GREYS)]
  looks: dict[str, tuple[str, str, Any]] = {}
  for name in chosen:
    looks[name] = style.CURVES[name] if name in style.CURVES else free.pop(0)
  looks |= {n: PICTURES[n] for n in PICTURES if n in families}
  return looks, [name for name in features if name not in chosen]


def _family(axes, rows, label, looks, order, column: columns.Column) -> tuple:
  """Draws the points of a family and its front, and returns its label."""
  colour, marker, line = looks
  picture = labels_lib.is_picture(rows[0])
  line_rows = rate_lib.front(rows, column.name)
  xs = [row['bytes'] for row in line_rows]
  axes.plot(
    xs,
    [column.shown(row) for row in line_rows],
    color=colour,
    linestyle=line,
    linewidth=1.2 if picture else 1.8,
    label=style.plain(label),
    zorder=12 if picture else 30 - order,
  )
  if not picture:
    looks_of_band = {'color': colour, 'alpha': 0.12, 'zorder': 5}
    style.band(axes, xs, line_rows, column, **looks_of_band)
  _points(axes, rows, colour, marker, column, 13 if picture else 31 - order)
  return column.shown(line_rows[-1]), None, label, looks


def _points(axes, rows, colour, marker, column: columns.Column, order):
  picture = labels_lib.is_picture(rows[0])
  # A marker of strokes is all edge.
  edge = {'markeredgewidth': 1.1} if picture else style.EDGE
  axes.plot(
    [row['bytes'] for row in rows],
    [column.shown(row) for row in rows],
    color=colour,
    linestyle='none',
    marker=marker,
    markersize=5 if picture else 6,
    zorder=order,
    **edge,
  )


def _fronts(axes: mpl_axes.Axes, rows, column: columns.Column):
  """Draws a wide band behind each front, to be seen around its points."""
  names = rate_lib.FEATURES, rate_lib.PICTURES
  colours = style.SKY, '#8A8A8A'
  for name, group, colour in zip(
    names, rate_lib.split(rows), colours, strict=True
  ):
    if group:
      front = rate_lib.front(group, column.name)
      axes.plot(
        [row['bytes'] for row in front],
        [column.shown(row) for row in front],
        color=colour,
        alpha=0.28,
        linewidth=11,
        solid_capstyle='round',
        solid_joinstyle='round',
        label=f'front of {name}',
        zorder=4,
      )


def _frame(axes: mpl_axes.Axes, rows, column: columns.Column):
  style.score_axis(axes, rows, column, 1.05)
  style.grid(axes)
  axes.tick_params(length=3)
  axes.set_xscale('log')
  # All vectors are a line, and far to the right.
  sizes = [row['bytes'] for row in rows if not labels_lib.is_full(row)]
  sizes = sizes or [row['bytes'] for row in rows]
  axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
  style.log_ticks(axes.xaxis)
  axes.set_xlabel('mean bytes of a message, all of it (logarithmic)')


def _paper(axes: mpl_axes.Axes, rows):
  """Marks the paper's configuration, k-means in 16 bits with k = 8."""
  for row in rows:
    if rate_lib.is_paper_codec(row):
      axes.annotate(
        f'the paper: 8 centroids\nin 16 bits, {row["bytes"]:,.0f} bytes',
        (row['bytes'], row['bleu4']),
        xytext=(-26, -4),
        textcoords='offset points',
        horizontalalignment='right',
        verticalalignment='center',
        fontsize=7.5,
        zorder=50,
        arrowprops=style.ARROW | {'shrinkB': 5},
        bbox=style.BOX,
      )
