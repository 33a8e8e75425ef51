"""GQA: questions made from scene graphs of photographs."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from collab_jax.data import files, question
from collab_jax.tasks import base, listed


@dataclasses.dataclass(frozen=True)
class Gqa(listed.ListedTask):
  """GQA: one right answer, by the kinds of the question's structure.

    Gqa().load('/data/gqa', 'testdev_balanced')

  Attributes:
    prompt: text with {question}, as the model gets it.

  Source: Hudson and Manning, arXiv 1902.09506; big_vision's
  `transfers/gqa.py`.
  """

  prompt: str = 'answer en {question}'
  label: ClassVar[str] = 'GQA'
  preprocess: ClassVar[str] = 'bv_bilinear'
  metrics: ClassVar[tuple[str, ...]] = ('exact',)
  splits: ClassVar[tuple[str, ...]] = (
    'testdev_balanced',
    'val_balanced',
    'train_balanced',
  )
  seen: ClassVar[tuple[str, ...]] = ('train_balanced', 'val_balanced')
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-gqa',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'gqa', 'exact', 'testdev_balanced', 65.61, 67.03
  )
  files: ClassVar[tuple[str, ...]] = (
    'testdev_balanced_questions.json',
    'images/*.jpg',
  )
  url: ClassVar[str] = 'https://cs.stanford.edu/people/dorarad/gqa'
  licence: ClassVar[str] = 'CC BY 4.0'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the questions of a split, an object by their ids."""
    path = listed.find(folder, [f'{split}_questions.json'], 'list of questions')
    items = listed.table(path)
    names = {
      number: files.field(item, 'imageId', str, f'{path}: {number}')
      for number, item in items.items()
    }
    ids = files.stable_ids(names.values())
    rows = []
    for number, item in items.items():
      where = f'{path}: {number}'
      kinds = item.get('types')
      kind = kinds.get('structural', '') if isinstance(kinds, dict) else ''
      query = question.Question(
        base.filled(
          self.prompt, question=files.field(item, 'question', str, where)
        ),
        (files.field(item, 'answer', str, where),),
        str(kind),
        number,
      )
      name = names[number]
      picture = files.inside(folder / 'images', f'{name}.jpg', where)
      rows.append(listed.Row(picture, ids[name], query))
    return listed.Listing(path, rows)
