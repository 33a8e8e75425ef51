"""Tasks whose folder holds pictures, and lists with questions about them."""

import abc
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

from collab_jax import _validate
from collab_jax.data import asked, files, question
from collab_jax.tasks import base


class Row(NamedTuple):
  """Question about a picture, as a list has it.

  Attributes:
    path: the picture's file.
    image_id: its id; rows of one id are about one picture.
    question: the question, or a function that makes it when it is needed; one
      without an id gets the picture's and its place among the picture's.
    captions: references of the picture, where it has captions.
    turns: quarter turns against the clock that put the picture upright.
  """

  path: Path
  image_id: int
  question: question.Question | Callable[[], question.Question]
  captions: tuple[str, ...] = ()
  turns: int = 0


class Listing(NamedTuple):
  """List that was read: its file, for errors, and its rows."""

  path: Path
  rows: Iterable[Row]


class ListedTask(base.Task):
  """Task that reads a folder of pictures and a list of questions.

    @dataclasses.dataclass(frozen=True)
    class Signs(cj.tasks.ListedTask):
      label = 'signs'
      metrics = ('exact',)

      def listing(self, folder, split):
        path = folder / f'{split}.csv'
        lines = [line.split(',') for line in path.read_text().splitlines()]
        rows = [
          cj.tasks.Row(
            folder / name,
            int(number),
            cj.data.Question('answer en what is written here', (text,)),
          )
          for number, name, text in lines
        ]
        return cj.tasks.Listing(path, rows)

  A subclass writes `listing`; pictures, their order and the limit are taken
  care of. Rows of one id must name one file.
  """

  @abc.abstractmethod
  def listing(self, folder: Path, split: str) -> Listing:
    """Reads the list of a split.

    Args:
      folder: a folder that exists.
      split: a name in `splits`.

    Raises:
      FileNotFoundError: a list is missing.
      ValueError: it holds something else.
    """

  def load(
    self,
    folder: str | os.PathLike[str] = '',
    split: str = '',
    limit: int | None = None,
    size: int = 224,
    method: str = '',
  ) -> asked.Asked:
    """Makes a reader; see `Task.load`."""
    files.check_limit(limit)
    split = self.choose_split(split)
    base.check_prompt(self)  # A subclass may have its own __post_init__.
    name = f'{self.label}/{split}'
    get = f'; get {self.label} from {self.url}' if self.url else ''
    if not os.fspath(folder):
      raise _validate.error(
        'data_dir', '', f'the folder of {self.label}', get.removeprefix('; ')
      )
    try:
      if not Path(folder).is_dir():
        raise FileNotFoundError(
          f'{folder} is no folder, expected that of {self.label}'
        )
      listing = _listing(self, Path(folder), split)
      pictures, questions, turns = _grouped(listing, limit)
      if not pictures and limit != 0:
        raise _validate.error(
          str(listing.path), 'no questions', f'those of {self.label}, {split}'
        )
      reader = files.Files(
        name,
        tuple(pictures),
        listing.path,
        size,
        method or self.preprocess,
        captioned=False,
      )
    except FileNotFoundError as error:
      raise FileNotFoundError(f'{error}{get}') from error
    return asked.Asked(reader, questions, turns, self.warning(split))


class CaptionTask(ListedTask):
  """Task of captions: the list has texts of pictures, the prompt is for all."""

  prompt: str = 'caption en'

  def caption_rows(
    self, captions: Iterable[tuple[Path, int, Sequence[str]]]
  ) -> list[Row]:
    """Returns a row for each picture, whose references are its captions."""
    rows = []
    for path, image_id, texts in captions:
      lines = files.clean(texts)
      query = caption_question(self.prompt, image_id, lines)
      rows.append(Row(path, image_id, query, lines))
    return rows


def caption_question(
  prompt: str, image_id: int, captions: tuple[str, ...]
) -> question.Question:
  """Returns the question that asks for a picture's caption."""
  return question.Question(prompt, captions, 'caption', f'{image_id}/caption')


