"""VLMEvalKit's TSV files: questions, answers and pictures in one table."""

import ast
import base64
import binascii
from collections.abc import Iterator
import dataclasses
import hashlib
import os
from pathlib import Path
import re
from typing import Any, ClassVar, NamedTuple, SupportsIndex

from collab_jax import _validate
from collab_jax.data import asked, example, files, pictures, question
from collab_jax.tasks import base

_LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
_FIELD = re.compile(r'"((?:[^"]|"")*)"|([^\t]*)')
# A shorter text in the column of pictures names the row that has the picture.
_REFERENCE = 64


class Record(NamedTuple):
  """Row of a table, without its picture.

  Attributes:
    start: place of the row in the file, in bytes.
    length: its bytes.
    fields: texts by column.
    picture: digest of the picture's text; '' where the row has none.
    source: index of the row that has the picture, if this one has none.
  """

  start: int
  length: int
  fields: dict[str, str]
  picture: str
  source: str


@dataclasses.dataclass(frozen=True)
class Tsv(base.Task):
  """Questions of a table in VLMEvalKit's format.

    Tsv().load('/data/GQA_TestDev_Balanced.tsv')
    Tsv(score='vqa').load('/data/LMUData', 'TextVQA_VAL')

  Columns are index, question, answer, and image in base64 or the index of the
  row that has the picture. Where there are columns A, B, ..., the answer is a
  letter, the prompt has the choices, as of AI2D, and the right answer is the
  choice's text or its letter. An answer may be a list in Python's form. The
  column category, if there, is the kind.

  Attributes:
    score: metric of the answers, the task's score.
    prompt: text with {question}, as the model gets it.
    length: tokens that an answer may have.

  Source: github.com/open-compass/VLMEvalKit, `vlmeval/dataset/image_base.py`.
  """

  score: str = 'exact(case=ignore)'
  prompt: str = 'answer en {question}'
  length: int = 32
  label: ClassVar[str] = 'TSV'
  splits: ClassVar[tuple[str, ...]] = ()
  files: ClassVar[tuple[str, ...]] = ('<split>.tsv',)
  url: ClassVar[str] = 'https://github.com/open-compass/VLMEvalKit'
  licence: ClassVar[str] = "the dataset's"

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('length', self.length)

  @property
  def metrics(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
    """The score."""
    return (self.score,)

  @property
  def max_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
    """The length."""
    return self.length

  def choose_split(self, split: str) -> str:
    """Returns the name of the table; '' for the only one of the folder."""
    return split

  def load(
    self,
    folder: str | os.PathLike[str] = '',
    split: str = '',
    limit: int | None = None,
    size: int = 224,
    method: str = '',
  ) -> asked.Asked:
    """Makes a reader; see `Task.load`. The folder may be a table itself."""
    files.check_limit(limit)
    path = _table(Path(folder), split)
    records = list(_records(path))
    _check_columns(records, path)
    places: dict[str, Record] = {}
    queries: dict[str, list[question.Question]] = {}
    for record, source in zip(records, _sources(records, path), strict=True):
      key = source.picture
      if key not in places:
        if limit is not None and len(places) >= limit:
          continue
        places[key] = source
        queries[key] = []
      queries[key].append(self._question(record, path))
    ids = files.stable_ids(places)
    entries = tuple(
      TablePicture(
        ids[key], record.start, record.length, record.fields['index']
      )
      for key, record in places.items()
    )
    reader = TsvPictures(path, entries, size, method or self.preprocess)
    return asked.Asked(
      reader, tuple(tuple(several) for several in queries.values())
    )

  def _question(self, record: Record, path: Path) -> question.Question:
    fields = record.fields
    where = f'{path}: index {fields["index"]}'
    choices = [fields[c] for c in _LETTERS if fields.get(c)]
    text, references = fields['question'], _answers(fields['answer'])
    if not text.strip():
      raise _validate.error(f'{where}: question', text, 'a text')
    if not all(reference.strip() for reference in references):
      raise _validate.error(
        f'{where}: answer',
        fields['answer'],
        'a text, or a list of texts',
        'take a table with answers, of a validation split',
      )
    if choices:
      letter = fields['answer'].strip().upper()
      named = {c: fields[c] for c in _LETTERS if fields.get(c)}
      if letter not in named:
        raise _validate.error(
          f'{where}: answer', fields['answer'], f'one of {", ".join(named)}'
        )
      text = f' {text} choose from: ' + ' \t '.join(choices)
      references = (named[letter], letter)
    return question.Question(
      base.filled(self.prompt, question=text),
      references,
      fields.get('category', ''),
      fields['index'],
    )


@dataclasses.dataclass(frozen=True)
class TablePicture:
  """Picture in a table: its id, and its row's place and name."""

  image_id: int
  start: int
  length: int
  index: str


@dataclasses.dataclass(frozen=True, repr=False)
class TsvPictures:
  """Reader of the pictures in a table, which is read row by row.

  Attributes:
    path: the table.
    entries: the pictures' rows.
    size: side of the pictures in pixels.
    method: method of resizing, a name in `pictures.METHODS`.
  """

  path: Path
  entries: tuple[TablePicture, ...]
  size: int = 224
  method: str = 'hf_bicubic'

  def __post_init__(self):
    pictures.check_method(self.size, self.method)

  @property
  def name(self) -> str:
    """Name of the table, without its ending."""
    return self.path.stem

  def __len__(self) -> int:
    return len(self.entries)

  def __getitem__(self, index: SupportsIndex) -> example.Example:
    """Reads a picture; IndexError out of range, PictureError if damaged."""
    entry = self.entries[example.position(self, index)]
    where = f'{self.path}: index {entry.index}'
    image = pictures.decode(
      self._data(entry, where), where, pictures.matte_of(self.method)
    )
    return example.Example(
      image=pictures.resize(image, self.size, self.method),
      image_id=entry.image_id,
      captions=(),
      file=f'{self.path.name}#{entry.index}',
    )

  def check(self, index: SupportsIndex) -> None:
    """Raises the PictureError that reading the picture would, but faster."""
    entry = self.entries[example.position(self, index)]
    where = f'{self.path}: index {entry.index}'
    pictures.check(self._data(entry, where), where, self.size)

  def _data(self, entry: TablePicture, where: str) -> bytes:
    with self.path.open('rb') as file:
      names = _split(file.readline().decode('utf-8-sig'))
      file.seek(entry.start)
      values = _split(file.read(entry.length).decode('utf-8'))
    text = dict(zip(names, values, strict=False))['image']
    try:
      return base64.b64decode(text, validate=True)
    except binascii.Error as error:
      raise pictures.PictureError(
        f'{where}: image: {error}, expected a picture in base64'
      ) from error


def _table(folder: Path, split: str) -> Path:
  """Returns the path of a table: itself, or one of a folder."""
  if folder.suffix == '.tsv' and folder.is_file():
    return folder
  tables = sorted(p.stem for p in folder.glob('*.tsv'))
  if split and split not in tables and tables:
    raise _validate.unknown('split', split, tables)
  if not split and len(tables) == 1:
    (split,) = tables
  if not split and tables:
    raise _validate.unknown(f'split of {folder}', split, tables)
  path = folder / f'{split}.tsv'
  if not path.is_file():
    raise files.missing(folder, [f'{split or "NAME"}.tsv'], 'table')
  return path


def _records(path: Path) -> Iterator[Record]:
  """Yields the rows of a table; a row goes on while a quote is open."""
  names: list[str] = []
  with path.open('rb') as file:
    start = 0
    while line := file.readline():
      while line.count(b'"') % 2:
        more = file.readline()
        if not more:
          raise ValueError(f'{path}: byte {start}: a quote is not closed')
        line += more
      try:
        values = _split(line.decode('utf-8-sig' if not start else 'utf-8'))
      except UnicodeDecodeError as error:
        raise ValueError(
          f'{path}: byte {start}: is no UTF-8 ({error.reason})'
        ) from error
      if not names:
        names = values
        if len({*names}) < len(names):
          raise _validate.error(f'{path}: columns', names[:12], 'each once')
      elif not line.strip(b'\r\n'):
        pass  # Empty lines stand between rows, and at the end.
      elif len(values) != len(names):
        raise ValueError(
          f'{path}: byte {start}: got {len(values)} fields, expected'
          f' {len(names)}'
        )
      elif line.strip():
        fields = dict(zip(names, values, strict=True))
        yield _record(start, len(line), fields)
      start += len(line)


def _record(start: int, length: int, fields: dict[str, str]) -> Record:
  """Returns a row; of its picture, which is large, the digest alone."""
  image = fields.get('image', '')
  if len(image) <= _REFERENCE:
    return Record(start, length, fields, '', image)
  digest = hashlib.sha256(image.encode()).hexdigest()
  return Record(start, length, fields | {'image': ''}, digest, '')


def _split(line: str) -> list[str]:
  """Splits a row at its tabs, those in quotes aside."""
  line = line.rstrip('\r\n')
  values, position = [], 0
  while True:
    match = _FIELD.match(line, position)
    quoted = match is not None and match[1] is not None
    end = match.end() if match else position
    if quoted and line[end : end + 1] not in ('', '\t'):
      quoted, end = False, line.find('\t', position)
      end = len(line) if end < 0 else end
    if quoted and match is not None:
      values.append(match[1].replace('""', '"'))
    else:
      values.append(line[position:end])
    if end >= len(line):
      return values
    position = end + 1


def _check_columns(records: list[Record], path: Path) -> None:
  if not records:
    raise ValueError(f'{path} has no rows, expected questions')
  for name in ('index', 'question', 'answer', 'image'):
    if name not in records[0].fields:
      raise _validate.error(
        f'{path}: columns', [*records[0].fields][:12], f'{name!r} among them'
      )


def _sources(records: list[Record], path: Path) -> Iterator[Record]:
  """Yields the row that has each row's picture."""
  by_index: dict[str, Record] = {}
  for record in records:
    index = record.fields['index']
    if by_index.setdefault(index, record) is not record:
      raise _validate.error(
        f'{path}: index', index, 'one of its own for each row'
      )
  for record in records:
    source = record if record.picture else by_index.get(record.source)
    if source is None or not source.picture:
      raise _validate.error(
        f'{path}: index {record.fields["index"]}: image',
        record.source,
        'a picture in base64, or the index of a row that has one',
      )
    yield source


def _answers(text: str) -> tuple[str, ...]:
  """Returns the answers of a field: a list in Python's form, or a text."""
  if text.startswith('[') and text.endswith(']'):
    try:
      values: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
      return (text,)
    if isinstance(values, list) and values:
      return tuple(map(str, values))
  return (text,)
