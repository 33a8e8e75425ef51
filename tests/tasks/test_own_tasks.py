"""Mistakes in tasks of one's own are refused, in words that say what to do."""

import dataclasses
import re
import sys
from typing import ClassVar

import pytest

from collab_jax import data, registry, tasks, testing
from collab_jax.tasks import base
from tests.data import photos


@dataclasses.dataclass(frozen=True)
class Placards(tasks.ListedTask):
  """Reads two pictures with two questions each, and makes a mistake."""

  fault: str = ''
  prompt: str = 'read {question}'
  label: ClassVar[str] = 'placards'
  metrics: ClassVar[tuple[str, ...]] = ('exact',)

  def listing(self, folder, split):
    rows = [
      tasks.Row(
        folder / f'{i}.jpg',
        0 if self.fault == 'ids' else i,
        data.Question(
          self.prompt.format(question=f'word {n}'), ('stop', 'halt'), '', str(k)
        ),
      )
      for k, (i, n) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)])
    ]
    if self.fault == 'list':
      return rows
    if self.fault == 'rows':
      return tasks.Listing(folder, [tuple(row) for row in rows])
    if self.fault == 'crash':
      return {}['picture']
    if self.fault == 'lazy':
      return tasks.Listing(folder, (rows[i] for i in range(9)))
    return tasks.Listing(folder / 'test.csv', rows)

  def read(self, text, asked):
    if self.fault == 'maybe':
      return 'maybe'
    if self.fault == 'first':
      return text.split()[0]
    return text


class Undecorated(tasks.ListedTask):
  """Lacks the decorator."""

  def listing(self, folder, split):
    raise NotImplementedError


@pytest.fixture(name='folder')
def _folder(tmp_path):
  for i in range(2):
    photos.write(tmp_path / f'{i}.jpg', i)
  return tmp_path


@pytest.mark.parametrize(
  ('fault', 'kind', 'said'),
  [
    (
      'ids',
      ValueError,
      "FOLDER/test.csv: file of picture 0: got 'FOLDER/1.jpg', expected"
      ' FOLDER/0.jpg, as of its first row; give each file an image_id of its'
      ' own',
    ),
    (
      'list',
      TypeError,
      "Placards.listing: got 'list', expected tasks.Listing(path, rows) of"
      ' tasks.Row(path, image_id, question); return the file of the list, for'
      ' errors, with the rows',
    ),
    ('rows', TypeError, 'Placards.listing: row 0: got ('),
    (
      'crash',
      ValueError,
      "Placards.listing of FOLDER, test: got KeyError('picture'), expected",
    ),
    ('lazy', ValueError, 'Placards.listing of FOLDER, test: got IndexError('),
  ],
)
def test_faulty_lists_are_refused(folder, fault, kind, said):
  with pytest.raises(kind) as error:
    Placards(fault).load(folder)
  assert str(error.value).replace(str(folder), 'FOLDER').startswith(said)


def test_a_prompt_without_the_question_is_refused(folder):
  said = r"prompt: got 'foo', expected a text with \{question\} in it"
  with pytest.raises(ValueError, match=said):
    Placards(prompt='foo').load(folder)
  assert len(Placards(prompt='{question} here').load(folder)) == 2


@pytest.mark.parametrize(
  ('fault', 'said'),
  [
    (
      'maybe',
      "Placards: question '0': `write` writes 'stop', `read` of it is 'maybe',"
      " whose exact match is 0, and that of a reference, 'stop', 1; let `read`",
    ),
    (
      'first',
      "Placards.read of '': got IndexError('list index out of range'), expected"
      " a text; return '' where a text holds no answer",
    ),
  ],
)
def test_what_is_read_of_right_answers_is_checked(folder, fault, said):
  testing.check_task(Placards(), folder)
  with pytest.raises(AssertionError) as error:
    testing.check_task(Placards(fault), folder)
  assert str(error.value).startswith(said)


def test_a_text_that_cannot_be_read_is_named_in_an_evaluation(folder):
  task = Placards('first')
  question = task.load(folder)[0].questions[0]
  assert base.read_answer(task, 'stop now', question) == 'stop'
  with pytest.raises(ValueError, match=r"Placards\.read of ' ': got IndexErr"):
    base.read_answer(task, ' ', question)


@pytest.mark.parametrize(
  ('name', 'kind', 'said'),
  [
    (
      'no_such_module:Placards',
      ModuleNotFoundError,
      "task: got 'no_such_module:Placards', expected a module on the path, and"
      ' there is no no_such_module; start in its folder, or put that on'
      ' PYTHONPATH',
    ),
    (
      'tests.no_such:Placards',
      ModuleNotFoundError,
      "task: got 'tests.no_such:Placards', expected a module on the path, and"
      ' there is no tests.no_such; start',
    ),
    (
      'asks.YesNo',
      ValueError,
      "task: got 'asks.YesNo', expected a name of the package, or"
      " 'package.module:Class'; write 'asks:YesNo' if it is a class of your"
      ' own',
    ),
    (
      f'{__name__}:Undecorated',
      ValueError,
      f"task: got '{__name__}:Undecorated', expected a frozen dataclass; write"
      ' @dataclasses.dataclass(frozen=True) above its class',
    ),
  ],
)
def test_names_of_no_task_say_what_to_do(name, kind, said):
  with pytest.raises(kind, match=re.escape(said)):
    tasks.make(name)


def test_what_a_module_lacks_itself_is_told_as_it_is(tmp_path, monkeypatch):
  (tmp_path / 'needs_other.py').write_text('import no_such_module\n')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match=r'^No module named'):
    registry.load('task', 'needs_other:Placards')
  sys.modules.pop('needs_other', None)
