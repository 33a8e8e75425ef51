"""Batches for training: pictures, tokens and labels of each patch."""

from collections.abc import Iterator
import dataclasses
from typing import Any

import grain.python as grain
import numpy as np

from collab_jax import data
from collab_jax.data import drawing, grammar, world
from collab_jax.models import tokenizer as tokenizer_lib

Batch = dict[str, np.ndarray]

# Number of different examples.
EXAMPLES = 2**28


@dataclasses.dataclass(frozen=True)
class TrainingExamples:
  """Training examples by index, each a function of the index alone.

  Attributes:
    tokenizer: Tokenizer of the captions.
    prompt: Text between picture and caption.
    length: T, tokens of a row, padding included.
    dense_only: Number of first examples that are all dense scenes.
    dense_share: Share of dense scenes among the later examples.
  """

  tokenizer: tokenizer_lib.Tokenizer
  prompt: str
  length: int
  dense_only: int
  dense_share: float

  def __len__(self) -> int:
    return EXAMPLES

  def __getitem__(self, index: int) -> Batch:
    # The golden ratio spreads the dense scenes evenly over the batches.
    spread = (index * 0.6180339887498949) % 1.0
    dense = index < self.dense_only or spread < self.dense_share
    scene = data.scenes('train_dense' if dense else 'train').scene(index)
    image, covers = drawing.draw(scene)
    captions = grammar.captions(scene, world.generator(scene.seed, 2), 1)
    return {
      'image': image,
      **self.text(captions[0]),
      **drawing.labels(scene, covers),
    }

  def text(self, caption: str) -> Batch:
    """Makes tokens, and masks as big_vision's: 1 from the first suffix token.

    Raises:
      ValueError: The caption does not fit into `length`.
    """
    prompt = self.tokenizer.prompt(self.prompt)
    suffix = [*self.tokenizer.encode(caption), self.tokenizer.eos_id]
    used = len(prompt) + len(suffix)
    if used > self.length:
      raise ValueError(
        f'{caption!r} takes {used} tokens with its prompt, text_length is'
        f' {self.length}'
      )
    padding = [self.tokenizer.pad_id] * (self.length - used)
    mask_ar = np.ones(self.length, np.int32)
    mask_ar[: len(prompt)] = 0
    mask_loss = np.zeros(self.length, np.float32)
    mask_loss[len(prompt) : used] = 1
    return {
      'tokens': np.asarray(prompt + suffix + padding, np.int32),
      'mask_ar': mask_ar,
      'mask_loss': mask_loss,
    }


def batches(
  source: TrainingExamples, batch_size: int, first: int, threads: int = 2
) -> Iterator[dict[str, Any]]:
  """Iterates over batches from number `first` on.

  A batch depends on its number alone, so that a run may resume anywhere.

  Args:
    source: The examples.
    batch_size: B.
    first: Number of the first batch; batch i holds examples i B to (i+1) B.
    threads: Threads that prepare batches ahead.

  Returns:
    An endless iterator of dicts of arrays with leading axis B.
  """
  examples = grain.MapDataset.source(source)[first * batch_size :]
  options = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=4 * batch_size
  )
  return iter(examples.to_iter_dataset(options).batch(batch_size))
