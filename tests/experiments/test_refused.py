"""Mistakes that launchers refuse, each in one line."""

import os
import re

import numpy as np
import pytest

from collab_jax import (
  checkpoints,
  codecs,
  studies,
)
from collab_jax.quantizers import pretrained
from configs import tradeoff
from tests import launching, standin
from tests.data import photos

SMOKE = '--config=configs/tradeoff.py:mode=smoke'


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--quantizer=identity'], "quantizer: got 'identity', which sends all"),
    (
      ['--k=300'],
      'k: got 300, expected at most n = 64 vectors; choose k <= 64',
    ),
    (['--quantizer=kmean'], "did you mean 'kmeans'?"),
    (['--k=8'], 'none.png'),
    (['--codec=webp', '--k=300'], 'k: is given beside codec, which says all'),
    (['--codec=pool(k=4)', '--quantizer=pool'], 'quantizer: is given beside'),
  ],
)
def test_caption_refuses_before_it_loads(launch, tmp_path, flags, said):
  # The dimensions only: whatever reads more of the model fails otherwise.
  text = (standin.folder() / 'config.json').read_text()
  (tmp_path / 'config.json').write_text(text)
  (tmp_path / 'model.npz').touch()
  flags = ['--image=none.png', f'--model={tmp_path}', *flags]
  done = launch('caption', *flags)
  assert done.returncode != 0
  assert done.stderr.strip().startswith('error: ')
  assert said in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('resamples', 0, 'resamples: got 0, expected an integer'),
    ('level', 95.0, 'level: got 95.0, expected a number between 0 and 1'),
    ('seed', -1, 'seed: got -1, expected an integer'),
    ('metrics', ('blue4',), "metric: got 'blue4'; did you mean 'bleu4'?"),
    ('metrics', (), r'metrics: got \(\), expected one or more names'),
    ('metrics', ('cider', 'cider'), 'metrics: cider is there twice'),
    ('methods', ('kmean',), "did you mean 'kmeans'"),
    ('methods', ('identity',), "'identity', which sends all vectors"),
    ('data', 'cocoa', "data: got 'cocoa'"),
    ('coding', 'zip', "coding: got 'zip', expected one of"),
    ('dtype', 'banana', "dtype: got 'banana', expected one of float32"),
    ('compute_dtype', 'bf16', "compute_dtype: got 'bf16', expected one of"),
    ('precision', 'low', "precision: got 'low', expected one of default"),
  ],
)
def test_settings_are_checked_before_work_begins(tmp_path, field, value, said):
  config = tradeoff.get_config('mode=smoke')
  config.model = str(tmp_path / 'none')  # Not even looked for.
  config[field] = value
  with pytest.raises(ValueError, match=said):
    studies.TradeoffStudy(config).run(tmp_path / 'records.jsonl')
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def codebook(tmp_path_factory):
  """Writes a codebook for the stand-in's width; says where."""

  def write(model):
    path = tmp_path_factory.mktemp('books') / 'book.safetensors'
    width = standin.small().config.vision.width
    arrays = {
      'codes': np.zeros((1, 4, width), np.float16),
      'counts': np.ones((1, 4), np.int32),
    }
    features = pretrained.FeatureSource(model, 'encoder')
    pretrained.save(
      path, arrays, kind='codebook', width=width, features=features
    )
    return path

  return write


@pytest.mark.parametrize(
  ('model', 'text', 'said'),
  [
    (
      '',
      'shared_vq(size=4,book={}.none)',
      r"book: got '.*none', expected one of",
    ),
    (
      '',
      'shared_vq(size=5,book={})',
      'expected 1 x 5 x 16|expected . x 5 x 16',
    ),
    ('', 'pca(dims=4,book={})', 'is for codebook, expected one for linear'),
    ('', 'shared_vq', 'for vectors of width 128, expected width 16'),
    ('abc', 'shared_vq(size=4,book={})', 'trained on features of model abc'),
  ],
)
def test_books_are_read_before_work_begins(
  tmp_path, codebook, model, text, said
):
  config = tradeoff.get_config('mode=smoke')
  config.model = str(standin.folder())
  text = text.format(codebook(model))
  config.codecs = (f'kmeans(k=2,centroids={text})',)
  with pytest.raises(pretrained.QuantizerParamsError, match=said):
    studies.TradeoffStudy(config).run(tmp_path / 'records.jsonl')
  assert not list(tmp_path.iterdir())


