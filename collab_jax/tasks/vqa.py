"""Questions about photographs of which ten people gave answers."""

from collections.abc import Iterator
import csv
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from collab_jax import _validate
from collab_jax.data import files, question
from collab_jax.tasks import base, listed

_COCO = {'val': 'val2014', 'train': 'train2014'}
# OK-VQA's names of the kinds of knowledge.
_KNOWLEDGE = {
  'one': 'vehicles',
  'two': 'brands',
  'three': 'objects',
  'four': 'sports',
  'five': 'food',
  'six': 'geography',
  'seven': 'people',
  'eight': 'plants and animals',
  'nine': 'science',
  'ten': 'weather',
}


class CocoVqa(listed.ListedTask):
  """Task in VQA's format: a list of questions, and one of annotations."""

  prompt: str
  questions_file: ClassVar[str]
  annotations_file: ClassVar[str]

  def kind(self, annotation: dict[str, Any]) -> str:
    """Returns the kind of an annotated question."""
    return str(annotation.get('answer_type', ''))

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads both lists and joins them by the questions' ids."""
    year = _COCO[split]
    paths = [
      listed.find(folder, [name.format(year)], kind)
      for name, kind in (
        (self.questions_file, 'list of questions'),
        (self.annotations_file, 'list of answers'),
      )
    ]
    return listed.Listing(paths[0], self._rows(folder, year, *paths))

  def _rows(
    self, folder: Path, year: str, asking: Path, answering: Path
  ) -> Iterator[listed.Row]:
    answered = {}
    answers = files.field(
      listed.table(answering), 'annotations', list, str(answering)
    )
    for i, item in enumerate(answers):
      where = f'{answering}: annotations[{i}]'
      answered[files.field(item, 'question_id', int, where)] = item, where
    items = files.field(listed.table(asking), 'questions', list, str(asking))
    for i, item in enumerate(items):
      where = f'{asking}: questions[{i}]'
      image_id = files.field(item, 'image_id', int, where)
      number = files.field(item, 'question_id', int, where)
      text = files.field(item, 'question', str, where)
      if number not in answered:
        raise _validate.error(
          f'{where}: question_id', number, f'one that {answering} answers'
        )
      annotation, place = answered[number]
      given = files.field(annotation, 'answers', list, place)
      references = tuple(
        files.field(one, 'answer', str, f'{place}: answers[{n}]')
        for n, one in enumerate(given)
      )
      if not references:
        raise _validate.error(f'{place}: answers', given, 'at least one')
      query = question.Question(
        base.filled(self.prompt, question=text),
        references,
        self.kind(annotation),
        str(number),
      )
      path = folder / year / f'COCO_{year}_{image_id:012d}.jpg'
      yield listed.Row(path, image_id, query)


@dataclasses.dataclass(frozen=True)
class OkVqa(CocoVqa):
  """OK-VQA: questions that need knowledge of the world.

    OkVqa().load('/data/okvqa', 'val')

  Attributes:
    prompt: text with {question}, as the model gets it.

  Source: Marino et al., arXiv 1906.00067; big_vision's `transfers/okvqa.py`.
  """

  prompt: str = 'answer en {question}'
  label: ClassVar[str] = 'OK-VQA'
  metrics: ClassVar[tuple[str, ...]] = ('vqa_matches', 'vqa')
  splits: ClassVar[tuple[str, ...]] = ('val', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train',)
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-okvqa',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'okvqa', 'vqa_matches', 'val', 63.54, 63.15
  )
  questions_file: ClassVar[str] = 'OpenEnded_mscoco_{}_questions.json'
  annotations_file: ClassVar[str] = 'mscoco_{}_annotations.json'
  files: ClassVar[tuple[str, ...]] = (
    'OpenEnded_mscoco_val2014_questions.json',
    'mscoco_val2014_annotations.json',
    'val2014/COCO_val2014_*.jpg',
  )
  url: ClassVar[str] = 'https://okvqa.allenai.org/download.html'
  licence: ClassVar[str] = 'not stated; pictures of COCO'

  def kind(self, annotation: dict[str, Any]) -> str:
    """Returns the kind of knowledge that a question needs."""
    name = str(annotation.get('question_type', ''))
    return _KNOWLEDGE.get(name, name)


