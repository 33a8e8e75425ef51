"""Readers of each dataset: prompts, references, kinds and pictures."""

import csv
import dataclasses
import json
import pathlib
import tempfile
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import metrics, tasks
from collab_jax.data import pictures, question
from collab_jax.tasks import tsv
from tests.data import photos
from tests.tasks import folders
from tools import tasks_table


def read(name, folder, **load):
  changed = folders.FOLDERS[name](folder) or {}
  task = dataclasses.replace(tasks.make(name), **changed)
  return task, task.load(folder, size=24, **load)


def asked(reader):
  return [q for i in range(len(reader)) for q in reader[i].questions]


@pytest.mark.parametrize(
  ('name', 'prompt', 'references', 'kinds'),
  [
    ('okvqa', 'answer en what 0?', folders.TEN, {'vehicles', 'other'}),
    ('vqav2', 'answer en what 0?', folders.TEN, {'other', 'number'}),
    ('textvqa', 'answer en what is word 0', folders.TEN, {''}),
    ('gqa', 'answer en Is it left?', ['yes'], {'verify', 'query'}),
    ('textcaps', 'caption en', [f'a sign {n}' for n in range(3)], {'caption'}),
    (
      'nocaps',
      'caption en',
      [f'0 dogs and {n} cats' for n in range(10)],
      {'caption'},
    ),
    (
      'science_qa',
      'Question: Which is 0?\nContext: N/A\nOptions: (A) one, (B) two {hint}'
      '\nAnswer:',
      ['a'],
      {'natural science'},
    ),
    (
      'ai2d',
      'answer en  What eats 0? choose from: owl \t Mouse \t A',
      ['owl'],
      {'words', 'letters'},
    ),
    (
      'tallyqa',
      'answer en How many birds are on 0?',
      ['0'],
      {'simple', 'complex'},
    ),
    ('chartqa', 'How much in 2000?', ['3.5'], {'human', 'augmented'}),
    ('ocrvqa', 'answer en Who wrote this book?', ['A. Writer'], {''}),
    ('tsv', 'answer en what "is"\n0?', ['red', '0'], {'ocr', 'count'}),
    ('jsonl', 'answer en what is it?', ['dog', 'a dog'], {'', 'text'}),
  ],
)
def test_what_is_asked(tmp_path, name, prompt, references, kinds):
  _, reader = read(name, tmp_path)
  first = reader[0].questions[0]
  assert first.prompt == prompt
  assert first.references == tuple(references)
  assert {q.kind for q in asked(reader)} == kinds


def test_pictures_are_resized_as_the_task_says(tmp_path):
  _, reader = read('okvqa', tmp_path)
  path = tmp_path / 'val2014/COCO_val2014_000000000001.jpg'
  want = pictures.read(path, 24, 'bv_bilinear_aa')
  np.testing.assert_array_equal(reader[0].image, want)
  other = tasks.make('okvqa').load(tmp_path, size=24, method='bv_bilinear')
  assert (other[0].image != want).any()
  assert reader[0].image_id == 1
  assert reader[0].file == 'val2014/COCO_val2014_000000000001.jpg'


def test_questions_of_one_picture_stand_together(tmp_path):
  _, reader = read('okvqa', tmp_path, limit=2)
  assert len(reader) == 2
  assert [q.id for q in reader[1].questions] == ['20', '21']


def test_pictures_beyond_the_limit_need_not_be_there(tmp_path):
  folders.okvqa(tmp_path)
  for i in (4, 5):
    (tmp_path / f'val2014/COCO_val2014_{i:012d}.jpg').unlink()
  assert len(tasks.make('okvqa').load(tmp_path, limit=3)) == 3
  assert len(tasks.make('okvqa').load(tmp_path, limit=0)) == 0


def test_damaged_pictures_are_found(tmp_path):
  _, reader = read('okvqa', tmp_path)
  path = tmp_path / 'val2014/COCO_val2014_000000000003.jpg'
  path.write_bytes(path.read_bytes()[:200])
  reader.check(1)
  with pytest.raises(pictures.PictureError):
    reader.check(2)


