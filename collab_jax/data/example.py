"""Examples that datasets yield, and their indices."""

import dataclasses
from typing import Any, SupportsIndex

from jaxtyping import UInt8
import numpy as np

from collab_jax.data import question


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """Picture with its reference captions, and questions about it.

  Attributes:
    image: u8[H W 3], sRGB, row 0 at the top.
    image_id: unique over all splits of a dataset and below 2**32, so that it
      can be folded into a random key.
    captions: the references, of which most datasets have five.
    info: a JSON-able description of the picture where one is known (the
      generated scenes), else empty.
    file: name of the picture's file in its dataset; '' where there is none.
    questions: prompts about the picture, with their answers.
  """

  image: UInt8[np.ndarray, 'H W 3']
  image_id: int
  captions: tuple[str, ...]
  info: dict[str, Any] = dataclasses.field(default_factory=dict)
  file: str = ''
  questions: tuple[question.Question, ...] = ()


def position(reader: Any, index: SupportsIndex) -> int:
  """Counts a negative index from the end; IndexError out of range."""
  try:
    return range(len(reader))[index]
  except IndexError:
    raise IndexError(
      f'{reader.name} has {len(reader)} pictures, got {index}'
    ) from None
