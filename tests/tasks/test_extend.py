"""The page on a task of one's own: its lines run, and keep the contract."""

import pathlib
import re
import sys

from collab_jax import codecs as codecs_lib
from collab_jax import tasks, testing
from tests import standin
from tests.data import photos

PAGE = pathlib.Path(__file__).parents[2] / 'docs/extend.md'


def test_the_task_of_the_page(tmp_path, monkeypatch):
  section = PAGE.read_text().split('## A task of your own')[1]
  blocks = re.findall(r'```python\n(.*?)```', section.split('\n## ')[0], re.S)
  module = type(sys)('mine')
  monkeypatch.setitem(sys.modules, 'mine', module)
  exec(
    'import dataclasses\nfrom typing import ClassVar\n'
    'import jax\nimport collab_jax as cj\n',
    module.__dict__,
  )
  for block in blocks:
    exec(block, module.__dict__)
  lines = ['picture,question,answer']
  for i in range(3):
    photos.write(tmp_path / f'{i}.jpg', i)
    lines += [f'{i}.jpg,what is written,stop', f'{i}.jpg,how many,{i}']
  (tmp_path / 'test.csv').write_text('\n'.join(lines))
  name = 'mine:Signs(prompt=read {question})'
  testing.check_task(name, tmp_path)
  testing.check_task('mine:SaidSigns', tmp_path)
  task = tasks.make(name)
  answers = module.first_answers(tmp_path, standin.small())
  assert len(answers) == 2
  assert all(isinstance(answer, str) for answer in answers)
  model = standin.small()
  codecs = [codecs_lib.FeatureCodec(model, 'identity')]
  (row,) = module.compare(tmp_path, model, codecs)
  assert (row['images'], row['questions']) == (3, 6)
  assert {*task.metrics} == {*row['metrics']}
