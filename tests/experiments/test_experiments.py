"""The launchers, as users start them, and what they say of mistakes."""

import importlib
import json
import os
from pathlib import Path
import re
import subprocess
import sys

import ml_collections
from PIL import Image
import pytest

from collab_jax import data, evaluation, experiment
from collab_jax.models import paligemma
from configs import tradeoff
from tests import standin

ROOT = Path(__file__).parents[2]
SMOKE = '--config=configs/tradeoff.py:mode=smoke'


@pytest.fixture(scope='module')
def launch(tmp_path_factory):
  cache = tmp_path_factory.mktemp('cache')

  def start(script, *flags):
    return subprocess.run(
      [sys.executable, f'experiments/{script}.py', *map(str, flags)],
      cwd=ROOT,
      env={
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'JAX_COMPILATION_CACHE_DIR': str(cache),
      },
      capture_output=True,
      text=True,
      check=False,
    )

  return start


@pytest.fixture(scope='module')
def demo(launch, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('demo')
  model = f'--config.model={standin.folder()}'
  flags = (SMOKE, model, '--config.ks=(2,)', f'--workdir={workdir}')
  return launch('demo', *flags), workdir


def test_demo(demo):
  done, workdir = demo
  assert done.returncode == 0, done.stderr
  names = {path.name for path in workdir.iterdir()}
  figures = {'fig2', 'fig3', 'fig3_bytes'}
  assert names >= {f'{n}.{s}' for n in figures for s in ('png', 'svg')}
  assert names >= {'records.jsonl', 'table.txt', 'config.json'}
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['settings']['ks'] == [2]
  assert summary['made_with']['versions']['jax']
  records = evaluation.read_records(workdir / 'records.jsonl')
  # 6 pictures; two methods with one k and two seeds, all vectors, blind.
  assert len(records) == 6 * (2 * 2 + 1 + 3)
  for said in ('BLEU-4', 'k-means++', 'reference', 'records.jsonl', 'jax '):
    assert said in done.stdout
  assert '48/48' in done.stderr


def test_plot_needs_records_only(demo, launch, tmp_path):
  _, workdir = demo
  done = launch(
    'plot',
    f'--records={workdir}/*.jsonl',
    f'--workdir={tmp_path}',
    '--resamples=5',
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'fig3.svg').exists()
  assert 'BLEU-4' in done.stdout


def test_sweep_runs_its_share(launch, tmp_path):
  done = launch(
    'sweep',
    SMOKE,
    f'--config.model={standin.folder()}',
    '--config.limit=3',
    f'--workdir={tmp_path}',
    '--shard=2/3',
  )
  assert done.returncode == 0, done.stderr
  records = evaluation.read_records(*tmp_path.glob('units/*.jsonl'))
  assert {r['codec']['rebuild'] for r in records} == {'close'}
  assert len(records) == 3 * 2 * 2


def test_caption(launch, tmp_path):
  path = tmp_path / 'picture.png'
  image = Image.fromarray(data.scenes('test')[0].image)
  image.resize((300, 200)).save(path)
  done = launch(
    'caption',
    f'--image={path}',
    f'--model={standin.folder()}',
    '--k=4',
    '--max_tokens=4',
    '--method=random(rebuild=keep)',
  )
  assert done.returncode == 0, done.stderr
  assert 'random(k=4,rebuild=keep)' in done.stdout
  # 64 bits of mask and 4 vectors of 16 numbers of two bytes.
  assert '136 (mask 8, vectors/x 128)' in done.stdout
  assert '4 of 64 (6.2%)' in done.stdout


@pytest.mark.parametrize(
  ('script', 'flags', 'said'),
  [
    ('demo', ['--config.limt=3'], "no field 'limt'; did you mean 'limit'?"),
    ('evaluate', ['--config=configs/tradeof.py'], 'configs/tradeoff.py'),
    ('evaluate', [SMOKE[:-2] + 'ek'], "did you mean 'smoke'?"),
    ('sweep', ['--shard=2/2'], 'expected i/n with 0 <= i < n'),
    ('plot', ['--records=nowhere.jsonl'], 'nowhere.jsonl'),
    ('caption', ['--image=none.png', '--model=tinny'], "mean 'tiny'"),
  ],
)
def test_mistakes_are_told_in_a_line(launch, script, flags, said, tmp_path):
  if script != 'caption' and script != 'plot':
    flags = [*flags, f'--workdir={tmp_path}']
  done = launch(script, *flags)
  assert done.returncode != 0
  assert said in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--method=identity'], "method: got 'identity', which sends all vectors"),
    (['--k=300'], 'k = 300 vectors cannot be sent of n = 64; choose k <= 64'),
    (['--method=kmean'], "Did you mean 'kmeans'?"),
    (['--k=8'], 'none.png'),
  ],
)
def test_caption_refuses_before_it_loads(launch, tmp_path, flags, said):
  # The dimensions only: whatever reads more of the model fails otherwise.
  text = (standin.folder() / 'config.json').read_text()
  (tmp_path / 'config.json').write_text(text)
  flags = ['--image=none.png', f'--model={tmp_path}', *flags]
  done = launch('caption', *flags)
  assert done.returncode != 0
  assert done.stderr.strip().startswith('error: ')
  assert said in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('resamples', 0, 'resamples: got 0, expected a whole number'),
    ('level', 95.0, 'level: got 95.0, expected a number between 0 and 1'),
    ('seed', -1, 'seed: got -1, expected a whole number'),
    ('methods', ('kmean',), "Did you mean 'kmeans'"),
    ('methods', ('identity',), "'identity', which sends all vectors"),
    ('data', 'coco', "data: got 'coco'"),
  ],
)
def test_settings_are_checked_before_work_begins(tmp_path, field, value, said):
  config = tradeoff.get_config('mode=smoke')
  config.model = str(tmp_path / 'none')  # Not even looked for.
  config[field] = value
  with pytest.raises(ValueError, match=said):
    experiment.evaluate(config, tmp_path / 'records.jsonl')
  assert not list(tmp_path.iterdir())


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


