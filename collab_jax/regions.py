"""Regions of pictures as text: boxes, with masks or without.

A model's text holds PaliGemma's location tokens, rounded to 1024 steps. A
dataset's region is exact and written as JSON:

  {"box": [top, left, bottom, right], "mask": [height, width, counts]}

with edges from 0 to 1, and the mask in COCO's run lengths (`masks`).
"""

from collections.abc import Iterable
import json
from typing import Any, NamedTuple

from collab_jax import _validate, boxes, masks


class Region(NamedTuple):
  """Box in a picture, and the mask of what lies in it.

  Attributes:
    box: edges from 0 to 1.
    mask: pixels of the whole picture; None where it is not known.
  """

  box: boxes.Box
  mask: masks.RunLengths | None = None


def write(region: Region) -> str:
  """Returns the text of a region, without loss."""
  fields: dict[str, Any] = {'box': [float(edge) for edge in region.box]}
  if region.mask is not None:
    fields['mask'] = [*region.mask]
  return json.dumps(fields)


def read(text: str) -> list[Region]:
  """Reads the regions of a text, in either form; none of any other text.

  Raises:
    ValueError: The text begins as JSON and is no region.
  """
  if not text.lstrip().startswith('{'):
    return [Region(box) for box, _ in boxes.read(text)]
  try:
    fields = json.loads(text)
    top, left, bottom, right = fields['box']
    mask = fields.get('mask')
    numbers = _validate.is_number
    if not all(numbers(edge) for edge in (top, left, bottom, right)):
      raise ValueError
    runs = None if mask is None else masks.RunLengths(*mask)
    if runs and not (isinstance(runs.counts, str) and _sides(runs)):
      raise ValueError
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise _validate.error(
      'region', text[:60], '{"box": [top, left, bottom, right], ...}'
    ) from error
  return [Region(boxes.Box(top, left, bottom, right), runs)]


def _sides(runs: masks.RunLengths) -> bool:
  return all(_validate.is_integer(n) for n in (runs.height, runs.width))


def best_iou(box: boxes.Box, expected: Iterable[Region]) -> float:
  """Returns the largest overlap of a box with regions, 0 to 1."""
  return max((boxes.iou(box, region.box) for region in expected), default=0.0)
