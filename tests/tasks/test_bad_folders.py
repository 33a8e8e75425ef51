"""Bad folders: one line each, and the one that the page shows."""

import json
import pathlib
import pickle
import re
import shutil

import pytest

from collab_jax import tasks
from tests.tasks import folders

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / 'docs/tasks.md'
ROWS = dict(
  re.findall(r'^\| ([^|]+?) \| `([^`]+)` \|$', PAGE.read_text(), re.MULTILINE)
)
CASES = {}


def case(title):
  """Adds a function that makes a bad folder and reads it."""

  def add(act):
    CASES[title] = act
    return act

  return add


def load(folder, name, split='', limit=None):
  return tasks.make(name).load(folder, split, limit)


def spoil(path, act):
  """Changes a list in place."""
  content = json.loads(path.read_text())
  act(content)
  path.write_text(json.dumps(content))


def answers_of(folder):
  return folder / 'mscoco_val2014_annotations.json'


@case('no folder given')
def _(folder):
  load('', 'gqa')


@case('no such folder')
def _(folder):
  load(folder / 'nowhere', 'okvqa')


@case('lists missing')
def _(folder):
  folders.okvqa(folder)
  answers_of(folder).unlink()
  load(folder, 'okvqa')


@case('misspelt split')
def _(folder):
  load(folder, 'vqav2', 'vall')


@case('list cut off')
def _(folder):
  folders.gqa(folder)
  path = folder / 'testdev_balanced_questions.json'
  path.write_text(path.read_text()[:100])
  load(folder, 'gqa')


@case('list of something else')
def _(folder):
  folders.tallyqa(folder)
  (folder / 'test.json').write_text('{}')
  load(folder, 'tallyqa')


@case('field left out')
def _(folder):
  folders.textvqa(folder)
  path = folder / 'TextVQA_0.5.1_val.json'
  spoil(path, lambda t: t['data'][1].pop('question'))
  load(folder, 'textvqa')


@case('question that nobody answered')
def _(folder):
  folders.okvqa(folder)
  spoil(answers_of(folder), lambda t: t['annotations'].pop())
  load(folder, 'okvqa')


@case('answers that are no list')
def _(folder):
  folders.okvqa(folder)
  change = {'answers': 'red'}
  spoil(answers_of(folder), lambda t: t['annotations'][9].update(change))
  load(folder, 'okvqa')


@case('picture missing')
def _(folder):
  folders.okvqa(folder)
  (folder / 'val2014/COCO_val2014_000000000002.jpg').unlink()
  load(folder, 'okvqa')


@case('path out of the folder')
def _(folder):
  folders.chartqa(folder)
  change = {'imgname': '../../../etc/passwd'}
  spoil(folder / 'test/test_human.json', lambda t: t[3].update(change))
  load(folder, 'chartqa')


@case('choice that is not there')
def _(folder):
  folders.science_qa(folder)
  spoil(folder / 'problems.json', lambda t: t['2'].update(answer=4))
  load(folder, 'science_qa')


@case('diagrams of the test not named')
def _(folder):
  folders.ai2d(folder)
  (folder / 'ai2d_test_ids.csv').unlink()
  load(folder, 'ai2d')


@case('labels of a diagram missing')
def _(folder):
  folders.ai2d(folder)
  (folder / 'ai2d/annotations/2.png.json').unlink()
  load(folder, 'ai2d')


@case('pickle that would run code')
def _(folder):
  folders.refer(folder).write_bytes(pickle.dumps([pathlib.Path()]))
  load(folder, 'refcoco_box')


@case('pickle cut off')
def _(folder):
  path = folders.refer(folder)
  path.write_bytes(path.read_bytes()[:-100])
  load(folder, 'refcoco_box')


@case('split of another dataset')
def _(folder):
  folders.refer(folder)
  load(folder, 'refcoco_box', 'test')


@case('boxes of other pictures')
def _(folder):
  folders.refer(folder)
  path = folder / 'refcoco/instances.json'
  spoil(path, lambda t: t['annotations'].pop(2))
  load(folder, 'refcoco_box')


@case('outline of no form')
def _(folder):
  folders.refer(folder)
  path = folder / 'refcoco/instances.json'
  spoil(path, lambda t: t['annotations'][2].update(segmentation='round'))
  load(folder, 'refcoco_box')


