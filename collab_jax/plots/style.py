"""Style of the figures: colours, markers, fonts, axes and titles."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import io
import os
from pathlib import Path
from typing import Any, Literal
import warnings

import cycler
import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure as figures
from matplotlib import patheffects, ticker
from matplotlib import pyplot as plt

from collab_jax import evaluation, jsonl
from collab_jax.evaluation.report import columns

Row = Mapping[str, Any]

# Okabe and Ito's colours, without their yellow, which is too pale for lines.
# They differ for every kind of colour blindness, and markers and line styles
# tell the curves apart without any colour.
BLUE, SKY, GREEN = '#0072B2', '#56B4E9', '#009E73'
VERMILION, ORANGE, PURPLE = '#D55E00', '#E69F00', '#CC79A7'
INK, GREY, PALE = '#222222', '#6E6E6E', '#D9D9D9'
DARK_GREY = '#4D4D4D'

# Curve -> colour, marker, line style.
CURVES = {
  'k-means++': (BLUE, 'o', '-'),
  'k-means, random start': (SKY, 's', '-'),
  'random subset, nearest sent': (GREEN, 'D', '-'),
  'random subset, positions kept': (ORANGE, 'v', '--'),
  'random subset, closed up': (VERMILION, '^', '-.'),
  'random subset, rest zeroed': (PURPLE, 'X', ':'),
}
# For curves without a name above.
OTHERS = [
  (INK, 'P', '-'),
  ('#7A5195', '*', '--'),
  ('#8C6D31', 'h', '-.'),
  (DARK_GREY, '<', ':'),
  ('#00606B', '>', '-'),
]

# Markers stand out from the lines that they lie on.
EDGE: dict[str, Any] = {'markeredgecolor': 'white', 'markeredgewidth': 0.7}
LINE: dict[str, Any] = {'linewidth': 1.8, 'markersize': 6, **EDGE}

# An annotation, and the line from it to its point.
BOX = {
  'boxstyle': 'round,pad=0.25',
  'facecolor': 'white',
  'edgecolor': PALE,
  'linewidth': 0.6,
}
ARROW = {'arrowstyle': '-', 'color': GREY, 'linewidth': 0.7}

_ENDS = '_low', '_high'
_LONGEST = 300  # Letters of a text.
# No date, so that the same figure is the same file.
_SVG: dict[str, Any] = {'metadata': {'Date': None}}

# Keeps small text readable on lines.
HALO = patheffects.withStroke(linewidth=2.5, foreground='white')

RC: dict[Any, Any] = {
  'font.family': 'DejaVu Sans',
  'font.size': 9,
  'axes.edgecolor': GREY,
  'axes.labelcolor': INK,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.linewidth': 0.8,
  'text.color': INK,
  # A dollar in a caption or a folder's name begins no formula.
  'text.parse_math': False,
  'xtick.color': GREY,
  'ytick.color': GREY,
  'xtick.labelcolor': INK,
  'ytick.labelcolor': INK,
  'svg.fonttype': 'path',
  'svg.hashsalt': 'collab_jax',
  'figure.facecolor': 'white',
  'savefig.facecolor': 'white',
}


_OWN_PLOTS: dict[Any, Any] = {
  'axes.axisbelow': True,
  'axes.grid': True,
  'axes.prop_cycle': cycler.cycler(
    color=[BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, INK]
    + [colour for colour, *_ in OTHERS[1:]],
    marker=['o', '^', 'D', 'v', 's', 'X', 'P']
    + [marker for _, marker, _ in OTHERS[1:]],
  ),
  'axes.titlelocation': 'left',
  'axes.titlesize': 9.5,
  'figure.constrained_layout.use': True,
  'grid.color': '#EEEEEE',
  'grid.linewidth': 0.8,
  'image.interpolation': 'nearest',
  'legend.fontsize': 8.5,
  'legend.frameon': False,
  'lines.linewidth': LINE['linewidth'],
  'lines.markeredgecolor': 'white',
  'lines.markeredgewidth': EDGE['markeredgewidth'],
  'lines.markersize': LINE['markersize'],
}
# House style for plots of one's own: `plt.style.use(plots.STYLE)`. The figures
# of this package set these by themselves, and look the same under it.
STYLE: dict[Any, Any] = RC | _OWN_PLOTS
RC |= {name: mpl.rcParamsDefault[name] for name in _OWN_PLOTS}


def curve_styles(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
  """Returns colour, marker and line style of each curve, by its name."""
  others = [name for name in names if name not in CURVES]
  extra = {n: OTHERS[i % len(OTHERS)] for i, n in enumerate(others)}
  return {name: (CURVES | extra)[name] for name in names}


def new_figure(width: float, height: float) -> figures.Figure:
  """Returns an empty figure, which a notebook shows once: as a cell's value."""
  with mpl.rc_context(RC):
    figure = plt.figure(figsize=(width, height))
  plt.close(figure)
  return figure


