"""AI2D: questions with choices about diagrams of school books."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from collab_jax import _validate
from collab_jax.data import asked, example, files, pictures, question
from collab_jax.tasks import base, listed

_LARGEST = 100  # Height of letters in a diagram, in pixels.


@dataclasses.dataclass(frozen=True)
class Ai2d(listed.ListedTask):
  """AI2D: the words of the right choice.

    Ai2d().load('/data/ai2d', 'test')

  Where a question's choices are letters, the diagram's labels are covered by
  the letters that its annotations give them.

  Attributes:
    prompt: text with {question} and {choices}, as the model gets it; two spaces
      and the tabs between choices are big_vision's.
    font: file of the letters' typeface; '' for Pillow's own. big_vision took DM
      Sans.

  Source: Kembhavi et al., arXiv 1603.07396; big_vision's `transfers/ai2d.py`
  and `datasets/ai2d`. It resizes with antialiasing in training alone.
  """

  prompt: str = 'answer en  {question} choose from: {choices}'
  font: str = ''
  label: ClassVar[str] = 'AI2D'
  max_tokens: ClassVar[int] = 128
  preprocess: ClassVar[str] = 'bv_bilinear'
  metrics: ClassVar[tuple[str, ...]] = ('exact',)
  splits: ClassVar[tuple[str, ...]] = ('test', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train',)
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-ai2d',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'ai2d', 'exact', 'test', 72.12, 73.28
  )
  files: ClassVar[tuple[str, ...]] = (
    'ai2d/questions/*.json',
    'ai2d/annotations/*.json',
    'ai2d/images/*.png',
    'ai2d_test_ids.csv',
  )
  url: ClassVar[str] = (
    'https://prior.allenai.org/projects/diagram-understanding'
  )
  licence: ClassVar[str] = 'not stated'

  def load(self, folder: Any = '', *args: Any, **kw: Any) -> asked.Asked:
    """Makes a reader; see `Task.load`."""
    reader = super().load(folder, *args, **kw)
    files_reader = reader.pictures
    letters = Lettered(
      files_reader,
      tuple(
        _covers(entry, _root(Path(folder))) for entry in files_reader.entries
      ),
      self.font,
    )
    return dataclasses.replace(reader, pictures=letters)

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads a list for each diagram, and the diagrams of the test."""
    root = _root(folder)
    tested = listed.find(folder, _TEST_IDS, 'list of test diagrams')
    test_ids = {*tested.read_text('utf-8').split()}
    lists = sorted((root / 'questions').glob('*.json'))
    if not lists:
      raise files.missing(root, ['questions/*.json'], 'questions')
    rows = []
    for path in lists:
      number = path.name.split('.')[0]
      if (number in test_ids) != (split == 'test'):
        continue
      if not (number.isdecimal() and len(number) < 9):
        raise _validate.error(str(path), number, 'a number as the name')
      rows += self._diagram(path, root / 'images', int(number))
    return listed.Listing(root / 'questions', rows)

  def _diagram(self, path: Path, images: Path, number: int) -> list[listed.Row]:
    content = listed.table(path)
    where = str(path)
    name = files.field(content, 'imageName', str, where)
    picture = files.inside(images, name, where)
    rows = []
    questions = files.field(content, 'questions', dict, where)
    for text, item in questions.items():
      place = f'{where}: {text!r:.40}'
      choices = listed.texts(item, 'answerTexts', place)
      right = listed.number(item, 'correctAnswer', place)
      _validate.integer(f'{place}: correctAnswer', right, 0, len(choices) - 1)
      letters = item.get('abcLabel')
      _validate.boolean(f'{place}: abcLabel', letters)
      query = question.Question(
        base.filled(self.prompt, question=text, choices=' \t '.join(choices)),
        (choices[right],),
        'letters' if letters else 'words',
        files.field(item, 'questionId', str, place),
      )
      # A diagram with letters is another picture.
      rows.append(listed.Row(picture, 2 * number + letters, query))
    return rows


_TEST_IDS = ('ai2d_test_ids.csv', '../ai2d_test_ids.csv')


