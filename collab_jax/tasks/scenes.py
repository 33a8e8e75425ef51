"""Questions about the generated scenes, which need no files."""

import collections
from collections.abc import Iterable
import dataclasses
import itertools
import os
from typing import ClassVar

from collab_jax import _validate, data
from collab_jax.data import asked, example, files, scene_questions, world
from collab_jax.tasks import base

_DETECT = 'detect'
# Kinds that every scene has; of the others each is looked at.
_EVERYWHERE = frozenset(('count', 'yes_no', _DETECT))
_WORDS = tuple(kind for kind in scene_questions.KINDS if kind != _DETECT)


class SceneTask(base.Task):
  """Task of generated scenes: those that have questions of some kinds.

  Attributes:
    most: Most questions of a kind about a scene, the first ones; 0 for all.
  """

  most: int
  preprocess: ClassVar[str] = 'hf_bicubic'  # Scenes are not resized.
  splits: ClassVar[tuple[str, ...]] = ('test', 'val', 'dense')
  checkpoints: ClassVar[tuple[str, ...]] = ('tiny',)
  licence: ClassVar[str] = 'that of this package'

  @property
  def kinds(self) -> tuple[str, ...]:
    """Kinds of the task's questions."""
    raise NotImplementedError

  def load(
    self,
    folder: str | os.PathLike[str] = '',
    split: str = '',
    limit: int | None = None,
    size: int = 64,
    method: str = '',
  ) -> asked.Asked:
    """Makes a reader; see `Task.load`. There is no folder, and one size."""
    del folder, size, method
    split = self.choose_split(split)
    files.check_limit(limit)
    scenes = data.scenes(split, questions=True)
    indices: Iterable[int] = range(len(scenes))
    if not _EVERYWHERE & {*self.kinds}:
      indices = (i for i in indices if self._has_any(scenes.scene(i)))
    reader = data.Subset(scenes, tuple(itertools.islice(indices, limit)))
    return asked.Asked(
      reader,
      self._questions,
      warning=self.warning(split),
    )

  def _questions(self, picture: example.Example) -> asked.Questions:
    return self._chosen(picture.questions)

  def _has_any(self, scene: world.Scene) -> bool:
    return bool(self._chosen(scene_questions.questions(scene)))

  def _chosen(self, questions: asked.Questions) -> asked.Questions:
    """Returns the questions of the task's kinds, of each the first ones."""
    chosen, counts = [], collections.Counter[str]()
    for asked_one in questions:
      counts[asked_one.kind] += 1
      few = not self.most or counts[asked_one.kind] <= self.most
      if few and asked_one.kind in self.kinds:
        chosen.append(asked_one)
    return tuple(chosen)


@dataclasses.dataclass(frozen=True)
class SceneQuestions(SceneTask):
  """Questions about generated scenes that are answered in words.

    SceneQuestions().load(split='test', limit=100)
    SceneQuestions('count')

  Attributes:
    kind: 'colour', 'shape', 'texture', 'size', 'count', 'relation' or 'yes_no';
      '' for all.
    without: Kind that is not asked for; '' for none.
    most: Most questions of a kind about a scene, the first ones; 0 for all.
  """

  kind: str = ''
  without: str = ''
  most: int = 0
  max_tokens: ClassVar[int] = 8
  metrics: ClassVar[tuple[str, ...]] = ('exact',)

  def __post_init__(self):
    _validate.choice('kind', self.kind, ('', *_WORDS))
    _validate.choice('without', self.without, ('', *_WORDS))
    _validate.integer('most', self.most, 0)
    if self.kind and self.without:
      raise _validate.error(
        'without', self.without, f"'' beside kind={self.kind}"
      )

  @property
  def label(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
    """Name with the kind."""
    return f'scenes: {self.kind}' if self.kind else 'scenes: questions'

  @property
  def kinds(self) -> tuple[str, ...]:
    """The kind, or all of words."""
    if self.kind:
      return (self.kind,)
    return tuple(kind for kind in _WORDS if kind != self.without)


@dataclasses.dataclass(frozen=True)
class SceneBoxes(SceneTask):
  """Detection of the things of generated scenes that a phrase means.

    SceneBoxes().load(split='test', limit=100)

  Attributes:
    most: Most questions about a scene, the first ones; 0 for all.
  """

  most: int = 0
  label: ClassVar[str] = 'scenes: boxes'
  max_tokens: ClassVar[int] = 48
  metrics: ClassVar[tuple[str, ...]] = (
    'box_matches',
    'box_matches(iou=0.75)',
    'box_iou',
  )

  def __post_init__(self):
    _validate.integer('most', self.most, 0)

  @property
  def kinds(self) -> tuple[str, ...]:
    """Detection alone."""
    return (_DETECT,)
