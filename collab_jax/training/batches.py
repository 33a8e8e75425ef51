"""Batches for training: pictures, tokens and labels of each patch."""

from collections.abc import Iterator
import dataclasses
from typing import Any

import grain.python as grain
from jax.sharding import Mesh
import numpy as np

from collab_jax import data, sharding
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
    dense = index < self.dense_only or is_dense(index, self.dense_share)
    scene = data.scenes('train_dense' if dense else 'train').scene(index)
    image, covers = drawing.draw(scene)
    captions = grammar.captions(scene, world.generator(scene.seed, 2), 1)
    return {
      'image': image,
      **text(self.tokenizer, self.prompt, captions[0], self.length),
      **drawing.labels(scene, covers),
    }


def is_dense(index: int, share: float) -> bool:
  """Whether a scene is a dense one, where a share of them is to be."""
  # The golden ratio spreads them evenly over the batches.
  return (index * 0.6180339887498949) % 1.0 < share


def text(
  tokenizer: tokenizer_lib.Tokenizer,
  prompt: str,
  caption: str,
  length: int,
  cut: bool = False,
) -> Batch:
  """Makes tokens, and masks as big_vision's: 1 from the first suffix token.

  Args:
    tokenizer: Tokenizer of prompt and caption.
    prompt: Text between picture and caption.
    caption: The caption, after which the end is marked.
    length: T, tokens of a row, padding included.
    cut: Cut off what is longer, the mark of the end too, as big_vision does.

  Raises:
    ValueError: The caption does not fit into `length`, and is not cut.
  """
  prefix = tokenizer.prompt(prompt)
  suffix = [*tokenizer.encode(caption), tokenizer.eos_id]
  used = len(prefix) + len(suffix)
  if used > length and not cut:
    raise ValueError(
      f'{caption!r} takes {used} tokens with its prompt, text_length is'
      f' {length}'
    )
  used = min(used, length)
  tokens = (prefix + suffix)[:length]
  mask_ar = np.ones(length, np.int32)
  mask_ar[: len(prefix)] = 0
  mask_loss = np.zeros(length, np.float32)
  mask_loss[len(prefix) : used] = 1
  padding = [tokenizer.pad_id] * (length - used)
  return {
    'tokens': np.asarray(tokens + padding, np.int32),
    'mask_ar': mask_ar,
    'mask_loss': mask_loss,
  }


@dataclasses.dataclass(frozen=True)
class _Part:
  """Examples of some rows of each batch, batch after batch.

  Attributes:
    source: All examples.
    batch_size: Rows of a batch.
    rows: The rows.
  """

  source: Any
  batch_size: int
  rows: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.source) // self.batch_size * len(self.rows)

  def __getitem__(self, index: int) -> Batch:
    batch, place = divmod(index, len(self.rows))
    return self.source[batch * self.batch_size + self.rows[place]]


def batches(
  source: Any,
  batch_size: int,
  first: int,
  threads: int = 2,
  mesh: Mesh | None = None,
) -> Iterator[dict[str, Any]]:
  """Iterates over batches from number `first` on.

  A batch depends on its number alone, so that a run may resume anywhere.

  Args:
    source: The examples by index: `TrainingExamples`, `CaptionedExamples`.
    batch_size: B.
    first: Number of the first batch; batch i holds examples i B to (i+1) B.
    threads: Threads that prepare batches ahead.
    mesh: Of several processes each reads the rows of its devices alone.

  Returns:
    An endless iterator of dicts of arrays with leading axis B, or the number
    of those rows.

  Raises:
    ValueError: Of several processes, 'data' does not divide the batch size.
  """
  rows = batch_size
  if sharding.spans_processes(mesh):
    places = tuple(sharding.process_rows(mesh, batch_size).tolist())
    source, rows = _Part(source, batch_size, places), len(places)
  examples = grain.MapDataset.source(source)[first * rows :]
  options = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=4 * rows
  )
  return iter(examples.to_iter_dataset(options).batch(rows))