def _root(folder: Path) -> Path:
  """Returns the folder with the questions, which the archive calls ai2d."""
  return folder / 'ai2d' if (folder / 'ai2d').is_dir() else folder


@dataclasses.dataclass(frozen=True)
class Cover:
  """Letters that cover a label: (left, top, right, bottom) in pixels."""

  box: tuple[float, float, float, float]
  text: str


def _covers(entry: files.ListedImage, root: Path) -> tuple[Cover, ...]:
  """Reads the labels of a diagram that is shown with letters."""
  if entry.image_id % 2 == 0:
    return ()
  path = root / 'annotations' / f'{entry.path.name}.json'
  if not path.is_file():
    raise files.missing(path.parent, [path.name], f'labels of {entry.path}')
  labels = files.field(listed.table(path), 'text', dict, str(path))
  covers = []
  for name, item in labels.items():
    where = f'{path}: {name}'
    corners = files.field(item, 'rectangle', list, where)
    try:
      (left, top), (right, bottom) = corners
      if not all(map(_validate.is_number, (left, top, right, bottom))):
        raise ValueError
    except (TypeError, ValueError) as error:
      raise _validate.error(
        f'{where}: rectangle', corners, '[[left, top], [right, bottom]]'
      ) from error
    text = files.field(item, 'replacementText', str, where)
    box = float(left), float(top), float(right), float(bottom)
    covers.append(Cover(box, text))
  return tuple(covers)


@dataclasses.dataclass(frozen=True, repr=False)
class Lettered:
  """Reader of diagrams whose labels are covered by letters.

  Attributes:
    diagrams: reader of the diagrams as they are.
    covers: the letters of each.
    font: file of their typeface; '' for Pillow's own.
  """

  diagrams: files.Files
  covers: tuple[tuple[Cover, ...], ...]
  font: str = ''

  @property
  def name(self) -> str:
    """Name of the reader."""
    return self.diagrams.name

  @property
  def method(self) -> str:
    """Method of resizing."""
    return self.diagrams.method

  @property
  def entries(self) -> tuple[files.ListedImage, ...]:
    """Entries of the list."""
    return self.diagrams.entries

  def __len__(self) -> int:
    return len(self.diagrams)

  def __getitem__(self, index: int) -> example.Example:
    """Reads a diagram and draws the letters, before it is resized."""
    covers = self.covers[index]
    if not covers:
      return self.diagrams[index]
    entry, method = self.diagrams.entries[index], self.diagrams.method
    image = pictures.decode(
      pictures.contents(entry.path), str(entry.path), pictures.matte_of(method)
    )
    return example.Example(
      image=pictures.resize(
        draw_letters(image, covers, self.font), self.diagrams.size, method
      ),
      image_id=entry.image_id,
      captions=(),
      file=entry.path.name,
    )

  def check(self, index: int) -> None:
    """Raises the error that reading the diagram would."""
    self.diagrams.check(index)


def draw_letters(
  image: pictures.Pixels, covers: tuple[Cover, ...], font: str = ''
) -> pictures.Pixels:
  """Returns a picture whose boxes are white, with letters in them.

  The letters are as large as the box allows, in its middle.

  Args:
    image: The picture.
    covers: Boxes and letters.
    font: File of the typeface; '' for Pillow's own.
  """
  picture = Image.fromarray(image)
  draw = ImageDraw.Draw(picture)
  for cover in covers:
    left, top, right, bottom = cover.box
    draw.rectangle(
      (min(left, right), min(top, bottom), max(left, right), max(top, bottom)),
      fill='white',
    )
    for size in range(_LARGEST, 0, -1):
      face = ImageFont.truetype(font, size) if font else _own_face(size)
      _, _, width, height = draw.textbbox((0, 0), cover.text, face)
      if width <= right - left and height <= bottom - top:
        break
    else:
      continue
    place = (left + (right - left - width) // 2, top)
    draw.text(place, cover.text, fill='black', font=face)
  return np.asarray(picture)


def _own_face(size: int) -> Any:
  return ImageFont.load_default(size)
