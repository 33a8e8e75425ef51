"""Training examples of a dataset of captioned pictures."""

import dataclasses
import functools
from typing import Any

import numpy as np

from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import batches

# Pictures whose captions are measured before a run.
_MEASURED = 100


@dataclasses.dataclass(frozen=True)
class CaptionedExamples:
  """Training examples by index, epoch after epoch.

    reader = data.coco('/data/coco', 'train', size=224)
    source = CaptionedExamples(reader, model.tokenizer, 'caption en', 40, 0)

  Each epoch has an order of its own, and each example one of its picture's
  captions, drawn. An example is a function of its index and the seed alone.

  Attributes:
    reader: A reader of pictures with captions, at the model's size.
    tokenizer: Tokenizer of the captions.
    prompt: Text between picture and caption.
    length: T, tokens of a row, padding included; what is longer is cut off.
    seed: Seed of the orders and of the choice of captions.
  """

  reader: Any
  tokenizer: tokenizer_lib.Tokenizer
  prompt: str
  length: int
  seed: int

  def __post_init__(self):
    used = len(self.tokenizer.prompt(self.prompt))
    if used >= self.length:
      raise ValueError(
        f'text_length: got {self.length}, expected more than the {used} tokens'
        f' of the prompt {self.prompt!r}'
      )

  def __len__(self) -> int:
    return batches.EXAMPLES

  def __getitem__(self, index: int) -> batches.Batch:
    epoch, place = divmod(index, len(self.reader))
    order = _order(self.seed, epoch, len(self.reader))
    example = self.reader[int(order[place])]
    draw = np.random.default_rng([self.seed, 1, index])
    caption = example.captions[draw.integers(len(example.captions))]
    return {
      'image': example.image,
      **batches.text(self.tokenizer, self.prompt, caption, self.length, True),
    }

  def describe(self) -> str:
    """Returns the number of pictures, and of captions that are cut off."""
    count = min(len(self.reader), _MEASURED)
    prompt = len(self.tokenizer.prompt(self.prompt))
    lengths = [
      prompt + len(self.tokenizer.encode(caption)) + 1
      for i in range(count)
      for caption in self.reader[i].captions
    ]
    line = f'{self.reader.name}: {len(self.reader):,} pictures'
    cut = sum(length > self.length for length in lengths)
    if not cut:
      return line
    return (
      f'{line}; {cut} of the first {len(lengths)} captions are cut off at'
      f' text_length, {self.length} tokens with the prompt; the longest has'
      f' {max(lengths)}'
    )


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
  """Draws the order of an epoch's pictures."""
  return np.random.default_rng([seed, 0, epoch]).permutation(count)