def test_the_environment_s_cache_settings_are_kept(tmp_path):
  code = """
import jax
from collab_jax import experiment
with experiment.launched():
  print(jax.config.jax_compilation_cache_dir)
  print(jax.config.jax_persistent_cache_min_compile_time_secs)
  print(jax.config.jax_persistent_cache_min_entry_size_bytes)
"""

  def shown(**environment):
    kept = {n: v for n, v in os.environ.items() if not n.startswith('JAX_')}
    done = subprocess.run(
      [sys.executable, '-c', code],
      cwd=ROOT,
      env=kept | {'XDG_CACHE_HOME': str(tmp_path)} | environment,
      capture_output=True,
      text=True,
      check=True,
    )
    return done.stdout.split()

  assert shown() == [str(tmp_path / 'collab_jax'), '0.05', '-1']
  prefix = 'JAX_PERSISTENT_CACHE_MIN'
  assert shown(
    JAX_COMPILATION_CACHE_DIR='/elsewhere',
    **{f'{prefix}_COMPILE_TIME_SECS': '7', f'{prefix}_ENTRY_SIZE_BYTES': '9'},
  ) == ['/elsewhere', '7.0', '9']


def test_every_field_is_read():
  source = (ROOT / 'collab_jax/experiment.py').read_text()
  read = set(re.findall(r'(?:config|fields)\.(\w+)', source))
  read |= set(
    re.findall(r"'(\w+)'", re.search(r'for n in \((.*)\)', source)[1])
  )
  assert set(tradeoff.get_config()) - read == set()


@pytest.mark.parametrize('mode', tradeoff.MODES)
def test_modes_make_codecs(mode):
  config = tradeoff.get_config(f'mode={mode}')
  codecs = experiment.make_codecs(config.copy_and_resolve_references(), STUB)
  names = {codec.name for codec in codecs}
  assert len(names) == len(config.methods) * len(config.ks) + 1
  assert len(experiment.make_data(config)) == config.limit


# As much of a model as a codec needs before it runs.
STUB = paligemma.Model(
  params={},
  config=paligemma.Config.from_dict({**standin.CONFIG, 'patch_size': 4}),
)


@pytest.mark.parametrize('methods', [None, ('top_norm', 'pool')])
def test_sweep_covers_the_config(methods):
  config = tradeoff.get_config()
  config.methods = methods or config.methods
  units = experiment.work_units(config, tradeoff.sweep)
  assert sum((unit.methods for unit in units), ()) == config.methods
  assert [unit.full for unit in units] == [True] + [False] * len(config.methods)
  assert config.full

  with pytest.raises(AttributeError, match='method'):
    experiment.work_units(config, lambda add, _: add(metods=()))


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('pool', ('pool', {})),
    ('kmeans(init=++,iters=3)', ('kmeans', {'init': '++', 'iters': 3})),
    ('a.b:C(x=-1)', ('a.b:C', {'x': -1})),
  ],
)
def test_methods_are_parsed(text, expected):
  assert experiment.parse_method(text) == expected


@pytest.mark.parametrize(
  'text',
  ['', 'kmeans(++)', 'kmeans(init=++', 'a)b(', 'kmeans(k=4)', 'a(b=1,b=2)'],
)
def test_other_methods_are_refused(text):
  with pytest.raises(ValueError, match='expected'):
    experiment.parse_method(text)


def test_unknown_data_is_refused():
  config = ml_collections.ConfigDict({'data': 'coco'})
  with pytest.raises(ValueError, match="got 'coco', expected one of"):
    experiment.make_data(config)


def test_launchers_are_short():
  for path in (ROOT / 'experiments').glob('*.py'):
    assert len(path.read_text().splitlines()) <= 90, path.name


def test_the_package_s_contents():
  package = importlib.import_module('collab_jax')
  for name in package.__all__:
    assert getattr(package, name) is not None
  assert set(package.__all__) <= set(dir(package))
  with pytest.raises(AttributeError, match="no attribute 'ImageCodex'"):
    _ = package.ImageCodex


def test_the_package_alone_loads_nothing():
  code = (
    'import sys, collab_jax; assert not {"jax", "matplotlib"} & {*sys.modules}'
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