def plain(text: str) -> str:
  """Returns a text of somebody's, such as a name or a caption, to be drawn.

  Args:
    text: Any text.

  Returns:
    The text on one line, as long as a figure has room for. Control characters
    are escaped, as they make an SVG that no browser opens, and so are those
    that turn a line's direction. A space stands before what a legend would
    leave out: nothing, and what begins with '_'.
  """
  words = ' '.join(text.split())
  shown = ''.join(
    character if character.isprintable() else ascii(character)[1:-1]
    for character in words
  )
  if len(shown) > _LONGEST:
    shown = f'{shown[:_LONGEST]}…'
  return f' {shown}' if shown[:1] in ('', '_') else shown


def save(
  figure: figures.Figure, stem: str | os.PathLike[str], dpi: int = 200
) -> list[Path]:
  """Writes a figure as PNG and SVG.

  Args:
    figure: From this package.
    stem: Path without suffix; its folder is made.
    dpi: Resolution of the PNG.

  Returns:
    The two files.
  """
  stem = Path(stem)
  files = []
  for suffix, options in (('.png', {'dpi': dpi}), ('.svg', _SVG)):
    files.append(stem.with_name(stem.name + suffix))
    drawn = _draw(figure, format=suffix[1:], **options)
    jsonl.write_atomically(files[-1], drawn)
  return files


def to_svg(figure: figures.Figure) -> bytes:
  """Returns a figure as SVG, the same for the same figure."""
  return _draw(figure, format='svg', **_SVG)


def _draw(figure: figures.Figure, **options: Any) -> bytes:
  drawn = io.BytesIO()
  with mpl.rc_context(RC), _no_word_of_glyphs():
    figure.savefig(drawn, **options)
  return drawn.getvalue()


