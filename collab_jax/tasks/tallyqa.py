"""TallyQA: how many things of a description a photograph shows."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from collab_jax import _validate
from collab_jax.data import files, question
from collab_jax.tasks import base, listed


@dataclasses.dataclass(frozen=True)
class TallyQa(listed.ListedTask):
  """TallyQA: counts, of simple and of complex descriptions.

    TallyQa().load('/data/tallyqa', 'test')

  Attributes:
    prompt: text with {question}, as the model gets it.

  Source: Acharya et al., arXiv 1810.12440; big_vision's
  `transfers/tallyqa.py`.
  """

  prompt: str = 'answer en {question}'
  label: ClassVar[str] = 'TallyQA'
  metrics: ClassVar[tuple[str, ...]] = ('count',)
  splits: ClassVar[tuple[str, ...]] = ('test', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train',)
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-tallyqa',)
  published: ClassVar[tuple[base.Published, ...]] = (
    *base.published('tallyqa', 'count', 'test', 81.72, 84.86, kind='simple'),
    *base.published('tallyqa', 'count', 'test', 69.56, 72.27, kind='complex'),
  )
  files: ClassVar[tuple[str, ...]] = (
    'test.json',
    'VG_100K/*.jpg',
    'VG_100K_2/*.jpg',
    'val2014/COCO_val2014_*.jpg (train: train2014, too)',
  )
  url: ClassVar[str] = 'https://github.com/manoja328/TallyQA_dataset'
  licence: ClassVar[str] = 'not stated; pictures of COCO and Visual Genome'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the list of a split."""
    path = listed.find(folder, [f'{split}.json'], 'list of questions')
    items = files.parse_list(path.read_bytes(), str(path))
    names = [
      files.field(item, 'image', str, f'{path}: [{i}]')
      for i, item in enumerate(items)
    ]
    ids = files.stable_ids(names)
    rows = []
    for i, (name, item) in enumerate(zip(names, items, strict=True)):
      where = f'{path}: [{i}]'
      answer = listed.number(item, 'answer', where)
      number = listed.number(item, 'question_id', where)
      simple = item.get('issimple')
      if simple not in (None, True, False):
        raise _validate.error(f'{where}: issimple', simple, 'true or false')
      kinds = {None: '', True: 'simple', False: 'complex'}
      query = question.Question(
        base.filled(
          self.prompt, question=files.field(item, 'question', str, where)
        ),
        (str(answer),),
        kinds[simple],
        str(number),
      )
      picture = files.inside(folder, name, where)
      rows.append(listed.Row(picture, ids[name], query))
    return listed.Listing(path, rows)
