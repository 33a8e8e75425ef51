"""Every task keeps the contract, on its dataset's own formats."""

import dataclasses
from typing import ClassVar

import pytest

from collab_jax import data, metrics, tasks, testing
from collab_jax.models import zoo
from tests.tasks import folders

NO_FOLDER = ('captions', 'scenes', 'scenes_box')


@pytest.mark.parametrize('name', tasks.NAMES)
def test_every_task_keeps_the_contract(tmp_path, name):
  settings = {}
  if name not in NO_FOLDER:
    settings = folders.FOLDERS[name](tmp_path) or {}
  task = dataclasses.replace(tasks.make(name), **settings)
  testing.check_task(task, '' if name in NO_FOLDER else tmp_path)


@pytest.mark.parametrize('name', tasks.NAMES)
def test_what_tasks_say_of_themselves(name):
  task = tasks.make(name)
  assert tasks.name(task) == name
  described = task.describe()
  assert described['metrics'] == [*task.metrics]
  assert {
    p.checkpoint for p in task.published if 'not' not in p.checkpoint
  } <= {*zoo.NAMES}
  for checkpoint in task.checkpoints:
    assert checkpoint == 'tiny' or f'{checkpoint}-224' in zoo.NAMES
  for score in task.published:
    assert metrics.make(score.metric).scale == 100
    assert 50 < score.score < 160
    assert '0127fb6' in score.source


@pytest.mark.parametrize(
  'prompt',
  [
    'read {question}',
    'answer {question}, in one word (please)',
    '"{question}"\nanswer:',
    ' {question}',
    '{question} = \u8349',
  ],
)
def test_any_prompt_makes_a_name(prompt):
  task = tasks.Jsonl(prompt=prompt, score='anls(threshold=0.4)', length=7)
  assert tasks.make(tasks.name(task)) == task


def test_splits_that_were_trained_on_are_warned_of():
  task = tasks.make('vqav2')
  assert 'paligemma-3b-ft-vqav2 were trained on train and val' in task.warning()
  assert tasks.make('okvqa').warning('val') == ''
  assert tasks.make('okvqa').warning('train')


def test_the_warning_goes_with_the_reader(tmp_path):
  folders.vqav2(tmp_path)
  reader = tasks.make('vqav2').load(tmp_path)
  assert reader.warning.startswith('VQAv2: ')
  assert repr(reader) == "Asked('VQAv2/val', 5 pictures)"


@pytest.mark.parametrize(
  ('name', 'kind', 'said'),
  [
    ('okvq', ValueError, "task: got 'okvq'; did you mean 'okvqa'?"),
    ('okvqa(lenght=3)', ValueError, 'field of okvqa'),
    ('refcoco(dataset=refcoco2)', ValueError, "dataset: got 'refcoco2', expec"),
    ('collab_jax.metrics:Anls', TypeError, 'inherit collab_jax.tasks.Task'),
    (tasks.OkVqa, TypeError, r'make one, as in OkVqa\(\)'),
    (4, TypeError, 'task: got 4, expected a task'),
    ('scenes(kind=smell)', ValueError, "kind: got 'smell', expected one of"),
    ('jsonl(length=0)', ValueError, 'length: got 0, expected an integer'),
    (
      'okvqa(prompt={question)',
      ValueError,
      r"prompt: got '\{question', expected a text with \{question\} in it",
    ),
    (
      'tsv(prompt={question} {foo})',
      ValueError,
      r'prompt: got .*, expected no \{foo\}, but a text with \{question\} in',
    ),
    (
      'ai2d(prompt={question})',
      ValueError,
      r'expected a text with \{question\} and \{choices\} in it',
    ),
    ('refcoco_box(prompt=detect)', ValueError, r'a text with \{sentence\}'),
    ('captions(prompt=7)', ValueError, 'prompt: got 7, expected a text'),
    ('jsonl(score=exct)', ValueError, "metric: got 'exct'; did you mean 'exac"),
    ('tsv(score=anls(case=x))', ValueError, "case: got 'x', expected one of"),
    ('captions(score=foo)', ValueError, "metric: got 'foo', expected one of"),
    ('captions(data=scene)', ValueError, "data: got 'scene'; did you mean"),
    ('captions(data=)', ValueError, "data: got '', expected one of coco,"),
  ],
)
def test_what_is_no_task_is_refused(without_types, name, kind, said):
  with pytest.raises(kind, match=said):
    tasks.make(name)


def test_the_newline_behind_a_prompt_is_the_tokenizers():
  with pytest.raises(ValueError, match='a text without a newline at its end'):
    tasks.OkVqa(prompt='answer en {question}\n')
  assert tasks.OkVqa(prompt='answer\n{question}').prompt[6] == '\n'


def test_what_only_its_use_tells_is_left_to_it(tmp_path, monkeypatch):
  """A class of one's own is not imported, nor a path looked for."""
  assert tasks.make('jsonl(score=nowhere:Metric)').score == 'nowhere:Metric'
  for name in ('/nowhere/pictures', 'nowhere.zip', 'nowhere:Reader'):
    assert tasks.make(f'captions(data={name})').data == name
  # Records say what was there when they were made.
  assert tasks.of_data('captions(data=mine)') == tasks.Captions('mine')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine').mkdir()
  assert tasks.make('captions(data=mine)').data == 'mine'


@dataclasses.dataclass(frozen=True)
class Faulty(tasks.Task):
  """Breaks one promise."""

  fault: str = ''
  label: ClassVar[str] = 'faulty'
  metrics: ClassVar[tuple[str, ...]] = ('exact',)

  def load(self, folder='', split='', limit=None, size=224, method=''):
    scenes = data.scenes('test', 3 if limit is None else limit)
    if self.fault == 'limit':
      scenes = data.scenes('test', 3)

    def ask(picture):
      i = picture.image_id
      prompt = 'what\n' if self.fault == 'newline' else 'what'
      number = 'same' if self.fault == 'ids' else str(i)
      refs = () if self.fault == 'references' else ('red',)
      if self.fault == 'questions':
        return ()
      if self.fault == 'again':
        prompt += str(limit)
      return (data.Question(prompt, refs, '', number),)

    return data.Asked(scenes, ask)

  def read(self, text, asked):
    if self.fault == 'read':
      return None
    return {'backwards': '' if text else 'red'}.get(self.fault, text)

  @property
  def max_tokens(self):
    return 0 if self.fault == 'length' else 8


@pytest.mark.parametrize(
  ('fault', 'said'),
  [
    ('limit', 'limit=1 must leave 1 picture, not 3'),
    ('newline', 'without a newline at its end'),
    ('ids', 'ids of questions must differ'),
    ('references', 'references must be a tuple of texts'),
    ('questions', 'picture 0 has no question'),
    ('again', 'differ with limit=1'),
    ('read', "read of '': got None, expected a text"),
    ('backwards', 'right answers of `write` score 0.0, none 1.0'),
    ('length', 'max_tokens must be a positive int, got 0'),
  ],
)
def test_the_contract_finds_faults(without_types, fault, said):
  testing.check_task(Faulty())
  with pytest.raises(AssertionError, match=said):
    testing.check_task(Faulty(fault))
