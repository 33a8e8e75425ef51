"""Blind baselines of a task: answers without the picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Array, Float
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import data as datasets
from collab_jax import sharding
from collab_jax.evaluation import batches, blind, texts


class BlindAnswers(blind.Blind):
  """Answers questions without the picture's own features; nothing is sent.

  Kinds are those of `Blind`: 'shuffled' asks the questions about a picture of
  another one's features.
  """

  def __init__(
    self,
    captioner: captioning.Captioner,
    kinds: Sequence[str],
    data: Any,
    seed: int = 0,
  ):
    """Prepares the baselines.

    Args:
      captioner: writes the answers.
      kinds: as of `Blind`.
      data: reader of the evaluated pictures, with their questions.
      seed: seed of the answers, where the decoding draws.

    Raises:
      ValueError: as of `Blind`.
    """
    super().__init__(captioner, kinds, len(data), seed)
    self._data = data
    self._shown_to = {j: i for i, j in enumerate(blind.sources(len(data)))}

  def dispatch(
    self, features: Float[Array, 'B N D'], batch: batches.Batch
  ) -> blind.Dispatched:
    """Dispatches what a batch needs of the device; see `Blind.dispatch`."""
    self._rows = size = sharding.row_count(features)
    asked = None
    if 'shuffled' in self.kinds:
      others = [self._data[self._shown_to[i]] for i in batch.indices]
      pictures = [
        texts.AskedPicture(int(row), example.image_id, example.questions)
        for row, example in zip(batch.rows, others, strict=False)
      ]
      counts = [len(example.questions) for example in others]
      asked = (
        counts,
        texts.dispatch_answers(
          self._captioner, self._prefix(features), self._seed, pictures, size
        ),
      )
    return blind.Dispatched(features if 'mean' in self.kinds else None, asked)

  def _fetch(self, ids: Any, batch: batches.Batch) -> list[Any]:
    del batch
    counts, chunks = ids
    return texts.fetch(self._captioner, chunks, counts)

  def texts(
    self, examples: Mapping[int, datasets.Example]
  ) -> dict[str, dict[int, list[str]]]:
    """Returns the answers about pictures; see `Blind.texts`."""
    self._gather()
    return {
      f'blind({kind})': self._write_answers(kind, examples)
      for kind in self.kinds
    }

  def _write_answers(
    self, kind: str, examples: Mapping[int, datasets.Example]
  ) -> dict[int, list[str]]:
    if kind == 'shuffled':
      shown = blind.sources(self._images)
      return {i: self._full[shown[i]] for i in examples}
    # All pictures look alike: an answer for each prompt is enough.
    asked = [each for e in examples.values() for each in e.questions]
    unique = {each.prompt: each for each in asked}
    pictures = [texts.AskedPicture(0, 0, [*unique.values()])]
    prefix = self._prefix(np.asarray(self._features(kind)))
    chunks = texts.dispatch_answers(
      self._captioner, prefix, self._seed, pictures, self._rows
    )
    (answers,) = texts.fetch(self._captioner, chunks, [len(unique)])
    by_prompt = dict(zip(unique, answers, strict=True))
    return {
      i: [by_prompt[each.prompt] for each in example.questions]
      for i, example in examples.items()
    }
