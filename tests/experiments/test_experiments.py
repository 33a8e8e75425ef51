"""The launchers, as users start them, and what they say of mistakes."""

import collections
import importlib
import json
from pathlib import Path
import re
import subprocess
import sys

import jaxtyping
from PIL import Image
import pytest

from collab_jax import (
  checkpoints,
  codecs,
  data,
  evaluation,
  quantizers,
  studies,
)
from collab_jax.models import paligemma
from configs import tradeoff
from tests import launching, standin
from tests.data import photos

ROOT = Path(__file__).parents[2]
SMOKE = '--config=configs/tradeoff.py:mode=smoke'


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('demo')
  model = f'--config.model={standin.folder()}'
  flags = (SMOKE, model, '--config.ks=(2,)', f'--workdir={workdir}')
  script, counts = 'tests/experiments/counted_demo.py', workdir / 'counts.json'
  return launching.alone(script, *flags, COUNTS=str(counts)), workdir


def test_demo(demo):
  done, workdir = demo
  assert done.returncode == 0, done.stderr
  names = {path.name for path in workdir.iterdir()}
  figures = {'fig2', 'fig2_photos', 'fig3', 'fig3_bytes'}
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
  counts = json.loads((workdir / 'counts.json').read_text())
  assert {name.partition(' ')[0] for name in counts} == {
    'collab_jax.checkpoints.load',
    'collab_jax.data.make',
    'collab_jax.quantizers.make',
    'collab_jax.sharding.make_mesh',
  }
  assert set(counts.values()) == {1}, counts


def test_a_study_makes_model_data_and_codecs_once(tmp_path, monkeypatch):
  config = tradeoff.get_config('mode=smoke')
  config.model, config.ks, config.limit = str(standin.folder()), (2,), 2
  calls = collections.Counter()

  def count(owner, name):
    original = getattr(owner, name)

    def counted(*args, **kw):
      calls[f'{owner.__name__}.{name}'] += 1
      return original(*args, **kw)

    monkeypatch.setattr(owner, name, counted)

  count(checkpoints, 'load')
  count(data, 'make')
  count(quantizers, 'make')
  study = studies.TradeoffStudy(config)
  study.validate()
  study.describe()
  records = study.run(tmp_path / 'records.jsonl', progress=False)
  study.report(records, tmp_path)
  study.draw_fig2(tmp_path / 'fig2')
  assert calls == {
    'collab_jax.checkpoints.load': 1,
    'collab_jax.data.make': 1,
    # Of all methods, and of the features behind blind captions.
    'collab_jax.quantizers.make': len(config.methods) + 1,
  }


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
  done = launch(
    'plot',
    f'--records={workdir}',
    f'--workdir={tmp_path / "cider"}',
    '--resamples=5',
    '--y=cider',
  )
  assert done.returncode == 0, done.stderr
  assert "share of all vectors' CIDEr kept" in done.stdout
  (tmp_path / 'again.jsonl').write_bytes(
    (workdir / 'records.jsonl').read_bytes()
  )
  done = launch(
    'plot',
    f'--records={workdir},{tmp_path}/again.jsonl',
    '--panels',
    f'--workdir={tmp_path}',
    '--resamples=5',
  )
  assert done.returncode == 0, done.stderr
  drawn = (tmp_path / 'fig3_panels.svg').read_text()
  assert drawn.count('<!-- scenes/test, 6 pictures') == 2


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--y=blue4'], "metric: got 'blue4'; did you mean 'bleu4'?"),
    ([], 'expected a folder with records.jsonl, units'),
  ],
)
def test_plot_refuses_in_one_line(launch, tmp_path, flags, said):
  done = launch('plot', f'--records={tmp_path}', *flags)
  assert done.returncode != 0
  assert said in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


def test_caption(launch, tmp_path):
  path = tmp_path / 'picture.png'
  image = Image.fromarray(data.scenes('test')[0].image)
  image.resize((300, 200)).save(path)
  flags = (
    f'--image={path}',
    f'--model={standin.folder()}',
    '--k=4',
    '--max_tokens=4',
    '--quantizer=random(rebuild=keep)',
  )
  done = launch('caption', *flags, '--coding=fixed')
  assert done.returncode == 0, done.stderr
  assert 'random(k=4,rebuild=keep)\n' in done.stdout
  # 64 bits of mask and 4 vectors of 16 numbers of two bytes.
  assert '141 (header 5, mask 8, vectors/x 128)' in done.stdout
  assert '4 of 64 (6.2%)' in done.stdout
  best = launch('caption', *flags)
  assert best.returncode == 0, best.stderr
  said = best.stdout[best.stdout.index('random(k=4,rebuild=keep)/best\n') :]
  # Which 4 of 64 is 20 bits.
  total, mask = re.search(r'(\d+) \(header \d, mask (\d+), ', said).groups()
  assert int(total) < 141
  assert 3 <= int(mask) <= 5
  captions = [re.findall('caption .*', d.stdout) for d in (done, best)]
  assert captions[0] == captions[1]


