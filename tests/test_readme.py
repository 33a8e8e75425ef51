"""Lines of Python in the README and the first pages run."""

import ast
import dataclasses
import pathlib
import re
import shutil

import numpy as np
from PIL import Image
import pytest

import collab_jax as cj
from collab_jax import codecs
from collab_jax.models import zoo
from collab_jax.training import vocabulary
from tests import standin
from tests.checkpoints.released import GOLDEN, config_of

ROOT = pathlib.Path(__file__).parents[1]
NAME = 'paligemma-3b-mix-224'


def _blocks(page):
  """Returns the blocks of Python in a page."""
  text = (ROOT / page).read_text()
  return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


SNIPPETS = {
  'npz' if '.npz' in block else 'huggingface': block
  for block in _blocks('docs/checkpoints.md')
  if 'cat.png' in block
}


@pytest.fixture
def files(tmp_path, monkeypatch):
  """Small models under the names of the released ones, and a picture."""
  monkeypatch.chdir(tmp_path)
  words = vocabulary.train_tokenizer(['a red ball on the grass'] * 3, 300)
  shutil.copy(GOLDEN / 'pg1_56/model.npz', 'mix_224.npz')
  pathlib.Path('paligemma_tokenizer.model').write_bytes(words)
  folder = pathlib.Path('google') / NAME
  shutil.copytree(GOLDEN / 'pg1_56/hf_old_sharded', folder)
  (folder / 'tokenizer.model').write_bytes(words)
  picture = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
  Image.fromarray(picture).save('cat.png')
  card = dataclasses.replace(zoo.card(NAME), config=config_of('pg1_56'))
  monkeypatch.setattr(zoo, 'card', lambda name: {NAME: card}[name])
  return picture


@pytest.mark.parametrize('kind', ['npz', 'huggingface'])
def test_a_picture_is_captioned_in_six_lines(files, capsys, kind):
  source = SNIPPETS[kind]
  assert len([line for line in source.splitlines() if line.strip()]) <= 6
  assert source.count("'cat.png', 224") == 1
  scope = {}
  exec(source.replace("'cat.png', 224", "'cat.png', 56"), scope)
  printed = capsys.readouterr().out
  model = cj.load(
    GOLDEN / 'pg1_56/model.npz',
    config=config_of('pg1_56'),
    tokenizer='paligemma_tokenizer.model',
  )
  features = model.encode_image(codecs.to_float(files[None]))
  np.testing.assert_allclose(
    scope['features'], model.project(features), rtol=0, atol=1e-5
  )
  assert printed == f'{cj.Captioner(model)(model.project(features))}\n'
  assert len(printed) > 10


def test_the_first_screen_is_short_and_its_lines_run():
  text = (ROOT / 'README.md').read_text()
  assert len(text.splitlines()) <= 120
  block = _blocks('README.md')[0]
  assert len(ast.parse(block).body) == 1 + 6
  small = {
    "cj.load('tiny')": f'cj.load({standin.shipped()!r})',
    '(2, 4, 8, 16)': '(2, 4)',
    'limit=100': 'limit=2',
  }
  for old, new in small.items():
    assert old in block
    block = block.replace(old, new)
  scope = {}
  exec(block, scope)
  assert len({record['name'] for record in scope['records']}) == 3