def _listing(task: ListedTask, folder: Path, split: str) -> Listing:
  """Returns what a task's `listing` returns, with its rows made and checked.

  Raises:
    ValueError: `listing` raised what does not say which file is wrong.
    TypeError: It returned something else, or rows of another kind.
  """
  title = f'{type(task).__name__}.listing'
  expected = 'tasks.Listing(path, rows) of tasks.Row(path, image_id, question)'
  try:
    found: Any = task.listing(folder, split)
    is_listing = isinstance(found, Listing)
    rows: list[Any] = list(found.rows) if is_listing else []
  except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
    raise _validate.error(
      f'{title} of {folder}, {split}',
      error,
      expected,
      'raise a ValueError where a file holds something else',
    ) from error
  if not is_listing:
    raise _validate.error(
      title,
      type(found).__name__,
      expected,
      'return the file of the list, for errors, with the rows',
      TypeError,
    )
  for number, row in enumerate(rows):
    if not isinstance(row, Row):
      raise _validate.error(
        f'{title}: row {number}', row, expected, '', TypeError
      )
  return Listing(found.path, rows)


def _grouped(listing: Listing, limit: int | None) -> tuple[Any, Any, Any]:
  """Returns the first pictures, their questions and their turns.

  Raises:
    ValueError: Two questions about a picture have one id, or one id is of two
      files.
  """
  entries: dict[int, Row] = {}
  questions: dict[int, list[question.Question]] = {}
  for row in listing.rows:
    if row.image_id not in entries:
      if limit is not None and len(entries) >= limit:
        continue
      entries[row.image_id] = row
      questions[row.image_id] = []
    elif row.path != entries[row.image_id].path:
      raise _validate.error(
        f'{listing.path}: file of picture {row.image_id}',
        str(row.path),
        f'{entries[row.image_id].path}, as of its first row',
        'give each file an image_id of its own',
      )
    query = row.question() if callable(row.question) else row.question
    several = questions[row.image_id]
    if not query.id:
      number = f'{row.image_id}/{len(several)}'
      query = dataclasses.replace(query, id=number)
    several.append(query)
  listed = [
    files.ListedImage(row.path, image_id, row.captions)
    for image_id, row in entries.items()
  ]
  for image_id, several in questions.items():
    ids = [query.id for query in several]
    if len({*ids}) < len(ids):
      twice = next(name for name in ids if ids.count(name) > 1)
      raise _validate.error(
        f'{listing.path}: questions of picture {image_id}: id',
        twice,
        'an id of its own for each',
      )
  turns = tuple(row.turns for row in entries.values())
  return (
    listed,
    tuple(tuple(several) for several in questions.values()),
    turns if any(turns) else (),
  )


def find(folder: Path, names: Sequence[str], kind: str) -> Path:
  """Returns the first of some files that a folder holds.

  Raises:
    FileNotFoundError: there is none; it says what the folder holds.
  """
  for name in names:
    if (folder / name).is_file():
      return folder / name
  raise files.missing(folder, names, kind)


def find_folder(folder: Path, names: Sequence[str]) -> Path:
  """Returns the first folder of a name that exists, or the first of all."""
  return next(
    (folder / n for n in names if (folder / n).is_dir()), folder / names[0]
  )


def table(path: Path) -> dict[str, Any]:
  """Reads a JSON object from a file."""
  return files.parse(path.read_bytes(), str(path))


def texts(item: Any, name: str, where: str) -> tuple[str, ...]:
  """Returns a field that is a list of at least one text."""
  values = files.field(item, name, list, where)
  if not values or not all(isinstance(value, str) for value in values):
    raise _validate.error(f'{where}: {name}', values[:4], 'a list of texts')
  return tuple(values)


def number(item: Any, name: str, where: str) -> int:
  """Returns a field that is an integer, or the digits of one."""
  value = item.get(name) if isinstance(item, dict) else None
  if isinstance(value, str) and value.isdecimal() and len(value) < 20:
    return int(value)
  return files.field(item, name, int, where)