@dataclasses.dataclass(frozen=True)
class VqaV2(CocoVqa):
  """VQAv2: questions about photographs, with answers of ten people.

    VqaV2().load('/data/vqav2', 'val')

  The answers of the test splits are with the server alone, and the fine-tuned
  checkpoints were trained on val, too.

  Attributes:
    prompt: text with {question}, as the model gets it.

  Source: Goyal et al., arXiv 1612.00837; big_vision's `transfers/vqav2.py`.
  """

  prompt: str = 'answer en {question}'
  label: ClassVar[str] = 'VQAv2'
  metrics: ClassVar[tuple[str, ...]] = ('vqa',)
  splits: ClassVar[tuple[str, ...]] = ('val', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train', 'val')
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-vqav2',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'vqav2', 'vqa', 'test-std', 83.19, 85.64
  )
  questions_file: ClassVar[str] = 'v2_OpenEnded_mscoco_{}_questions.json'
  annotations_file: ClassVar[str] = 'v2_mscoco_{}_annotations.json'
  files: ClassVar[tuple[str, ...]] = (
    'v2_OpenEnded_mscoco_val2014_questions.json',
    'v2_mscoco_val2014_annotations.json',
    'val2014/COCO_val2014_*.jpg',
  )
  url: ClassVar[str] = 'https://visualqa.org/download.html'
  licence: ClassVar[str] = 'CC BY 4.0; pictures of COCO'


@dataclasses.dataclass(frozen=True)
class TextVqa(listed.ListedTask):
  """TextVQA: questions about text in photographs.

    TextVqa().load('/data/textvqa', 'val')

  Where `train_images/rotation.csv` of OpenImages is there, the pictures that it
  lists are turned upright, as in big_vision.

  Attributes:
    prompt: text with {question}, as the model gets it.

  Source: Singh et al., arXiv 1904.08920; big_vision's `transfers/textvqa.py`.
  """

  prompt: str = 'answer en {question}'
  label: ClassVar[str] = 'TextVQA'
  metrics: ClassVar[tuple[str, ...]] = ('vqa', 'anls')
  splits: ClassVar[tuple[str, ...]] = ('val', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train', 'val')
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-textvqa',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'textvqa', 'vqa', 'test-std', 55.47, 73.15, 76.48
  )
  files: ClassVar[tuple[str, ...]] = (
    'TextVQA_0.5.1_val.json',
    'train_images/*.jpg',
    'train_images/rotation.csv (if there)',
  )
  url: ClassVar[str] = 'https://textvqa.org/dataset'
  licence: ClassVar[str] = 'CC BY 4.0'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the list of a split, and the pictures that lie on their side."""
    path = listed.find(
      folder, [f'TextVQA_0.5.1_{split}.json'], 'list of questions'
    )
    items = files.field(listed.table(path), 'data', list, str(path))
    names = [
      files.field(item, 'image_id', str, f'{path}: data[{i}]')
      for i, item in enumerate(items)
    ]
    ids = files.stable_ids(names)
    turns = rotations(folder / 'train_images' / 'rotation.csv')
    rows = []
    for i, (name, item) in enumerate(zip(names, items, strict=True)):
      where = f'{path}: data[{i}]'
      text = files.field(item, 'question', str, where)
      number = files.field(item, 'question_id', int, where)
      query = question.Question(
        base.filled(self.prompt, question=text),
        listed.texts(item, 'answers', where),
        id=str(number),
      )
      picture = files.inside(folder / 'train_images', f'{name}.jpg', where)
      rows.append(
        listed.Row(picture, ids[name], query, turns=turns.get(name, 0))
      )
    return listed.Listing(path, rows)


def rotations(path: Path) -> dict[str, int]:
  """Reads the quarter turns of pictures from OpenImages' list, if it is there.

  Raises:
    ValueError: it has other columns, or angles.
  """
  if not path.is_file():
    return {}
  turns = {}
  with path.open(newline='', encoding='utf-8') as file:
    for number, line in enumerate(csv.DictReader(file), 2):
      angle = line.get('Rotation')
      if 'ImageID' not in line or angle is None:
        raise _validate.error(
          f'{path}:{number}', [*line], 'the columns ImageID and Rotation'
        )
      if angle not in _TURNS:
        raise _validate.error(f'{path}:{number}: Rotation', angle, '0 to 270')
      turns[line['ImageID']] = _TURNS[angle]
  return turns


_TURNS = {
  text: turn
  for turn, angle in enumerate((0, 90, 180, 270))
  for text in (str(angle), f'{angle}.0')
} | {'': 0}
