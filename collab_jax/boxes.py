"""Boxes as text: PaliGemma's location tokens, written, read and compared.

A box is (top, left, bottom, right) in shares of the picture's height and
width, and its text `<locYYYY><locXXXX><locYYYY><locXXXX> name` on a grid of
1024 steps; several are joined by ' ; '.

Source: big_vision's transfers of PaliGemma, where a token stands for its
number / 1023.
"""

from collections.abc import Iterable, Sequence
import re
from typing import NamedTuple

_STEPS = 1023
_TEXT = re.compile(r'((?:<loc\d{4}>){4})([^;<]*)')


class Box(NamedTuple):
  """Edges of a box, from 0 to 1; y down."""

  top: float
  left: float
  bottom: float
  right: float


def write(boxes: Iterable[Box], name: str) -> str:
  """Returns the text of the boxes of all things that have a name."""
  return ' ; '.join(
    ''.join(f'<loc{round(edge * _STEPS):04d}>' for edge in box) + f' {name}'
    for box in boxes
  )


def read(text: str) -> list[tuple[Box, str]]:
  """Reads boxes and their names from any text; skips what is no box.

  A box without an area, or of locations beyond 1023, is none.
  """
  boxes = []
  for tokens, name in _TEXT.findall(text):
    steps = [int(digits) for digits in re.findall(r'\d{4}', tokens)]
    box = Box(*(step / _STEPS for step in steps))
    if max(steps) <= _STEPS and box.top < box.bottom and box.left < box.right:
      boxes.append((box, name.strip()))
  return boxes


def iou(a: Box, b: Box) -> float:
  """Returns the intersection of two boxes over their union, 0 to 1."""
  height = min(a.bottom, b.bottom) - max(a.top, b.top)
  width = min(a.right, b.right) - max(a.left, b.left)
  common = max(height, 0) * max(width, 0)
  areas = [(c.bottom - c.top) * (c.right - c.left) for c in (a, b)]
  union = sum(areas) - common
  return common / union if union > 0 else 0.0


def matched(
  got: Sequence[Box], expected: Sequence[Box], least: float = 0.5
) -> float:
  """Returns the share of boxes that lie where they should, 0 to 1.

  Pairs are taken in the order of their overlap, a box once. The number of
  pairs is divided by the larger of the two numbers of boxes, so leaving out
  and making up both cost.

  Args:
    got: the boxes of an answer.
    expected: the right ones.
    least: smallest intersection over union of a pair.
  """
  overlaps = sorted(
    (
      (iou(a, b), i, j)
      for i, a in enumerate(got)
      for j, b in enumerate(expected)
    ),
    reverse=True,
  )
  left, right = set(), set()
  for overlap, i, j in overlaps:
    if overlap >= least and i not in left and j not in right:
      left.add(i)
      right.add(j)
  largest = max(len(got), len(expected))
  return len(left) / largest if largest else 1.0
