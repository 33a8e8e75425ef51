"""Blind baselines of a task: answers without the picture."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Bool, Float
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import data as datasets
from collab_jax import sharding
from collab_jax.evaluation import blind, texts


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
    self._batches = 0
    self._answers: dict[int, list[str]] = {}

  def dispatch(
    self, features: Float[Array, 'B N D'], image_ids: Sequence[int]
  ) -> blind.Dispatched:
    """Dispatches what a batch needs of the device; batches come in order."""
    del image_ids
    self._rows = size = sharding.row_count(features)
    chunks, others = [], self._others(self._batches * size, size)
    self._batches += 1
    if 'shuffled' in self.kinds:
      asked = [
        texts.AskedPicture(row, example.image_id, example.questions)
        for row, (_, example) in enumerate(others)
      ]
      chunks = texts.dispatch_answers(
        self._captioner, self._prefix(features), self._seed, asked, size
      )
    return blind.Dispatched(
      features if 'mean' in self.kinds else None, (others, chunks)
    )

  def _others(
    self, start: int, size: int
  ) -> list[tuple[int, datasets.Example]]:
    """Returns the pictures whose questions a batch's features are given."""
    if 'shuffled' not in self.kinds:
      return []
    indices = range(start, min(start + size, self._images))
    others = (self._shown_to[index] for index in indices)
    return [(i, self._data[i]) for i in others]

  def add(
    self,
    dispatched: blind.Dispatched,
    indices: Sequence[int],
    owned: Bool[np.ndarray, ' b'],
  ) -> None:
    """Waits for a batch and adds it; arguments as of `Blind.add`."""
    others, chunks = dispatched.ids
    counts = [len(example.questions) for _, example in others]
    answers = texts.fetch(self._captioner, chunks, counts)
    for (i, _), several in zip(others, answers, strict=True):
      self._answers[i] = several
    super().add(dispatched._replace(ids=None), indices, owned)

  def texts(
    self, examples: Sequence[datasets.Example]
  ) -> dict[str, list[list[str]]]:
    """Returns the answers about all pictures; see `Blind.texts`."""
    return {
      f'blind({kind})': self._write_answers(kind, examples)
      for kind in self.kinds
    }

  def _write_answers(
    self, kind: str, examples: Sequence[datasets.Example]
  ) -> list[list[str]]:
    if kind == 'shuffled':
      return [self._answers[i] for i in range(self._images)]
    # All pictures look alike: an answer for each prompt is enough.
    unique = {each.prompt: each for e in examples for each in e.questions}
    asked = [texts.AskedPicture(0, 0, [*unique.values()])]
    prefix = self._prefix(np.asarray(self._features(kind)))
    chunks = texts.dispatch_answers(
      self._captioner, prefix, self._seed, asked, self._rows
    )
    (answers,) = texts.fetch(self._captioner, chunks, [len(unique)])
    by_prompt = dict(zip(unique, answers, strict=True))
    return [[by_prompt[each.prompt] for each in e.questions] for e in examples]