@case('masks without a decoder')
def _(folder):
  folders.refer(folder)
  load(folder, 'refcoco')


@case('decoder that is no such file')
def _(folder):
  folders.refer(folder)
  load(folder, f'refcoco(weights={folder}/vae-oid.npz)')


@case('captions missing')
def _(folder):
  folders.nocaps(folder)
  path = folder / 'nocaps_val_4500_captions.json'
  spoil(path, lambda t: t['annotations'].clear())
  load(folder, 'nocaps')


@case('as many answers as questions')
def _(folder):
  folders.ocrvqa(folder)
  spoil(folder / 'dataset.json', lambda t: t['0723']['answers'].pop())
  load(folder, 'ocrvqa')


@case('table without pictures')
def _(folder):
  (folder / 'Mine.tsv').write_text('index\tquestion\tanswer\n1\twhat\tred\n')
  load(folder, 'tsv')


@case('picture of a row that is not there')
def _(folder):
  row = 'index\tquestion\tanswer\timage\n1\twhat\tred\t7\n'
  (folder / 'Mine.tsv').write_text(row)
  load(folder, 'tsv')


@case('row with a field too few')
def _(folder):
  (folder / 'Mine.tsv').write_text('index\tquestion\n1\n')
  load(folder, 'tsv')


@case('index of two rows')
def _(folder):
  folders.tsv(folder)
  table = folder / 'Mine.tsv'
  text = table.read_text()
  table.write_text(text + text.splitlines()[-1] + '\n')
  load(folder, 'tsv')


@case('column that is there twice')
def _(folder):
  (folder / 'Mine.tsv').write_text('index\tanswer\tanswer\n1\tred\tblue\n')
  load(folder, 'tsv')


def _spoil_table(folder, before, after):
  """Changes the first row that has a field."""
  folders.tsv(folder)
  table = folder / 'Mine.tsv'
  text = table.read_text()
  assert before in text
  table.write_text(text.replace(before, after, 1))


@case('question of a table left blank')
def _(folder):
  _spoil_table(folder, '"how\tmany"\t0\t', ' \t0\t')
  load(folder, 'tsv')


@case('table without answers')
def _(folder):
  _spoil_table(folder, '"how\tmany"\t0\t', '"how\tmany"\t\t')
  load(folder, 'tsv')


@case('several tables')
def _(folder):
  folders.tsv(folder)
  shutil.copy(folder / 'Mine.tsv', folder / 'Yours.tsv')
  load(folder, 'tsv')


@case('line without answers')
def _(folder):
  folders.jsonl(folder)
  (folder / 'test.jsonl').write_text(
    '{"image": "pictures/0.jpg", "question": "what"}\n'
  )
  load(folder, 'jsonl')


@case('answer left blank')
def _(folder):
  folders.jsonl(folder)
  (folder / 'test.jsonl').write_text(
    '{"image": "pictures/0.jpg", "question": "what", "answers": ["red", ""]}\n'
  )
  load(folder, 'jsonl')


@case('folder in the place of a list')
def _(folder):
  (folder / 'test.jsonl').mkdir()
  load(folder, 'jsonl')


@case('prompt left blank')
def _(folder):
  folders.jsonl(folder)
  (folder / 'test.jsonl').write_text(
    '{"image": "pictures/0.jpg", "prompt": " ", "answers": "x"}\n'
  )
  load(folder, 'jsonl')


@case('prompt without the question')
def _(folder):
  folders.jsonl(folder)
  load(folder, 'jsonl(prompt=answer en)')


@case('negative limit')
def _(folder):
  load(folder, 'gqa', limit=-1)


@pytest.mark.parametrize('title', CASES)
def test_what_is_said(title, tmp_path, without_types):
  folder = tmp_path / 'data'
  folder.mkdir()
  with pytest.raises((ValueError, OSError)) as error:
    CASES[title](folder)
  said = str(error.value).replace(str(folder), 'data')
  assert '\n' not in said
  # An ellipsis stands for the words of a library.
  pattern = re.escape(ROWS.get(title, '')).replace('…', '.+')
  assert re.fullmatch(pattern, said), said


def test_every_row_is_made():
  assert [*CASES] == [title for title in ROWS if title in CASES]
  assert len(CASES) >= 12
