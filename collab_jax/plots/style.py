"""How the figures look: colours, markers, fonts."""

from collections.abc import Sequence
import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import figure as figures
from matplotlib import patheffects
from matplotlib import pyplot as plt

# Okabe and Ito's colours, without their yellow, which is too pale for lines.
# They differ for every kind of colour blindness, and markers and line styles
# tell the curves apart without any colour.
BLUE, SKY, GREEN = '#0072B2', '#56B4E9', '#009E73'
VERMILION, ORANGE, PURPLE = '#D55E00', '#E69F00', '#CC79A7'
INK, GREY, PALE = '#222222', '#6E6E6E', '#D9D9D9'

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
  ('#4D4D4D', '<', ':'),
  ('#00606B', '>', '-'),
]

# Of a text that points at something, and of the line to it.
BOX = {
  'boxstyle': 'round,pad=0.25',
  'facecolor': 'white',
  'edgecolor': PALE,
  'linewidth': 0.6,
}
ARROW = {'arrowstyle': '-', 'color': GREY, 'linewidth': 0.7}

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
  'xtick.color': GREY,
  'ytick.color': GREY,
  'xtick.labelcolor': INK,
  'ytick.labelcolor': INK,
  'svg.fonttype': 'path',
  'svg.hashsalt': 'collab_jax',
  'figure.facecolor': 'white',
  'savefig.facecolor': 'white',
}


def curve_styles(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
  """Colour, marker and line style of each curve, by its name."""
  others = [name for name in names if name not in CURVES]
  extra = {n: OTHERS[i % len(OTHERS)] for i, n in enumerate(others)}
  return {name: (CURVES | extra)[name] for name in names}


def new_figure(width: float, height: float) -> figures.Figure:
  """An empty figure that a notebook shows once: as a cell's value."""
  with mpl.rc_context(RC):
    figure = plt.figure(figsize=(width, height))
  plt.close(figure)
  return figure


def save(
  figure: figures.Figure, stem: str | os.PathLike[str], dpi: int = 200
) -> list[Path]:
  """Writes a figure as PNG and SVG.

  Args:
    figure: From this package.
    stem: Path without suffix; its folder is made.
    dpi: Of the PNG.

  Returns:
    The two files.
  """
  stem = Path(stem)
  stem.parent.mkdir(parents=True, exist_ok=True)
  files = [stem.with_name(stem.name + suffix) for suffix in ('.png', '.svg')]
  with mpl.rc_context(RC):
    figure.savefig(files[0], dpi=dpi)
    # No date, so that the same figure is the same file.
    figure.savefig(files[1], metadata={'Date': None})
  return files


def spread(
  wanted: Sequence[float], gap: float, low: float, high: float
) -> list[float]:
  """Moves positions apart, as little as needed, for labels beside an axis.

  Args:
    wanted: Where each label would like to be.
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
