"""Reader of pictures with questions about each."""

from collections.abc import Callable
import dataclasses
from typing import Any, SupportsIndex

import numpy as np

from collab_jax.data import example, question

Questions = tuple[question.Question, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Asked:
  """Reader of pictures, and of the questions about each.

    Asked(cj.data.coco('/data/coco'), questions)

  Attributes:
    pictures: reader of the pictures.
    questions: those about each picture, in its order; or a function that makes
      them of the picture's example.
    turns: quarter turns that put a picture upright, against the clock; empty
      where all are upright.
    warning: text about the dataset that a user should read; '' for none.
  """

  pictures: Any
  questions: tuple[Questions, ...] | Callable[[example.Example], Questions]
  turns: tuple[int, ...] = ()
  warning: str = ''

  @property
  def name(self) -> str:
    """Name in records and progress bars, of the pictures' reader."""
    return self.pictures.name

  @property
  def method(self) -> str | None:
    """Method of resizing, of the pictures' reader; None if it has none."""
    return getattr(self.pictures, 'method', None)

  @property
  def found(self) -> str:
    """Words on what was found, of the pictures' reader; '' for none."""
    return getattr(self.pictures, 'found', '')

  @property
  def entries(self) -> tuple[Any, ...]:
    """Entries of the pictures' list; none where there is no list."""
    return getattr(self.pictures, 'entries', ())

  def __len__(self) -> int:
    return len(self.pictures)

  def __repr__(self) -> str:
    """Shows the number of pictures, not all questions."""
    return f'Asked({self.name!r}, {len(self)} pictures)'

  def __getitem__(self, index: SupportsIndex) -> example.Example:
    """Reads a picture; errors are those of the pictures' reader."""
    place = example.position(self, index)
    picture = self.pictures[place]
    if self.turns and self.turns[place]:
      # The picture is square: that it was resized before changes nothing.
      image = np.ascontiguousarray(np.rot90(picture.image, self.turns[place]))
      picture = dataclasses.replace(picture, image=image)
    if callable(self.questions):
      questions = self.questions(picture)
    else:
      questions = self.questions[place]
    return dataclasses.replace(picture, questions=questions)

  def check(self, index: SupportsIndex) -> None:
    """Raises the error that reading the picture would, if it is damaged."""
    if hasattr(self.pictures, 'check'):
      self.pictures.check(index)
