"""Reader of the generated scenes."""

import dataclasses
from typing import SupportsIndex

from collab_jax import _validate
from collab_jax.data import (
  drawing,
  example,
  files,
  grammar,
  scene_questions,
  world,
)


@dataclasses.dataclass(frozen=True)
class Scenes:
  """Split of the generated scenes, drawn on access.

  Random access, picklable: a source for `grain.python.MapDataset.source`.

  Attributes:
    split: a name in `world.SPLITS`.
    limit: largest number of scenes; None for all.
    questions: whether examples have questions, see `data.questions`.

  Raises:
    ValueError: unknown split or negative limit.
  """

  split: str
  limit: int | None = None
  questions: bool = False

  def __post_init__(self):
    if self.split not in world.SPLITS:
      raise _validate.unknown('split', self.split, world.SPLITS)
    files.check_limit(self.limit)

  @property
  def name(self) -> str:
    """Name in records and progress bars: 'scenes/' and the split."""
    return f'scenes/{self.split}'

  def __len__(self) -> int:
    size = world.SPLITS[self.split][1]
    return size if self.limit is None else min(size, self.limit)

  def scene(self, index: SupportsIndex) -> world.Scene:
    """Returns a scene without drawing it; IndexError out of range."""
    return world.sample(self.split, example.position(self, index))

  def __getitem__(self, index: SupportsIndex) -> example.Example:
    scene = self.scene(index)
    asked = scene_questions.questions(scene) if self.questions else ()
    return example.Example(
      image=drawing.render(scene),
      image_id=scene.image_id,
      captions=grammar.captions(scene, world.generator(scene.seed, 2)),
      info=scene.info(),
      questions=asked,
    )


def scenes(
  split: str = 'test', limit: int | None = None, questions: bool = False
) -> Scenes:
  """Makes a reader of generated scenes, 64 px, five references each.

  Args:
    split: 'train' (10**9 scenes), 'val' (1000), 'test' (2000), 'dense' (1000
      scenes of 6 to 10 objects) or 'train_dense'.
    limit: largest number of scenes; None for all.
    questions: whether examples have questions, too.

  Returns:
    A reader with `__len__` and `__getitem__(int) -> Example`.

  Raises:
    ValueError: unknown split or negative limit.
  """
  return Scenes(split, limit, questions)
