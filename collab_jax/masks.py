"""Masks of pictures as run lengths, in COCO's format, and their overlap.

The pixels are taken column by column; the counts of a mask are the lengths of
its runs, of zeros first. COCO writes counts in a text of its own.

Source: pycocotools, whose masks, texts and overlaps these equal (tests/golden).
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool
import numpy as np

from collab_jax import _validate

Mask = Bool[np.ndarray, 'H W']

# Steps of a pixel along which a polygon's edge is followed.
_STEPS = 5
# As many pixels as a picture may have.
_MOST_PIXELS = 1 << 28


class RunLengths(NamedTuple):
  """Mask of a picture.

  Attributes:
    height: of the picture in pixels.
    width: of the picture in pixels.
    counts: lengths of the runs of zeros and ones, in COCO's text.
  """

  height: int
  width: int
  counts: str


def encode(mask: Mask) -> RunLengths:
  """Returns the run lengths of a mask."""
  pixels = np.concatenate([[False], mask.T.reshape(-1)])
  # Of the boundaries each ends a run; the first run, of zeros, may be empty.
  ends = np.flatnonzero(pixels[1:] != pixels[:-1])
  edges = np.concatenate([[0], ends, [mask.size]])
  height, width = mask.shape
  return RunLengths(height, width, _to_text(np.diff(edges).tolist()))


def decode(runs: RunLengths) -> Mask:
  """Returns the mask of run lengths.

  Raises:
    ValueError: The counts are none of a picture of that size.
  """
  height, width = runs.height, runs.width
  for name, side in (('height', height), ('width', width)):
    _validate.integer(f'mask: {name}', side, 0, _MOST_PIXELS)
  _validate.integer('mask: pixels', height * width, 0, _MOST_PIXELS)
  return from_counts(_from_text(runs.counts), height, width)


def from_counts(counts: Sequence[int], height: int, width: int) -> Mask:
  """Returns the mask of the lengths of its runs.

  Raises:
    ValueError: They are not as many pixels as the picture has.
  """
  if min(counts, default=0) < 0 or sum(counts) != height * width:
    raise _validate.error(
      'mask: counts',
      f'{sum(counts)} pixels',
      f'lengths of {height} x {width} pixels',
    )
  values = np.arange(len(counts)) % 2 == 1
  return np.repeat(values, counts).reshape(width, height).T


def from_polygons(
  polygons: Sequence[Sequence[float | int]], height: int, width: int
) -> Mask:
  """Returns the pixels inside any of some polygons.

  Args:
    polygons: x and y of the corners in turn, in pixels.
    height: of the picture.
    width: of the picture.
  """
  mask = np.zeros((height, width), bool)
  for polygon in polygons:
    corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    mask |= _filled(corners, height, width)
  return mask


def iou(a: Mask, b: Mask) -> float:
  """Returns the intersection of two masks over their union, 0 to 1."""
  union = int((a | b).sum())
  return int((a & b).sum()) / union if union else 0.0


def _filled(corners: np.ndarray, height: int, width: int) -> Mask:
  """Returns the inside of a polygon, by the places where columns enter it.

  The boundary is followed in fifths of a pixel. Where it crosses the middle of
  a column, the pixels from there down change from outside to inside or back.
  """
  if not len(corners):
    return np.zeros((height, width), bool)
  x, y = _boundary((_STEPS * corners + 0.5).astype(np.int64))
  crossing = np.flatnonzero(x[1:] != x[:-1])
  before, after = crossing, crossing + 1
  column = np.minimum(x[before], x[after])
  column = (column + 0.5) / _STEPS - 0.5
  row = np.minimum(y[before], y[after])
  row = np.ceil(np.clip((row + 0.5) / _STEPS - 0.5, 0, height))
  kept = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
  # A row of `height` is the first pixel of the next column: in one line of
  # pixels both change at the same place.
  starts = (column[kept] * height + row[kept]).astype(np.int64)
  changes = np.bincount(starts, minlength=height * width + 1)[:-1]
  return (np.cumsum(changes) % 2 == 1).reshape(width, height).T


def _boundary(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the points along a polygon's edges, one a step of the longer side.

  Edges are followed from the lower end of the longer side whatever their
  direction, and then turned: both directions round alike.
  """
  points = []
  for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
    along = int(abs(end[1] - start[1]) > abs(end[0] - start[0]))
    low, high = (start, end) if start[along] <= end[along] else (end, start)
    length = int(high[along] - low[along])
    if not length:
      points.append(start[None])
      continue
    steps = np.arange(length + 1)
    edge = np.empty((length + 1, 2), np.int64)
    slope = (high[1 - along] - low[1 - along]) / length
    edge[:, along] = low[along] + steps
    edge[:, 1 - along] = (low[1 - along] + slope * steps + 0.5).astype(np.int64)
    points.append(edge if low is start else edge[::-1])
  x, y = np.concatenate(points).T
  return x, y


def _to_text(counts: Sequence[int]) -> str:
  """Writes counts in five bits a letter, from the third on as differences."""
  text = []
  for i, count in enumerate(counts):
    number = count - counts[i - 2] if i > 2 else count
    while True:
      bits = number & 31
      number >>= 5
      # The last letter's highest bit is the sign.
      more = number != (-1 if bits & 16 else 0)
      text.append(chr(48 + bits + 32 * more))
      if not more:
        break
  return ''.join(text)


def _from_text(text: str) -> list[int]:
  counts: list[int] = []
  number = shift = 0
  for letter in text:
    bits = ord(letter) - 48
    if not 0 <= bits < 64 or shift > 60:
      raise _validate.error('mask: counts', text[:40], "COCO's text of counts")
    number |= (bits & 31) << shift
    shift += 5
    if bits & 32:
      continue
    if bits & 16:
      number -= 1 << shift
    counts.append(number + counts[-2] if len(counts) > 2 else number)
    number = shift = 0
  if shift:
    raise _validate.error('mask: counts', text[-40:], 'a text that is not cut')
  return counts
