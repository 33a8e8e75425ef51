"""ChartQA and OCR-VQA: what charts and covers of books say."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from collab_jax import _validate
from collab_jax.data import files, question
from collab_jax.tasks import base, listed

_CHARTS = ('human', 'augmented')
_BOOKS = {'train': 1, 'val': 2, 'test': 3}


@dataclasses.dataclass(frozen=True)
class ChartQa(listed.ListedTask):
  """ChartQA: values and names in charts, by people and by templates.

    ChartQa().load('/data/ChartQA Dataset', 'test')

  No fine-tuned checkpoint was released. The published score is the mean over
  both kinds, which have as many questions.

  Attributes:
    prompt: text with {question}, as the model gets it.

  Source: Masry et al., arXiv 2203.10244; big_vision's `transfers/chartqa.py`.
  """

  prompt: str = '{question}'
  label: ClassVar[str] = 'ChartQA'
  max_tokens: ClassVar[int] = 48
  metrics: ClassVar[tuple[str, ...]] = ('relaxed', 'exact(case=ignore)')
  splits: ClassVar[tuple[str, ...]] = ('test', 'val', 'train')
  published: ClassVar[tuple[base.Published, ...]] = (
    base.Published('not released, 224 px', 57.08, 'relaxed', 'test'),
    base.Published('not released, 448 px', 71.36, 'relaxed', 'test'),
  )
  files: ClassVar[tuple[str, ...]] = (
    'test/test_human.json',
    'test/test_augmented.json',
    'test/png/*.png',
  )
  url: ClassVar[str] = 'https://github.com/vis-nlp/ChartQA'
  licence: ClassVar[str] = 'GPL-3.0'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the questions of people, then those of templates."""
    listed_questions = []
    for kind in _CHARTS:
      name = f'{split}/{split}_{kind}.json'
      path = listed.find(folder, [name], 'list of questions')
      items = files.parse_list(path.read_bytes(), str(path))
      listed_questions += [
        (kind, path, i, item) for i, item in enumerate(items)
      ]
    names = [
      files.field(item, 'imgname', str, f'{path}: [{i}]')
      for _, path, i, item in listed_questions
    ]
    ids = files.stable_ids(names)
    rows = []
    for name, (kind, path, i, item) in zip(
      names, listed_questions, strict=True
    ):
      where = f'{path}: [{i}]'
      query = question.Question(
        base.filled(
          self.prompt, question=files.field(item, 'query', str, where)
        ),
        (files.field(item, 'label', str, where),),
        kind,
        f'{kind}/{i}',
      )
      picture = files.inside(folder / split / 'png', name, where)
      rows.append(listed.Row(picture, ids[name], query))
    return listed.Listing(folder / split, rows)


@dataclasses.dataclass(frozen=True)
class OcrVqa(listed.ListedTask):
  """OCR-VQA: titles, authors and kinds of books by their covers.

    OcrVqa().load('/data/ocrvqa', 'test')

  Attributes:
    prompt: text with {question}, as the model gets it.

  Source: Mishra et al., ICDAR 2019; big_vision's `transfers/ocrvqa.py`.
  """

  prompt: str = 'answer en {question}'
  label: ClassVar[str] = 'OCR-VQA'
  metrics: ClassVar[tuple[str, ...]] = ('exact(case=ignore)', 'anls')
  splits: ClassVar[tuple[str, ...]] = ('test', 'val', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train', 'val')
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-ocrvqa',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'ocrvqa', 'exact(case=ignore)', 'test', 73.24, 75.60, 75.90
  )
  files: ClassVar[tuple[str, ...]] = ('dataset.json', 'images/*.jpg')
  url: ClassVar[str] = 'https://ocr-vqa.github.io'
  licence: ClassVar[str] = 'not stated'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the books of a split, each with its questions."""
    path = listed.find(folder, ['dataset.json'], 'list of books')
    books = {
      name: book
      for name, book in listed.table(path).items()
      if files.field(book, 'split', int, f'{path}: {name}') == _BOOKS[split]
    }
    ids = files.stable_ids(books)
    names = files.list_names(folder / 'images')
    rows = []
    for name, book in books.items():
      where = f'{path}: {name}'
      questions = listed.texts(book, 'questions', where)
      answers = files.field(book, 'answers', list, where)
      if len(answers) != len(questions):
        raise _validate.error(
          f'{where}: answers', len(answers), f'{len(questions)} of them'
        )
      files_of_book = (f'{name}{end}' for end in ('.jpg', '.png', '.gif'))
      file = next((n for n in files_of_book if n in names), f'{name}.jpg')
      picture = files.inside(folder / 'images', file, where)
      for i, (text, answer) in enumerate(zip(questions, answers, strict=True)):
        query = question.Question(
          base.filled(self.prompt, question=text),
          (str(answer),),
          '',
          f'{name}/{i}',
        )
        rows.append(listed.Row(picture, ids[name], query))
    return listed.Listing(path, rows)
