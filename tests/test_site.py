"""The documentation's site, and the lines of code in its page on extending."""

import importlib
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np

import collab_jax as cj
from collab_jax import codecs, data, metrics, studies, testing
from configs import baselines, tradeoff
from tests import standin
from tests.data import photos

ROOT = pathlib.Path(__file__).parents[1]


def test_it_is_built_without_warnings(tmp_path):
  """Builds it without running the notebooks, which have tests of their own."""
  command = ['-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html']
  done = subprocess.run(
    [
      sys.executable,
      *command,
      '-Dnb_execution_mode=off',
      'docs',
      str(tmp_path),
    ],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  for module, names in {
    'quantizers': ('KMeans',),
    'quantizers.base': ('full_grid',),
    'quantizers.clusters.base': ('Clustering',),
    'quantizers.selectors.base': ('Selection',),
    'training.validate': ('check',),
    'training.finetune': ('finetune',),
    'training.memory': ('estimate', 'step_memory'),
    'training.finetune_step': ('LossWeights',),
  }.items():
    text = (tmp_path / 'api' / f'{module}.html').read_text()
    for name in names:
      assert f'id="collab_jax.{module}.{name}"' in text
  # Where "see `Clustering`" leads.
  text = (tmp_path / 'api' / 'quantizers.html').read_text()
  assert 'href="#collab_jax.quantizers.Clustering" title' in text
  # Nothing of a page is loaded from elsewhere.
  start = (tmp_path / 'index.html').read_text()
  notebook = (tmp_path / 'notebooks' / 'fig2_fig3.html').read_text()
  for page in (start, notebook):
    assert not re.findall(r'<(?:script|img)[^>]+src="(?:https?:)?//', page)
    assert not re.findall(
      r'<link[^>]+stylesheet[^>]+href="(?:https?:)?//', page
    )
  assert 'href="notebooks/quickstart.html"' in start
  assert 'href="rate_and_channels.html"' in notebook
  assert '/blob/main/colab/fig2_fig3.ipynb"' in notebook


def test_every_page_is_in_a_list():
  """Holds for pages in Markdown and notebooks; a list may be of any page."""
  docs = ROOT / 'docs'
  pages = [
    *docs.rglob('*.md'),
    *(docs / 'notebooks' / path.name for path in ROOT.glob('colab/*.ipynb')),
  ]
  listed = set()
  for page in pages:
    blocks = re.findall(r'```\{toctree\}\n(.*?)```', page.read_text(), re.S)
    listed |= {
      page.parent / line
      for block in blocks
      for line in block.split()
      if not line.startswith(':')
    }
  assert {
    p.with_name(p.name.removesuffix(p.suffix)) for p in pages
  } - listed == {docs / 'index'}


def _public_modules(module):
  """Yields the modules that `__all__` names, and those that theirs name."""
  for name in module.__all__:
    member = getattr(module, name)
    if isinstance(member, types.ModuleType):
      yield member.__name__
      if hasattr(member, '__all__'):
        yield from _public_modules(member)


def test_every_public_module_has_a_page_of_its_name():
  pages = {
    f'collab_jax.{path.stem}': path.read_text()
    for path in (ROOT / 'docs' / 'api').glob('*.md')
    if path.stem != 'index'
  }
  assert set(_public_modules(cj)) <= pages.keys()
  for name, text in pages.items():
    importlib.import_module(name)
    modules = re.findall(r'^\.\. (?:auto|current)module:: (\S+)', text, re.M)
    # A folder of modules alone has nothing else to list.
    assert modules == [name] or (name == 'collab_jax.models' and not modules)


def test_the_citation_has_the_version():
  text = (ROOT / 'CITATION.cff').read_text()
  assert re.findall(r'^version: (.*)$', text, re.M) == [cj.__version__]


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
  assert len(blocks) == 15
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