@contextlib.contextmanager
def _no_word_of_glyphs() -> Iterator[None]:
  """Lets a frame stand for a letter that the font does not have."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph .* missing from font')
    yield


def rows_of(records: Sequence[Row], y: columns.Y = None) -> list[Row]:
  """Returns rows as they are, and records summarized.

  Args:
    records: Records, or rows of `summarize`.
    y: A metric to be among those of the summary.
  """
  if isinstance(records, str | os.PathLike):
    return list(evaluation.summarize(records))  # Says what is wrong.
  if not records or 'caption' not in records[0]:
    return list(records)
  known = evaluation.metrics_of(records, strict=y is None)
  more = [] if y is None or y in known else [y]
  return list(evaluation.summarize(records, metrics=[*known, *more]))


def text_of(rows: Sequence[Row]) -> str:
  """Returns what is written of a picture: 'a caption', or 'an answer'."""
  return 'an answer' if rows and rows[0].get('task') else 'a caption'


def grid(axes: mpl_axes.Axes, axis: Literal['both', 'y'] = 'both') -> None:
  """Draws a faint grid behind the curves."""
  axes.grid(True, axis=axis, color='#EEEEEE', linewidth=0.8)
  axes.set_axisbelow(True)


def bare(axes: mpl_axes.Axes) -> None:
  """Hides ticks and frame, as of an image."""
  axes.set_xticks([])
  axes.set_yticks([])
  axes.spines[:].set_visible(False)


def log_ticks(
  axis: Any,
  subs: tuple[float, ...] = (1.0, 2.0, 5.0),
  form: str = '{:,.0f}',
) -> None:
  """Labels a logarithmic axis with these multiples of powers of ten."""
  axis.set_major_locator(ticker.LogLocator(10, subs, numticks=20))
  axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: form.format(v)))
  axis.set_minor_locator(ticker.NullLocator())


def band(
  axes: mpl_axes.Axes,
  xs: Sequence[float],
  rows: Sequence[Row],
  column: columns.Column,
  **looks: Any,
) -> None:
  """Fills the intervals of a curve."""
  low, high = ([column.shown(row, end) for row in rows] for end in _ENDS)
  axes.fill_between(xs, low, high, linewidth=0, **looks)


def score_axis(
  axes: mpl_axes.Axes,
  rows: Sequence[Row],
  column: columns.Column,
  room: float = 1.04,
) -> None:
  """Sets the limits and the label of an axis of scores.

  Args:
    axes: The axes.
    rows: Rows whose intervals are to be seen.
    column: Metric of the axis.
    room: Share of the highest score that the axis reaches.
  """
  top = max((column.shown(row, '_high') for row in rows), default=100.0)
  low = min((column.shown(row, '_low') for row in rows), default=0.0)
  bottom = -0.015 * top if low >= 0 else low - (room - 1) * (top - low)
  axes.set_ylim(bottom, room * top if top > 0 else top + 1.0)
  axes.set_ylabel(column.title)


def titles(
  figure: figures.Figure,
  title: str,
  note: str,
  y: tuple[float, float],
  x: float = 0.012,
  sizes: tuple[float, float] = (13, 9),
) -> None:
  """Writes a title, and a note below it.

  Args:
    figure: The figure.
    title: The title.
    note: The note; '' for none.
    y: Upper edges of both, as shares of the figure's height.
    x: Left edge, as a share of its width.
    sizes: Font sizes of both.
  """
  title, note = plain(title), note and plain(note)
  figure.text(x, y[0], title, fontsize=sizes[0], fontweight='bold', va='top')
  if note:
    figure.text(x, y[1], note, fontsize=sizes[1], color=GREY, va='top')


def fit_width(figure: figures.Figure) -> None:
  """Widens a figure until it holds the texts to the right of its axes.

  The axes keep their size.

  Args:
    figure: The figure, complete.
  """
  texts = [text for axes in figure.axes for text in axes.texts]
  with _no_word_of_glyphs():
    right = max((t.get_window_extent().x1 for t in texts), default=0.0)
  factor = right / figure.bbox.width
  if factor <= 1:
    return
  width, height = figure.get_size_inches()
  figure.set_size_inches(factor * width, height)
  for axes in figure.axes:
    x, y, width, height = axes.get_position().bounds
    axes.set_position((x / factor, y, width / factor, height))
  for text in figure.texts:
    text.set_x(text.get_position()[0] / factor)


def spread(
  wanted: Sequence[float], gap: float, low: float, high: float
) -> list[float]:
  """Moves positions apart, as little as needed, for labels beside an axis.

  Args:
    wanted: Preferred position of each label.
    gap: Least distance between two.
    low: Lower bound.
    high: Upper bound.

  Returns:
    A position for each, in their order.
  """
  blocks: list[list[int]] = []  # Labels that touch.

  def centre(block):
    half = gap * (len(block) - 1) / 2
    mean = sum(wanted[i] for i in block) / len(block)
    return min(max(mean, low + half), high - half)

  for i in sorted(range(len(wanted)), key=lambda i: wanted[i]):
    blocks.append([i])
    while len(blocks) > 1:
      first, second = blocks[-2:]
      reach = gap * (len(first) + len(second)) / 2
      # Sums round: a hair too close is no overlap.
      if centre(second) - centre(first) >= reach * (1 - 1e-9):
        break
      blocks[-2:] = [first + second]
  places = [0.0] * len(wanted)
  for block in blocks:
    start = centre(block) - gap * (len(block) - 1) / 2
    for n, i in enumerate(block):
      places[i] = start + gap * n
  return places