@pytest.mark.parametrize('angle', [0, 90, 180, 270])
def test_pictures_on_their_side_are_turned(tmp_path, angle):
  """Turns go on against the clock, as in big_vision."""
  folders.textvqa(tmp_path)
  path = tmp_path / 'train_images/001a0c5f01.jpg'
  upright = tasks.make('textvqa').load(tmp_path, size=16)[1].image
  path.with_name('rotation.csv').write_text(
    f'ImageID,Rotation\n001a0c5f01,{angle}.0\nother,\n'
  )
  reader = tasks.make('textvqa').load(tmp_path, size=16)
  np.testing.assert_array_equal(reader[1].image, np.rot90(upright, angle // 90))
  np.testing.assert_array_equal(
    reader[0].image, tasks.make('textvqa').load(tmp_path, size=16)[0].image
  )


@pytest.mark.parametrize(
  ('text', 'said'),
  [('ImageID\nx\n', 'the columns ImageID'), ('ImageID,Rotation\nx,5\n', '270')],
)
def test_bad_rotations(tmp_path, text, said):
  folders.textvqa(tmp_path)
  (tmp_path / 'train_images/rotation.csv').write_text(text)
  with pytest.raises(ValueError, match=said):
    tasks.make('textvqa').load(tmp_path)


def test_science_answers_are_read_as_in_big_vision():
  """Together with the metric: the record's cases have both."""
  cases = json.loads(
    (tasks_table.PAGE.parents[1] / 'tests/golden/answers.json').read_text()
  )['science_qa']
  assert len(cases) >= 200
  task, choice = tasks.make('science_qa'), metrics.make('choice')
  question = tasks.SceneQuestions().load(limit=1)[0].questions[0]
  for text, reference, score in cases:
    answer = task.read(text, question)
    assert choice.score([answer], [[reference.lower()]]) == score, text


def test_diagrams_are_shown_with_letters(tmp_path):
  _, reader = read('ai2d', tmp_path)
  words, letters = reader[0], reader[1]
  assert words.file.endswith('0.png')
  assert letters.questions[0].kind == 'letters'
  assert letters.image_id == words.image_id + 1
  changed = (words.image != letters.image).any(-1)
  # The label's box in shares of the picture, 40 x 30 pixels.
  inside = np.zeros((24, 24), bool)
  inside[4:19, 2:16] = True
  assert changed.any()
  assert not (changed & ~inside).any()
  assert letters.image[5, 14].min() > 200  # White paper beside the letter.


def test_a_table_is_its_own_folder(tmp_path):
  folders.tsv(tmp_path)
  task = tasks.make('tsv')
  reader = task.load(tmp_path / 'Mine.tsv', size=24)
  assert reader.name == 'Mine'
  assert len(reader) == folders.PICTURES
  for i in range(len(reader)):
    image = pictures.decode(photos.jpeg(i), '', None)
    np.testing.assert_array_equal(
      reader[i].image, pictures.resize(image, 24, task.preprocess)
    )
  assert [q.prompt for q in reader[1].questions] == [
    'answer en what "is"\n1?',
    'answer en how\tmany',
  ]
  assert reader[1].file == 'Mine.tsv#2'


def test_empty_lines_of_a_table(tmp_path):
  folders.tsv(tmp_path)
  path = tmp_path / 'Mine.tsv'
  before = tasks.make('tsv').load(tmp_path)
  head, rest = path.read_text().split('\n', 1)
  path.write_text(f'{head}\n\n{rest}\n\r\n')
  after = tasks.make('tsv').load(tmp_path)
  assert after.questions == before.questions
  np.testing.assert_array_equal(after[2].image, before[2].image)


def test_names_in_lines(tmp_path):
  photos.write(tmp_path / 'a.jpg', 0)

  def load(**fields):
    line = {'image': 'a.jpg', 'question': 'q', 'answers': 'x', **fields}
    (tmp_path / 'test.jsonl').write_text(json.dumps(line))
    return tasks.make('jsonl').load(tmp_path).questions[0][0]

  for fields in ({}, {'kind': None, 'id': None}, {'kind': '', 'id': ''}):
    assert (load(**fields).kind, load(**fields).id) == ('', '0')
  assert (load(kind=3, id=7).kind, load(kind=3, id=7).id) == ('3', '7')
  for value in ({'a': 1}, ['a'], True, 1.5):
    with pytest.raises(ValueError, match=r'id: got .*a text or an integer'):
      load(id=value)


def test_ids_of_listed_questions(tmp_path):
  photos.write(tmp_path / 'a.jpg', 0)

  def rows(*ids):
    return [
      tasks.Row(tmp_path / 'a.jpg', 7, question.Question('why', ('so',), id=i))
      for i in ids
    ]

  @dataclasses.dataclass(frozen=True)
  class Listed(tasks.ListedTask):
    ids: tuple[str, ...]
    label: ClassVar[str] = 'listed'
    metrics: ClassVar[tuple[str, ...]] = ('exact',)

    def listing(self, folder, split):
      return tasks.Listing(folder / split, rows(*self.ids))

  (found,) = Listed(('', 'x', '')).load(tmp_path).questions
  assert [q.id for q in found] == ['7/0', 'x', '7/2']
  with pytest.raises(ValueError, match=r"picture 7: id: got 'x', expected"):
    Listed(('x', 'y', 'x')).load(tmp_path)


def test_choices_of_a_table(tmp_path):
  head = folders.tsv_row('index', 'question', 'A', 'B', 'C', 'answer', 'image')
  image = 'A' * 80
  row = folders.tsv_row('1', 'what?', 'dog', 'cat', '', 'B', image)
  (tmp_path / 'x.tsv').write_text(head + row)
  reader = tasks.make('tsv').load(tmp_path)
  (question,) = reader.questions[0]
  assert question.prompt == 'answer en  what? choose from: dog \t cat'
  assert question.references == ('cat', 'B')
  with pytest.raises(pictures.PictureError, match=r'index 1'):
    reader[0]
  (tmp_path / 'x.tsv').write_text(head + row.replace('\tB\t', '\tD\t'))
  with pytest.raises(
    ValueError, match=r"answer: got 'D', expected one of A, B"
  ):
    tasks.make('tsv').load(tmp_path)


def test_base64_that_is_none(tmp_path):
  head = folders.tsv_row('index', 'question', 'answer', 'image')
  (tmp_path / 'x.tsv').write_text(
    head + folders.tsv_row('1', 'what?', 'dog', '?' * 80)
  )
  reader = tasks.make('tsv').load(tmp_path)
  with pytest.raises(pictures.PictureError, match='expected a picture in base'):
    reader.check(0)


def test_ids_of_lines_must_differ(tmp_path):
  folders.jsonl(tmp_path)
  path = tmp_path / 'test.jsonl'
  line = json.loads(path.read_text().splitlines()[0]) | {'id': 'q'}
  path.write_text(f'{json.dumps(line)}\n' * 2)
  with pytest.raises(
    ValueError, match=r"2: id: got 'q', expected an id of its"
  ):
    tasks.make('jsonl').load(tmp_path)


def test_science_pictures_in_another_place(tmp_path):
  folders.science_qa(tmp_path)
  (tmp_path / 'images').mkdir()
  (tmp_path / 'test').rename(tmp_path / 'images/test')
  assert len(tasks.make('science_qa').load(tmp_path)) == folders.PICTURES


_CELLS = st.text('ab"\t\n \u8349,', max_size=6)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(_CELLS, _CELLS, _CELLS), min_size=1, max_size=4))
def test_tables_are_read_as_they_were_written(rows):
  """Rows are written by the csv module, as pandas writes them."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'x.tsv')
    with path.open('w', newline='', encoding='utf-8') as file:
      writer = csv.writer(file, delimiter='\t', lineterminator='\n')
      writer.writerow(['index', 'question', 'answer', 'image'])
      for i, row in enumerate(rows):
        writer.writerow([f'{i}', *row[:2], row[2]])
    records = list(tsv._records(path))
  assert [
    (r.fields['question'], r.fields['answer'], r.source) for r in records
  ] == rows


def test_a_quote_that_stays_open(tmp_path):
  (tmp_path / 'x.tsv').write_text('index\tquestion\n1\t"what\n')
  with pytest.raises(ValueError, match='a quote is not closed'):
    tasks.make('tsv').load(tmp_path)


def test_braces_of_questions_stay(tmp_path):
  folders.gqa(tmp_path)
  path = tmp_path / 'testdev_balanced_questions.json'
  path.write_text(path.read_text().replace('Is it left?', 'Is {question} {x}?'))
  reader = tasks.make('gqa').load(tmp_path)
  assert reader[0].questions[0].prompt == 'answer en Is {question} {x}?'


def test_scenes_have_the_kind_that_is_asked_for():
  reader = tasks.make('scenes(kind=size)').load(split='val', limit=3)
  kinds = {q.kind for q in asked(reader)}
  assert kinds == {'size'}
  assert all(reader[i].questions for i in range(3))
  boxes = tasks.make('scenes_box').load(split='val', limit=1)
  assert boxes[0].questions[0].prompt.startswith('detect ')


def test_captions_of_any_dataset():
  reader = tasks.make('captions').load(split='val', limit=2)
  (question,) = reader[0].questions
  assert question.prompt == 'caption en'
  assert question.references == reader[0].captions
  assert tasks.make('captions(score=cider)').metrics[0] == 'cider'


def test_the_page_has_the_tables():
  page = tasks_table.PAGE.read_text('utf-8')
  assert tasks_table.page(page) == page, 'python -m tools.tasks_table'