def test_caption_of_a_file(launch, tmp_path):
  path = tmp_path / 'picture.png'
  Image.fromarray(data.scenes('test')[0].image).save(path)
  done = launch(
    'caption',
    f'--image={path}',
    f'--model={standin.folder()}',
    '--codec=webp(quality=30,size=32,strip=true)',
    '--max_tokens=4',
  )
  assert done.returncode == 0, done.stderr
  said = done.stdout[done.stdout.index('webp(quality=30,size=32,strip=true)') :]
  assert '64 of 64 (100.0%)' in said
  assert re.search(r'bytes +\d+ \(header [12], pixels \d+\)', said)


def test_boxes_of_a_caption_are_in_pixels_of_the_file(launch, tmp_path):
  path = tmp_path / 'scene.png'
  scene = Image.fromarray(data.scenes('test')[3].image)
  scene.resize((640, 320)).save(path)
  done = launch('caption', f'--image={path}', '--prompt=detect heart')
  assert done.returncode == 0, done.stderr
  boxes = re.findall('  box      (.*)', done.stdout)
  assert len(boxes) == done.stdout.count(' heart\n') == 2
  for box in boxes:
    edges = [*map(int, re.findall(r'[a-z] (\d+)', box))]
    assert box.startswith('heart: left ')
    assert box.endswith(' of 640 x 320 pixels')
    # The heart is in the left half, and twice as wide as high in this file.
    assert 0 < edges[0] < edges[2] < 400
    assert 0 < edges[1] < edges[3] < 320


def test_a_book_says_how_it_was_made(launch, tmp_path):
  done = launch(
    'train_codebook',
    '--config=configs/codebook.py:mode=smoke',
    f'--config.model={standin.folder()}',
    '--config.kind=shared',
    '--config.metric=plain',
    f'--workdir={tmp_path}',
  )
  assert done.returncode == 0, done.stderr
  names = 'book.safetensors config.json summary.json vectors.npy'
  assert names in done.stdout
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['kind'] == 'shared'
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['settings'] == config
  assert summary['made_with']['versions']['jax']
  assert summary['fingerprint'] in done.stdout
  assert summary['notes']['size'] == '4'


@pytest.mark.parametrize(
  ('script', 'flags', 'said'),
  [
    (
      'demo',
      ['--config.limt=3'],
      "field of --config: got 'limt'; did you mean 'limit'?",
    ),
    ('evaluate', ['--config=configs/tradeof.py'], 'configs/tradeoff.py'),
    ('train_codebook', ['--config.stage=2'], "did you mean 'stages'?"),
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


def test_every_field_is_read():
  files = (ROOT / 'collab_jax/studies').glob('*.py')
  source = ''.join(path.read_text() for path in files)
  read = set(re.findall(r'(?:config|fields)\.(\w+)', source))
  read |= set(
    re.findall(r"'(\w+)'", re.search(r'for n in \((.*)\)', source)[1])
  )
  assert set(tradeoff.get_config()) - read == set()


@pytest.mark.parametrize('mode', tradeoff.MODES)
def test_modes_make_codecs(mode):
  config = tradeoff.get_config(f'mode={mode}')
  specs = studies.make_specs(config.copy_and_resolve_references())
  names = {spec.bind(STUB).name for spec in specs}
  assert len(names) == len(config.methods) * len(config.ks) + 1
  assert len(studies.make_data(config)) == config.limit


def test_codecs_beside_methods():
  config = tradeoff.get_config('mode=smoke')
  config.codecs = (
    'jpeg(quality=9,size=64)',
    'avif(strip=true)',
    'top_norm(k=3)',
  )
  bound = [spec.bind(STUB) for spec in studies.make_specs(config)]
  assert [codec.name for codec in bound[-3:]] == [
    'jpeg(quality=9)',
    'avif(quality=75,strip=true)',
    'top_norm(k=3)',
  ]
  config.model = str(standin.folder())
  studies.TradeoffStudy(config).validate()


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('jpg(quality=3)', "codec: got 'jpg'; did you mean 'jpeg'"),
    ('kmean(k=3)', "codec: got 'kmean'; did you mean 'kmeans'"),
    ('webp(qualty=3)', "setting of webp: got 'qualty'; did you mean 'qual"),
    (
      'webp(quality=300)',
      'quality of webp: got 300, expected an',
    ),
    ('webp(quality=fine)', "quality of webp: got 'fine'"),
    ('webp(size=65)', 'size: got 65 px, expected at most the 64 px'),
    ('webp(chroma=444)', 'chroma: got 444, expected 420 for webp'),
    ('webp(strip=maybe)', "strip: got 'maybe', expected true or false"),
    ('webp(kind=jpeg)', "setting of webp: got 'kind'"),
    ('webp(', "codec: got 'webp\\(', expected 'name'"),
    ('kmeans(k=300)', 'k: got 300, expected at most'),
    ('jpeg(quality=8,size=64)', r'jpeg\(quality=8\) is there twice'),
  ],
)
def test_other_codecs_are_refused_before_work_begins(text, said):
  config = tradeoff.get_config('mode=smoke')
  config.model = str(standin.folder())
  config.codecs = ('jpeg(quality=8)', text)
  # As it is for a user, whose signatures are not checked.
  jaxtyping.config.update('jaxtyping_disable', True)
  try:
    with pytest.raises(ValueError, match=said):
      studies.TradeoffStudy(config).validate()
  finally:
    jaxtyping.config.update('jaxtyping_disable', False)