def test_a_book_of_the_model_is_taken(codebook):
  fingerprint = codecs.features_of(standin.small(), 'encoder').model
  config = tradeoff.get_config('mode=smoke')
  config.model = str(standin.folder())
  config.codecs = tuple(
    f'shared_vq(size=4,book={codebook(model)})' for model in ('', fingerprint)
  )
  studies.TradeoffStudy(config).validate()
  config.split = 'head'  # Of another width.
  with pytest.raises(
    pretrained.QuantizerParamsError, match='of width 16, expected width 24'
  ):
    studies.TradeoffStudy(config).validate()


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('pca(dims=999,book=random)', 'choose dims <= 128'),
    ('merge(k=5,centroids=pca(dims=200,book=random))', 'choose dims <= 128'),
    (
      'product_vq(groups=7,book=random)',
      'groups: got 7, expected a divisor of the width d = 128',
    ),
    ('ecvq(book=3)', "book: got 3, expected the name or path .* or 'random'"),
    ('ecvq(book=)', "book: got '', expected the name or path .* or 'random'"),
    ('merge(k=5,centroids=ecvq)', r"'tiny/ecvq' .* put it within pca\(dims"),
  ],
)
def test_codecs_that_do_not_fit_are_refused(unchecked, text, said):
  config = checkpoints.config_of('tiny')
  with pytest.raises(ValueError, match=said):
    codecs.parse(text).validate(config)


def test_caption_checks_books_before_it_captions(launch, tmp_path):
  codec = 'merge(k=5,centroids=pca(dims=128,vectors=ecvq))'
  path = tmp_path / 'picture.jpg'
  path.write_bytes(photos.jpeg())
  flags = (f'--image={path}', '--split=head', f'--codec={codec}')
  done = launch('caption', *flags)
  assert done.returncode == 1
  assert 'split encoder, these are of split head' in done.stderr
  assert not done.stdout


@pytest.mark.parametrize('script', ['evaluate', 'demo', 'sweep'])
def test_launchers_check_the_report_s_settings(launch, tmp_path, script):
  flags = (SMOKE, '--config.resamples=0', f'--workdir={tmp_path}')
  done = launch(script, *flags)
  assert done.returncode != 0
  assert 'error: resamples: got 0' in done.stderr
  assert 'Traceback' not in done.stderr
  assert not list(tmp_path.iterdir())


def test_plot_checks_its_settings_first(launch):
  done = launch('plot', '--records=nowhere.jsonl', '--level=2')
  assert 'error: level: got 2.0' in done.stderr


def test_the_environment_s_cache_settings_are_kept(tmp_path, monkeypatch):
  for name in list(os.environ):
    if name.startswith('JAX_'):
      monkeypatch.delenv(name)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
    'jax_persistent_cache_min_entry_size_bytes',
  )
  script = tmp_path / 'shown.py'

  def shown(start, before='', **environment):
    code = f"""
import jax
from collab_jax import launcher
{before}
with launcher.runtime():
  for name in {names}:
    print(getattr(jax.config, name))
"""
    script.write_text(code)
    done = start(script, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()

  # What JAX has where the environment says nothing.
  before = f"""
for name, value in zip({names}, (None, 1.0, 0)):
  jax.config.update(name, value)
"""
  assert shown(launching.run, before) == [
    str(tmp_path / 'collab_jax'),
    '0.05',
    '-1',
  ]
  given = dict(zip(names, ('/elsewhere', '7.0', '9'), strict=True))
  environment = {name.upper(): value for name, value in given.items()}
  assert shown(launching.alone, **environment) == list(given.values())


@pytest.mark.parametrize(
  ('contents', 'said'),
  [
    (
      photos.bomb(10_000),
      'is refused, it could fill the memory (10000 x 10000',
    ),
    (photos.jpeg()[:-100], 'is damaged or truncated'),
  ],
)
def test_bad_pictures_are_told_in_a_line(launch, contents, said, tmp_path):
  path = tmp_path / 'picture.png'
  path.write_bytes(contents)
  model = f'--model={standin.folder()}'
  done = launch('caption', f'--image={path}', model)
  assert done.returncode == 1
  assert done.stderr.startswith('error: ')
  assert done.stderr.count('\n') == 1
  assert said in done.stderr
  assert str(path) in done.stderr


@pytest.mark.parametrize(
  ('dataset', 'said'),
  [
    ('coco_captions', r"need the extra 'tfds'|needs TensorFlow|be reached"),
    ('coco', r"got 'coco', expected one of coco_captions, scen"),
  ],
)
def test_prepare_fails_fast(launch, monkeypatch, tmp_path, dataset, said):
  for name in ('http_proxy', 'https_proxy'):
    monkeypatch.setenv(name, 'http://127.0.0.1:9')
  done = launch('prepare', f'--dataset={dataset}', f'--folder={tmp_path}')
  assert done.returncode == 1
  assert re.search(said, done.stderr)
  assert done.stderr.startswith('error: ')
  assert done.stderr.count('\n') == 1
  assert not [*tmp_path.iterdir()]
