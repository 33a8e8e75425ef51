"""Boxes and masks in the texts that models write, at a picture's size."""

import re
from typing import NamedTuple

from jaxtyping import Bool, Float
import numpy as np
from PIL import Image

from collab_jax import _validate, boxes, masks
from collab_jax.models import mask_decoder

_TEXT = re.compile(r'((?:<loc\d{4}>){4})\s*((?:<seg\d{3}>){16})?([^;<]*)')
# Boxes that are read of a text: the most that 512 tokens hold, twice.
_MOST = 256
Mask = Bool[np.ndarray, 'H W']


class Detection(NamedTuple):
  """Thing in a picture: its name, its box, and its mask if there is one.

  Attributes:
    name: text behind the box; '' if there is none.
    share: box in shares of the picture's height and width.
    pixels: left, top, right and bottom edge in whole pixels.
    has_codes: whether the text has the codes of a mask.
    mask: pixels of the thing; None without codes or a decoder, and where the
      box is narrower than a pixel.
  """

  name: str
  share: boxes.Box
  pixels: tuple[int, int, int, int]
  has_codes: bool = False
  mask: Mask | None = None

  def describe(self) -> str:
    """Returns name and box in words."""
    left, top, right, bottom = self.pixels
    return (
      f'{self.name or "a thing"}: left {left}, top {top}, right {right},'
      f' bottom {bottom}'
    )


class ParsedAnswer(NamedTuple):
  """Answer's boxes, and what is none.

  Attributes:
    detections: in the order of the text.
    rest: text outside of them; of an answer in words, all of it.
  """

  detections: list[Detection]
  rest: str


def parse_answer(
  text: str,
  height: int,
  width: int,
  decoder: mask_decoder.Params | None = None,
) -> ParsedAnswer:
  """Reads the boxes and masks of an answer; any text may be given.

      answer = client.ask(image, ['detect red ring'])[0].caption
      parts = cj.tasks.parse_answer(answer, *image.shape[:2])
      for detection in parts.detections:
        print(detection.name, detection.pixels)

  The boxes are those that the metrics of boxes read. Halves of boxes, locations
  beyond 1023, boxes without an area and codes that are no whole mask are left
  in the rest.

  Args:
    text: what a model wrote.
    height: of the picture in pixels, at any size.
    width: of the picture in pixels.
    decoder: from `models.mask_decoder.load`; None leaves masks out.

  Raises:
    ValueError: The picture has no pixels.
  """
  _validate.integer('height', height, 1)
  _validate.integer('width', width, 1)
  detections, rest, end = [], [], 0
  for match in _TEXT.finditer(text):
    places = boxes.read(match[1])
    if not places or len(detections) == _MOST:
      continue
    rest.append(text[end : match.start()])
    end = match.end()
    ((box, _),) = places
    codes = [int(code) for code in re.findall(r'\d{3}', match[2] or '')]
    if max(codes, default=0) >= mask_decoder.CODES:
      rest.append(match[2])
      codes = []
    mask = None
    if codes and decoder is not None:
      mask = decode_mask(codes, box, height, width, decoder)
    detections.append(
      Detection(
        match[3].strip(),
        box,
        _to_pixels(box, height, width),
        bool(codes),
        mask,
      )
    )
  rest.append(text[end:])
  words = (part.strip(' ;') for part in rest)
  return ParsedAnswer(detections, ' ; '.join(filter(None, words)))


def decode_mask(
  codes: list[int],
  box: boxes.Box,
  height: int,
  width: int,
  decoder: mask_decoder.Params,
) -> Mask | None:
  """Returns the mask of sixteen codes at a picture's size; see `paste`."""
  logits = mask_decoder.decode(decoder, np.array([codes], np.int32))
  return paste(np.asarray(logits)[0], box, height, width)


def paste(
  logits: Float[np.ndarray, '64 64'], box: boxes.Box, height: int, width: int
) -> masks.Mask | None:
  """Puts a box's mask into a picture, as big_vision does.

  Args:
    logits: numbers that are positive inside of the mask.
    box: the box.
    height: of the picture in pixels.
    width: of the picture in pixels.

  Returns:
    The mask; None where the box is narrower than a pixel.
  """
  top, left = int(box.top * height), int(box.left * width)
  bottom, right = int(box.bottom * height), int(box.right * width)
  if right <= left or bottom <= top:
    return None
  small = Image.fromarray(np.asarray(logits, np.float32))
  scaled = small.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
  mask = np.zeros((height, width), bool)
  mask[top:bottom, left:right] = np.asarray(scaled) > 0
  return mask


def _to_pixels(
  box: boxes.Box, height: int, width: int
) -> tuple[int, int, int, int]:
  """Returns left, top, right and bottom in whole pixels."""
  top, left, bottom, right = box
  return (
    round(left * width),
    round(top * height),
    round(right * width),
    round(bottom * height),
  )
