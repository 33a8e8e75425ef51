"""Answers as the demo page shows them: words, boxes and masks."""

import io
from typing import Any

from jaxtyping import Bool
import numpy as np
from PIL import Image

from collab_jax import tasks
from collab_jax.models import mask_decoder, tokenizer
from collab_jax.serving.web import visualize

_NO_BOX = (
  'The answer has no whole box: it is shown as text. Not every model was'
  ' trained to find things.'
)
_NO_DECODER = (
  'Masks need the weights of their decoder: start the page with'
  ' --mask_weights=/path/to/vae-oid.npz.'
)


def describe_answer(
  text: str,
  prompt: str,
  size: tuple[int, int],
  side: int,
  decoder: mask_decoder.Params | None = None,
) -> dict[str, Any]:
  """Describes an answer's boxes and masks for the page.

  Args:
    text: The answer.
    prompt: Its question.
    size: Width and height of the picture's file, in whose pixels boxes are.
    side: Side of the picture that is shown, of which masks are.
    decoder: Decoder of masks, if there is one.

  Returns:
    Plain values: 'boxes' with 'name', 'pixels' (left, top, right, bottom),
    'share' (of the picture, likewise), 'mask' (a data URL, or None) and
    'covers' (the mask's share of the picture); 'rest', text outside of boxes;
    and 'note', a sentence or ''.
  """
  width, height = size
  parts = tasks.parse_answer(text, height, width)
  shown = tasks.parse_answer(text, side, side, decoder)
  masks = [detection.mask for detection in shown.detections]
  described = []
  for found, mask in zip(parts.detections, masks, strict=True):
    top, left, bottom, right = found.share
    described.append(
      {
        'name': found.name,
        'pixels': found.pixels,
        'share': (left, top, right, bottom),
        'mask': None if mask is None else mask_url(mask),
        'covers': None if mask is None else float(mask.mean()),
      }
    )
  note = ''
  if not described and tokenizer.asks_for_places(prompt):
    note = _NO_BOX
  elif decoder is None and any(d.has_codes for d in parts.detections):
    note = _NO_DECODER
  return {'boxes': described, 'rest': parts.rest, 'note': note}


def mask_url(mask: Bool[np.ndarray, 'H W']) -> str:
  """Encodes a mask as a data URL, white inside and black outside."""
  file = io.BytesIO()
  Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(
    file, 'PNG', optimize=True
  )
  return visualize.data_url(file.getvalue())
