"""Answers about a picture, with the boxes and masks that they have."""

from collections.abc import Sequence
import os
import textwrap
from typing import Any, NamedTuple

from jaxtyping import UInt8
import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import colors, patches, patheffects
from matplotlib import figure as figures
import numpy as np

from collab_jax import _validate, tasks
from collab_jax.models import mask_decoder
from collab_jax.plots import maps, style

_COLOURS = (
  *(style.BLUE, style.VERMILION, style.GREEN, style.PURPLE),
  *('#7A5195', '#8C6D31'),
)
_SIDE, _MARGIN = 3.2, 0.12  # Inches.
_LINE = 0.185  # Inches of a line of text.
_LETTERS = 58  # Of a line.
_MOST_LINES = 60  # Of the texts beside a picture.


class _TextLine(NamedTuple):
  """Line beside the picture: its text, and its colour and looks."""

  text: str
  colour: str = style.INK
  weight: str = 'normal'


def draw_answers(
  image: UInt8[np.ndarray, 'H W 3'],
  answers: str | Sequence[str],
  prompts: str | Sequence[str] = (),
  mask_weights: str | os.PathLike[str] | None = None,
) -> figures.Figure:
  """Draws the boxes and masks of answers over their picture.

      prompts = ['detect red ring', 'answer en how many rings']
      answers = [result.caption for result in client.ask(image, prompts)]
      cj.plots.draw_answers(image, answers, prompts)

  Prompts and answers stand beside the picture, each box with its number, its
  name and its edges in pixels. What is no whole box is shown as text.

  Args:
    image: The picture, at any size, 0..255.
    answers: Texts that a model wrote about it, or one.
    prompts: The questions, as many as answers; none leaves them out.
    mask_weights: Weights of the decoder of masks, `vae-oid.npz`; None draws the
      boxes alone.

  Returns:
    The figure.

  Raises:
    ValueError: This is no picture, or there are not as many prompts as
      answers.
    FileNotFoundError: There are no such weights.
  """
  maps.check_picture(image)
  texts = [answers] if isinstance(answers, str) else [*answers]
  asked = [prompts] if isinstance(prompts, str) else [*prompts]
  if asked and len(asked) != len(texts):
    raise _validate.error(
      'prompts: number', len(asked), f'as many as answers, {len(texts)}'
    )
  decoder = None if mask_weights is None else mask_decoder.load(mask_weights)
  height, width, _ = image.shape
  parsed = [tasks.parse_answer(t, height, width, decoder) for t in texts]
  lines, drawn = _lines(texts, asked, parsed, decoder is not None)
  tall = max(_SIDE * min(height / width, 2), _LINE * len(lines)) + 2 * _MARGIN
  figure = style.new_figure(_SIDE + 4.6, tall)
  with mpl.rc_context(style.RC):
    panel = figure.add_axes(_place(figure, _SIDE, height / width))
    panel.imshow(image, interpolation='nearest')
    panel.set_autoscale_on(False)
    style.bare(panel)
    for number, colour, detection in drawn:
      _draw(panel, detection, f'{number} {detection.name}', colour)
    left = (_SIDE + 3 * _MARGIN) / figure.get_figwidth()
    for n, line in enumerate(lines):
      figure.text(
        left,
        1 - (_MARGIN + _LINE * n) / tall,
        style.plain(line.text),
        va='top',
        fontsize=8.5,
        color=line.colour,
        fontweight=line.weight,
      )
  return figure


def _place(
  figure: figures.Figure, side: float, ratio: float
) -> tuple[float, float, float, float]:
  """Returns the axes of a picture, in the upper left corner of a figure."""
  width, height = figure.get_size_inches()
  tall = side * min(ratio, 2)
  return (
    _MARGIN / width,
    1 - (_MARGIN + tall) / height,
    side / width,
    tall / height,
  )


def _lines(
  texts: Sequence[str],
  prompts: Sequence[str],
  parsed: Sequence[tasks.ParsedAnswer],
  has_decoder: bool,
) -> tuple[list[_TextLine], list[tuple[int, str, tasks.Detection]]]:
  """Returns the lines beside a picture, and what is drawn over it.

  Boxes of one name and one answer have one colour.
  """
  lines, drawn = [], []
  colours: dict[Any, str] = {}
  for n, (text, parts) in enumerate(zip(texts, parsed, strict=True)):
    if prompts:
      lines += [_TextLine(x, style.GREY) for x in _wrapped(prompts[n])]
    if not parts.detections or parts.rest:
      rest = parts.rest if parts.detections else text
      lines += [_TextLine(x, weight='bold') for x in _wrapped(rest)]
    for detection in parts.detections:
      key = n, detection.name
      colour = colours.setdefault(key, _COLOURS[len(colours) % len(_COLOURS)])
      drawn.append((len(drawn) + 1, colour, detection))
      said = f'{len(drawn)} {detection.describe()}'
      lines += [_TextLine(x, colour, 'bold') for x in _wrapped(said)]
    if not has_decoder and any(d.has_codes for d in parts.detections):
      lines.append(_TextLine('masks need mask_weights=...', style.GREY))
    lines.append(_TextLine(''))
  if len(lines) > _MOST_LINES:
    more = len(lines) - _MOST_LINES
    lines = [*lines[:_MOST_LINES], _TextLine(f'... {more} more lines')]
  return lines[:-1] if lines and not lines[-1].text else lines, drawn


def _wrapped(text: str) -> list[str]:
  return textwrap.wrap(style.plain(text), _LETTERS) or ['(nothing)']


def _draw(
  panel: mpl_axes.Axes, detection: tasks.Detection, title: str, colour: str
) -> None:
  """Draws a box, its mask and its label."""
  height, width = panel.get_images()[0].get_size()
  top, left, bottom, right = detection.share
  # Of pixels the middles lie at whole numbers.
  x, y = left * width - 0.5, top * height - 0.5
  if detection.mask is not None:
    tint = np.zeros((height, width, 4))
    tint[detection.mask] = (*colors.to_rgb(colour), 0.5)
    panel.imshow(tint, interpolation='nearest')
  outline = [
    patheffects.Stroke(linewidth=4.2, foreground='black'),
    patheffects.Stroke(linewidth=3.4, foreground='white'),
    patheffects.Normal(),
  ]
  panel.add_patch(
    patches.Rectangle(
      (x, y),
      (right - left) * width,
      (bottom - top) * height,
      fill=False,
      edgecolor=colour,
      linewidth=1.8,
      path_effects=outline,
      snap=False,
    )
  )
  is_below = top < 0.08
  panel.annotate(
    style.plain(title)[:28],
    (x, y),
    (1, -2 if is_below else 2),
    textcoords='offset points',
    va='top' if is_below else 'bottom',
    ha='left' if left < 0.6 else 'center',
    color='white',
    fontsize=7.5,
    fontweight='bold',
    bbox={'boxstyle': 'round,pad=0.15', 'facecolor': colour, 'linewidth': 0},
    annotation_clip=False,
  )
