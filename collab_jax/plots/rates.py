"""Scores of captions against the bytes that were sent for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures
from matplotlib import ticker

from collab_jax.evaluation.report import (
  labels as labels_lib,
)
from collab_jax.evaluation.report import (
  rate as rate_lib,
)
from collab_jax.plots import curves, style

# Image codecs are grey, features coloured; markers and lines differ, too.
PICTURES = {
  'JPEG': ('#9A9A9A', 'x', (0, (1, 1.5))),
  'WebP': ('#6E6E6E', '+', (0, (5, 2))),
  'AVIF': ('#222222', '1', '-'),
}
_MOST = 8  # Families of features with a line of their own.
_LETTERS = 34  # Of a label; there is room for no more.
_SCORES = {'bleu4': ('BLEU-4', 1.0), 'cider': ('CIDEr', 100.0)}


def rate(rows: Sequence[Mapping[str, Any]], y: str = 'bleu4') -> figures.Figure:
  """Draws a score against bytes, for features and image codecs.

  Every point is a codec; a line is the Pareto front of a family of codecs that
  differ in numbers only. Behind them lie the fronts of all features and of all
  image codecs, as bands.

  Args:
    rows: From `evaluation.summarize`.
    y: 'bleu4' or 'cider'.

  Returns:
    The figure; the lines' data can be read from its first axes.

  Raises:
    ValueError: y is neither, or there is nothing to draw.
  """
  if y not in _SCORES:
    raise ValueError(f"y: got {y!r}, expected 'bleu4' or 'cider'")
  families = rate_lib.families(rows)
  if not families:
    raise ValueError('no records: there is nothing to draw')
  looks, other = styles(families)
  figure = style.new_figure(9.2, 5.6)
  with mpl.rc_context(style.RC):
    axes = figure.add_axes((0.065, 0.105, 0.61, 0.76))
    name, scale = _SCORES[y]
    shown = [r for f in families.values() for r in f]
    _frame(axes, shown, name, scale, y)
    _fronts(axes, rows, y, scale)
    labels = curves.horizontals(axes, rows, y, scale)
    for order, (label, (colour, marker, line)) in enumerate(looks.items()):
      own = families[label]
      labels.append(
        _family(axes, own, label, (colour, marker, line), order, y, scale)
      )
    for label in other:
      _points(axes, families[label], style.PALE, 'o', y, scale, 3)
    if y == 'bleu4':
      _paper(axes, rows)
    curves.draw_labels(axes, labels)
    figure.text(
      0.012,
      0.972,
      'How many bytes does a caption need?',
      fontsize=13,
      fontweight='bold',
      verticalalignment='top',
    )
    figure.text(
      0.012,
      0.924,
      curves.subtitle(rows),
      fontsize=9,
      color=style.GREY,
      verticalalignment='top',
    )
  return figure


def styles(
  families: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[dict[str, tuple[str, str, Any]], list[str]]:
  """Looks of the families that get a line, and the names of the others.

  Args:
    families: From `rates.families`.

  Returns:
    Colour, marker and line style by family: the paper's k-means, those
    features that reach most for few bytes, image codecs; and the rest.
  """
  features = [
    name
    for name, rows in families.items()
    if not labels_lib.is_picture(rows[0]) and not labels_lib.is_full(rows[0])
  ]
  best = max(row['bleu4'] for rows in families.values() for row in rows)

  def worth(name):
    rows = families[name]
    enough = rate_lib.cheapest(rows, 0.9 * best)
    if enough:
      return 0, enough['bytes']
    return 1, -max(row['bleu4'] for row in rows)

  paper = [name for name in style.CURVES if name in features]
  plain = [name for name in paper if name.startswith('k-means')]
  rest = sorted((n for n in features if n not in plain), key=worth)
  chosen = [*plain, *rest[: _MOST - len(plain)]]
  named = [look for n, look in style.CURVES.items() if n not in chosen]
  free = [*named, *style.OTHERS]
  looks: dict[str, tuple[str, str, Any]] = {}
  for name in chosen:
    looks[name] = style.CURVES[name] if name in style.CURVES else free.pop(0)
  looks |= {n: PICTURES[n] for n in PICTURES if n in families}
  return looks, [name for name in features if name not in chosen]


def _family(axes, rows, label, looks, order, y, scale) -> tuple:
  colour, marker, line = looks
  picture = labels_lib.is_picture(rows[0])
  line_rows = rate_lib.front(rows, y)
  axes.plot(
    [row['bytes'] for row in line_rows],
    [scale * row[y] for row in line_rows],
    color=colour,
    linestyle=line,
    linewidth=1.2 if picture else 1.8,
    label=label,
    zorder=12 if picture else 30 - order,
  )
  if not picture:
    axes.fill_between(
      [row['bytes'] for row in line_rows],
      [scale * row[f'{y}_low'] for row in line_rows],
      [scale * row[f'{y}_high'] for row in line_rows],
      color=colour,
      alpha=0.12,
      linewidth=0,
      zorder=5,
    )
  _points(axes, rows, colour, marker, y, scale, 13 if picture else 31 - order)
  short = label if len(label) <= _LETTERS else f'{label[: _LETTERS - 3]}...'
  return scale * line_rows[-1][y], None, short, looks


def _points(axes, rows, colour, marker, y, scale, order):
  picture = labels_lib.is_picture(rows[0])
  bare = (
    {'markeredgewidth': 1.1}
    if picture
    else {
      'markeredgecolor': 'white',
      'markeredgewidth': 0.7,
    }
  )
  axes.plot(
    [row['bytes'] for row in rows],
    [scale * row[y] for row in rows],
    color=colour,
    linestyle='none',
    marker=marker,
    markersize=5 if picture else 6,
    zorder=order,
    **bare,
  )


def _fronts(axes: mpl_axes.Axes, rows, y: str, scale: float):
  """A band behind each front, wide enough to be seen around its points."""
  names = rate_lib.FEATURES, rate_lib.PICTURES
  colours = style.SKY, '#8A8A8A'
  for name, group, colour in zip(
    names, rate_lib.split(rows), colours, strict=True
  ):
    if group:
      front = rate_lib.front(group, y)
      axes.plot(
        [row['bytes'] for row in front],
        [scale * row[y] for row in front],
        color=colour,
        alpha=0.28,
        linewidth=11,
        solid_capstyle='round',
        solid_joinstyle='round',
        label=f'front of {name}',
        zorder=4,
      )


def _frame(axes: mpl_axes.Axes, rows, name: str, scale: float, y: str):
  top = max(scale * row[f'{y}_high'] for row in rows)
  axes.set_ylim(-0.015 * top, 1.05 * top or 1.0)
  axes.set_ylabel(name)
  axes.grid(True, color='#EEEEEE', linewidth=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(length=3)
  axes.set_xscale('log')
  # All vectors are a line, and far to the right.
  sizes = [row['bytes'] for row in rows if not labels_lib.is_full(row)]
  sizes = sizes or [row['bytes'] for row in rows]
  axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
  axes.xaxis.set_major_locator(
    ticker.LogLocator(10, (1.0, 2.0, 5.0), numticks=20)
  )
  axes.xaxis.set_major_formatter(
    ticker.FuncFormatter(lambda value, _: f'{value:,.0f}')
  )
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.set_xlabel('mean bytes of a message, all of it (logarithmic)')


def _paper(axes: mpl_axes.Axes, rows):
  """Marks the paper's configuration, k-means in 16 bits with k = 8."""
  for row in rows:
    if rate_lib.family(row) == 'k-means, random start' and row['sent'] == 8:
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