# As much of a model as a codec needs before it runs.
STUB = paligemma.Model(
  params={'img': {'head': {}}},
  config=paligemma.Config.from_dict({**standin.CONFIG, 'patch_size': 4}),
)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('pool', ('pool', {})),
    ('kmeans(init=++,iters=3)', ('kmeans', {'init': '++', 'iters': 3})),
    ('a.b:C(x=-1)', ('a.b:C', {'x': -1})),
  ],
)
def test_methods_are_parsed(text, expected):
  assert codecs.parse_method(text) == expected


@pytest.mark.parametrize(
  'text',
  ['', 'kmeans(++)', 'kmeans(init=++', 'a)b(', 'kmeans(k=4)', 'a(b=1,b=2)'],
)
def test_other_methods_are_refused(text):
  with pytest.raises(ValueError, match='expected'):
    codecs.parse_method(text)


def test_unknown_data_is_refused():
  config = tradeoff.get_config()
  config.data = 'cocoa'
  with pytest.raises(ValueError, match=r"got 'cocoa'.*did you mean 'coco'"):
    studies.make_data(config)
  config.data = 'coco'
  with pytest.raises(ValueError, match='data_dir: is empty'):
    studies.make_data(config)


def test_data_of_a_folder(tmp_path):
  photos.coco(tmp_path)
  config = tradeoff.get_config('mode=smoke')
  config.data, config.data_split = 'coco', 'val'
  config.data_dir, config.preprocess = str(tmp_path), 'bv_bilinear'
  reader = studies.make_data(config, 28)
  assert (len(reader), reader.size, reader.method) == (5, 28, 'bv_bilinear')


def test_photographs_from_folder_to_figure(launch, tmp_path):
  photos.coco(tmp_path)
  paths = sorted((tmp_path / 'val2014').iterdir())
  paths[2].write_bytes(paths[2].read_bytes()[:300])
  flags = (
    SMOKE,
    f'--config.model={standin.folder()}',
    '--config.data=coco',
    '--config.data_split=val',
    f'--config.data_dir={tmp_path}',
    '--config.ks=(2,)',
    f'--workdir={tmp_path}/run',
  )
  done = launch('evaluate', *flags)
  assert done.returncode == 0, done.stderr
  assert '1 of 5 pictures cannot be read and are left out' in done.stderr
  assert str(paths[2]) in done.stderr
  records = evaluation.read_records(tmp_path / 'run' / 'records.jsonl')
  assert {r['image_id'] for r in records} == {1, 2, 4, 5}
  assert {r['data'] for r in records} == {'coco/val2014'}
  assert len(records) == 4 * (2 * 2 + 1 + 3)
  paths[3].unlink()
  done = launch('evaluate', *flags)
  assert done.returncode != 0
  assert f'error: {paths[3]}, picture 4, is missing' in done.stderr
  assert 'Traceback' not in done.stderr


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
