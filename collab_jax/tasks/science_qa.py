"""ScienceQA: school questions with choices, those that have a picture."""

import dataclasses
from pathlib import Path
import re
from typing import Any, ClassVar

from collab_jax import _validate
from collab_jax.data import files, question
from collab_jax.tasks import base, listed

_LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
_ANSWER = re.compile(r'the answer is ([a-z])\.')


@dataclasses.dataclass(frozen=True)
class ScienceQa(listed.ListedTask):
  """ScienceQA with pictures: the letter of the right choice.

    ScienceQa().load('/data/ScienceQA_DATA', 'test')

  An answer begins with 'The answer is B.'; any other text is wrong. Choices
  stand in the order of the list.

  Attributes:
    prompt: text with {question}, {hint} and {options}, as the model gets it.

  Source: Lu et al., arXiv 2209.09513; big_vision's `transfers/science_qa.py`.
  """

  prompt: str = (
    'Question: {question}\nContext: {hint}\nOptions: {options}\nAnswer:'
  )
  label: ClassVar[str] = 'ScienceQA'
  max_tokens: ClassVar[int] = 512
  preprocess: ClassVar[str] = 'bv_bilinear'
  metrics: ClassVar[tuple[str, ...]] = ('choice',)
  splits: ClassVar[tuple[str, ...]] = ('test', 'val', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train', 'val')
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-science-qa',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'science-qa', 'choice', 'test', 95.39, 95.93
  )
  files: ClassVar[tuple[str, ...]] = ('problems.json', 'test/*/image.png')
  url: ClassVar[str] = 'https://scienceqa.github.io/#download'
  licence: ClassVar[str] = 'CC BY-NC-SA 4.0'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the problems of a split that have a picture."""
    path = listed.find(folder, ['problems.json'], 'list of problems')
    pictures = listed.find_folder(folder, (split, f'images/{split}'))
    rows = []
    for name, item in listed.table(path).items():
      where = f'{path}: {name}'
      if files.field(item, 'split', str, where) != split:
        continue
      if not item.get('image'):
        continue  # A question without a picture is none for this task.
      if not (name.isdecimal() and len(name) < 10):
        raise _validate.error(where, name, 'a number as the id')
      picture = files.inside(
        pictures / name, files.field(item, 'image', str, where), where
      )
      query = self._question(item, where, name)
      rows.append(listed.Row(picture, int(name), query))
    return listed.Listing(path, rows)

  def _question(self, item: Any, where: str, name: str) -> question.Question:
    choices = listed.texts(item, 'choices', where)
    right = files.field(item, 'answer', int, where)
    _validate.integer(f'{where}: choices', len(choices), 1, len(_LETTERS))
    _validate.integer(f'{where}: answer', right, 0, len(choices) - 1)
    prompt = base.filled(
      self.prompt,
      question=files.field(item, 'question', str, where),
      hint=files.field(item, 'hint', str, where) or 'N/A',
      options=', '.join(
        f'({letter}) {choice}'
        for letter, choice in zip(_LETTERS, choices, strict=False)
      ),
    )
    kind = str(item.get('subject', ''))
    return question.Question(prompt, (_LETTERS[right].lower(),), kind, name)

  def read(self, text: str, asked: question.Question) -> str:
    """Returns the letter behind 'the answer is', '' without one."""
    del asked
    match = _ANSWER.match(text.lower())
    return match[1] if match else ''

  def write(self, asked: question.Question) -> str:
    """Returns the sentence with the right letter."""
    return f'The answer is {asked.references[0].upper()}.'
