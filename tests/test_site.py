"""The documentation's site, and the lines of code in its page on extending."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np

from collab_jax import codecs, data, metrics, studies, testing
from configs import baselines, tradeoff
from tests import standin
from tests.data import photos

ROOT = pathlib.Path(__file__).parents[1]


def test_it_is_built_without_warnings(tmp_path):
  command = ['-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html', 'docs']
  done = subprocess.run(
    [sys.executable, *command, str(tmp_path)],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  for page, names in {
    'quantizers': (
      'KMeans',
      'base.full_grid',
      'clusters.base.Clustering',
      'selectors.base.Selection',
    ),
    'training': (
      'validate.check',
      'finetune.finetune',
      'memory.estimate',
      'memory.step_memory',
      'finetune_step.LossWeights',
    ),
  }.items():
    text = (tmp_path / 'api' / f'{page}.html').read_text()
    for name in names:
      assert f'id="collab_jax.{page}.{name}"' in text
    if page == 'quantizers':  # Where "see `Clustering`" leads.
      assert (
        'href="#collab_jax.quantizers.clusters.base.Clustering" title' in text
      )
  # Nothing of the page is loaded from elsewhere.
  start = (tmp_path / 'index.html').read_text()
  assert not re.findall(r'<(?:script|img)[^>]+src="(?:https?:)?//', start)
  assert not re.findall(r'<link[^>]+stylesheet[^>]+href="(?:https?:)?//', start)


def test_every_page_is_in_a_list():
  listed = {
    line.strip()
    for block in re.findall(
      r'```\{toctree\}\n(.*?)```',
      (ROOT / 'docs' / 'index.md').read_text(),
      re.S,
    )
    for line in block.splitlines()
  }
  pages = (ROOT / 'docs').rglob('*.md')
  names = {str(p.relative_to(ROOT / 'docs').with_suffix('')) for p in pages}
  assert names - {'index'} <= listed


def _check_labelled(folder):
  """Reads the dataset of the page by the name that a config has."""
  for label in ('cat', 'dog'):
    path = folder / 'test' / label
    path.mkdir(parents=True)
    (path / '1.jpg').write_bytes(photos.jpeg())
  config = tradeoff.get_config('mode=smoke')
  config.model, config.data = str(standin.folder()), 'mine:Labelled'
  config.data_dir = str(folder)
  study = studies.TradeoffStudy(config)
  assert 'labelled/test, 2 pictures' in study.describe()
  assert [study.data[i].captions for i in range(2)] == [('a cat',), ('a dog',)]
  assert study.data[1].file == 'dog/1.jpg'
  assert study.data[1].image.shape == (64, 64, 3)


def _check_baselines():
  """Makes the codecs of the page's command."""
  config = baselines.get_config('mode=smoke')
  config.model = str(standin.folder())
  config.methods = ('mine:Unlike(rebuild=nearest)', 'mine:Slices')
  config.ks, config.codecs = (4,), ()
  study = studies.BaselineStudy(config)
  assert [spec.name for spec in study.specs] == [
    'mine:Unlike(k=4,rebuild=nearest)',
    'mine:Slices(k=4)',
    'identity',
  ]


def test_the_lines_on_extending_run(monkeypatch, tmp_path):
  """Runs them with smaller data and a stand-in for the trained model.

  The blocks that evaluate are run by a notebook, with other codecs.
  """
  text = (ROOT / 'docs' / 'extend.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', text, re.S)
  assert len(blocks) == 11
  checked = []

  def check(quantizer, n=16, d=8):
    check_quantizer(quantizer, n, d)
    checked.append(type(quantizer).__name__)

  check_quantizer = testing.check_quantizer
  monkeypatch.setattr(testing, 'check_quantizer', check)
  module = type(sys)('mine')
  monkeypatch.setitem(sys.modules, 'mine', module)
  for block in blocks:
    if 'cj.load(' not in block:
      exec(block, module.__dict__)
  assert checked == ['Slices', 'Unlike', 'Slices']
  codec = codecs.parse('mine:Colours(side=4)').bind(standin.small())
  images = np.stack([data.scenes('test', 2)[i].image for i in range(2)])
  messages = codec.encode(images)
  assert [len(message) for message in messages] == [48, 48]
  seen = codec.picture(messages[0])
  assert abs(seen.mean((0, 1)) - images[0].mean((0, 1))).max() < 1
  assert codec.decode(messages).x.shape[:2] == (2, codec.vectors)
  _check_labelled(tmp_path)
  _check_baselines()
  metric = metrics.make('mine:ColourRecall')
  refs = [['a red ring on a blue star'], ['a dog']]
  assert metric.score(['one red star', ''], refs) == 0.75
