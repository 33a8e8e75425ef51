"""The config for released models, from a folder of COCO to the figure.

The models are small and random, in the layouts in which the released ones are
downloaded; the pictures have 224 px. Settings are the config's own.
"""

import dataclasses
import functools
import json
from pathlib import Path
import re
import signal
import time

import pytest

from collab_jax import (
  checkpoints,
  evaluation,
  studies,
)
from collab_jax import config as config_lib
from collab_jax.evaluation import record_store
from collab_jax.models import zoo
from configs import paligemma_coco, tradeoff
from tests import launching
from tests.checkpoints import released
from tests.data import photos

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/paligemma_coco.py'
PUBLISHED = 'paligemma-3b-ft-cococap-224'
METHODS = 6
# Of the config's eight k and three seeds, as each quantizer is compiled anew.
K, SEEDS = 128, (0, 1)
BLIND = 3
PICTURES = 6


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Both layouts of a model, and COCO with its own list and Karpathy's."""
  root = tmp_path_factory.mktemp('downloads')
  for layout in ('npz', 'huggingface'):
    released.at_224(layout, root / layout)
  photos.coco(root / 'coco', range(1, PICTURES + 1))
  photos.karpathy(root / 'karpathy', each=PICTURES)
  return root


def flags_of(folders, layout, coco, workdir, protocol='fig3', ks=(K,)):
  return (
    f'--config={CONFIG}:protocol={protocol},model={folders / layout},res=224',
    f'--config.data_dir={folders / coco}',
    f'--workdir={workdir}',
    *(
      (f'--config.ks={ks}', f'--config.seeds={SEEDS}')
      if protocol == 'fig3'
      else ()
    ),
  )


@pytest.fixture(scope='module')
def swept(folders, launch, tmp_path_factory):
  """Fig. 3, killed on the way and resumed."""
  workdir = tmp_path_factory.mktemp('fig3')
  flags = flags_of(folders, 'huggingface', 'karpathy', workdir)
  path = workdir / 'records.jsonl'
  first = launching.Launched('experiments/evaluate.py', *flags)
  while not path.exists() or path.read_bytes().count(b'\n') < 2 * PICTURES:
    assert first.runs(), first.wait().stderr
    time.sleep(0.02)
  assert first.kill().returncode == -signal.SIGKILL
  kept = path.read_bytes()
  return launch('evaluate', *flags), workdir, kept


def test_the_sweep_goes_on_after_a_kill(swept):
  done, workdir, kept = swept
  assert done.returncode == 0, done.stderr
  path = workdir / 'records.jsonl'
  whole = kept[: kept.rindex(b'\n') + 1]
  assert path.read_bytes().startswith(whole)
  records = evaluation.read_records(path)
  total = PICTURES * (METHODS * len(SEEDS) + 1 + BLIND)
  assert 2 * PICTURES <= whole.count(b'\n') < total
  assert len({record_store.key_of(r) for r in records}) == len(records) == total
  assert {r['data'] for r in records} == {'coco/val'}
  assert {r['decoding'] for r in records} == {'greedy'}
  assert {r['vectors'] for r in records} == {256}
  assert {r['sent'] for r in records} == {0, K, 256}
  assert all(r['references'] == ['A dog.', 'A wet dog runs.'] for r in records)
  settings = json.loads((workdir / 'records.settings.json').read_text())
  assert settings['captioner'] == {
    'decoding': 'greedy',
    'max_tokens': 32,
    'prompt': 'caption en',
  }
  assert settings['preprocess'] == 'bv_bilinear'


def test_the_sweep_is_drawn(swept, launch, tmp_path):
  _, workdir, _ = swept
  names = {path.name for path in workdir.iterdir()}
  figures = {'fig3.png', 'fig3.svg', 'fig3_bytes.png', 'fig3_bytes.svg'}
  assert names >= figures | {'table.txt', 'summary.json', 'config.json'}
  rows = json.loads((workdir / 'summary.json').read_text())['rows']
  assert len(rows) == METHODS + 1 + BLIND
  assert {row['images'] for row in rows} == {PICTURES}
  done = launch(
    'plot',
    f'--records={workdir}/records.jsonl',
    f'--workdir={tmp_path}',
    '--resamples=5',
  )
  assert done.returncode == 0, done.stderr
  assert {path.name for path in tmp_path.iterdir()} >= figures


def test_shards_make_the_same_records(swept, folders, launch, tmp_path):
  _, workdir, _ = swept
  flags = flags_of(folders, 'huggingface', 'karpathy', tmp_path)
  for shard in range(2):  # By hand, as on two machines.
    done = launch('sweep', *flags, f'--shard={shard}/2')
    assert done.returncode == 0, done.stderr
  assert not (tmp_path / 'records.jsonl').exists()
  # Nothing is left to do but to join them, which needs no model.
  done = launch('sweep', *flags)
  assert done.returncode == 0, done.stderr
  assert not (tmp_path / 'units').exists()
  got, want = (
    {record_store.key_of(r): r for r in evaluation.read_records(folder)}
    for folder in (tmp_path, workdir)
  )
  assert got.keys() == want.keys()
  for key, record in got.items():
    assert {**record, 'seconds': None} == {**want[key], 'seconds': None}
  assert (tmp_path / 'fig3.svg').exists()


@pytest.fixture(scope='module')
def captioned(folders, launch, tmp_path_factory):
  """Runs big_vision's protocol, once for each pair of folders."""

  @functools.cache
  def run(layout, coco):
    workdir = tmp_path_factory.mktemp('cococap')
    flags = flags_of(folders, layout, coco, workdir, 'cococap')
    return launch('evaluate', *flags), workdir

  return run


@pytest.mark.parametrize(
  ('layout', 'coco', 'name'),
  [
    ('npz', 'coco', 'coco/val2014'),
    ('npz', 'karpathy', 'coco/val'),
    ('huggingface', 'coco', 'coco/val2014'),
  ],
)
def test_big_vision_s_protocol(captioned, layout, coco, name):
  done, workdir = captioned(layout, coco)
  assert done.returncode == 0, done.stderr
  records = evaluation.read_records(workdir / 'records.jsonl')
  assert len(records) == PICTURES
  assert {r['name'] for r in records} == {'identity'}
  assert {r['data'] for r in records} == {name}
  assert {r['decoding'] for r in records} == {'beam(beams=2,alpha=0.0)'}
  lines = done.stdout.splitlines()
  [line] = [line for line in lines if line.startswith('all vectors')]
  assert lines[lines.index(line) - 1].split()[-2:] == ['CIDEr', 'ROUGE-L']
  assert line.startswith(f'all vectors {PICTURES:9}  ')
  assert 'fig3' not in done.stdout


def test_layouts_make_the_same_captions(captioned):
  first, second = (
    [r['caption'] for r in evaluation.read_records(workdir / 'records.jsonl')]
    for _, workdir in (captioned(c, 'coco') for c in ('npz', 'huggingface'))
  )
  assert first == second
  assert len(set(first)) > 1


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    (
      'decoding',
      'greedy',
      r"captioner\.decoding: the file has 'beam\(beams=2,alpha=0\.0\)', this"
      " run 'greedy'",
    ),
    (
      'preprocess',
      'hf_bicubic',
      "preprocess: the file has 'bv_bilinear', this run 'hf_bicubic'",
    ),
  ],
)
def test_other_settings_are_refused(captioned, folders, field, value, said):
  _, workdir = captioned('npz', 'coco')
  config = paligemma_coco.get_config('protocol=cococap')
  config.model = str(folders / 'npz')
  config.data_dir = str(folders / 'coco')
  config[field] = value
  path = workdir / 'records.jsonl'
  before = path.read_bytes()
  with pytest.raises(evaluation.SettingsError, match=said):
    studies.TradeoffStudy(config).run(path, progress=False)
  assert path.read_bytes() == before


def test_plots_refuse_to_mix_decodings(swept, launch, tmp_path):
  _, workdir, _ = swept
  lines = (workdir / 'records.jsonl').read_text().splitlines()
  drawn = [
    json.loads(line) | {'decoding': 'sample'} for line in lines[-3 * PICTURES :]
  ]
  other = tmp_path / 'other.jsonl'
  other.write_text(''.join(json.dumps(r) + '\n' for r in drawn))
  with pytest.raises(ValueError, match=r'decoding of .*"sample".*"greedy"'):
    evaluation.read_records(workdir / 'records.jsonl', other)
  first = tmp_path / 'first.jsonl'
  names = {r['name'] for r in drawn}
  kept = [line for line in lines if json.loads(line)['name'] not in names]
  first.write_text(''.join(line + '\n' for line in kept))
  done = launch('plot', f'--records={first},{other}')
  assert done.returncode == 1
  assert 'several models, data sets or decodings' in done.stderr


def test_a_released_name_with_its_path(folders, monkeypatch, tmp_path):
  config = paligemma_coco.get_config(f'protocol=cococap,model={PUBLISHED}')
  with pytest.raises(
    ValueError, match=f'as in --config.model_path=.*{PUBLISHED}'
  ):
    studies.load_model(config)
  config.model_path = str(folders / 'npz' / 'pt_224.npz')
  small = checkpoints.config_of(folders / 'npz')
  card = dataclasses.replace(zoo.card(PUBLISHED), config=small)
  monkeypatch.setattr(zoo, 'card', lambda name: {PUBLISHED: card}[name])
  with pytest.raises(
    ValueError, match='tokenizer: is empty, and there is none'
  ):
    studies.load_model(config)
  config.tokenizer = str(folders / 'npz' / 'paligemma_tokenizer.model')
  config.data_dir = str(folders / 'coco')
  config.limit = 2
  model = studies.load_model(config)
  leaf = model.params['img']['pos_embedding']
  assert (leaf.shape, leaf.dtype) == ((1, 256, 32), 'bfloat16')
  records = studies.TradeoffStudy(config).run(
    tmp_path / 'r.jsonl', progress=False
  )
  assert [r['image_id'] for r in records] == [1, 2]
  config.res = 448
  with pytest.raises(ValueError, match=r'res: got 448, the pictures of .* 224'):
    studies.load_model(config)


@pytest.mark.parametrize(
  ('arg', 'model', 'decoding'),
  [
    ('', 'paligemma-3b-mix-224', 'greedy'),
    ('protocol=smoke', 'paligemma-3b-mix-224', 'greedy'),
    ('protocol=cococap', PUBLISHED, 'beam2'),
    ('protocol=cococap,res=448', 'paligemma-3b-ft-cococap-448', 'beam2'),
    (f'model={PUBLISHED},res=224,decode=beam2', PUBLISHED, 'beam2'),
    ('model=paligemma2-3b-pt,res=896', 'paligemma2-3b-pt-896', 'greedy'),
    ('model=weights/mine,res=448', 'weights/mine', 'greedy'),
    (
      'model=paligemma-3b-mix-448,decode=sample(top_p=0.9)',
      'paligemma-3b-mix-448',
      'sample(top_p=0.9)',
    ),
  ],
)
def test_arguments(arg, model, decoding):
  config = paligemma_coco.get_config(arg)
  assert (config.model, config.decoding) == (model, decoding)
  if 'weights' not in model:
    assert model in zoo.NAMES
  assert set(config) == set(tradeoff.get_config())


def test_arguments_that_contradict_each_other():
  with pytest.raises(
    config_lib.ConfigError, match=r'res=448.*which has 224 px'
  ):
    paligemma_coco.get_config(f'model={PUBLISHED},res=448')
  with pytest.raises(config_lib.ConfigError, match="mean 'cococap'"):
    paligemma_coco.get_config('protocol=cococaps')


def test_the_sweep_is_the_paper_s():
  config, paper = paligemma_coco.get_config(), tradeoff.get_config()
  for field in ('methods', 'ks', 'seeds', 'full', 'blind', 'split', 'prompt'):
    assert config[field] == paper[field]
  selectors = studies.make_quantizers(config)
  assert len(set(selectors)) == len(selectors) == METHODS * 8 + 1


def test_decodings_are_checked_before_work_begins(tmp_path):
  config = paligemma_coco.get_config('decode=beam')
  config.decoding = 'beem2'
  with pytest.raises(ValueError, match=r"got 'beem2'.*did you mean 'beam'"):
    studies.TradeoffStudy(config).run(tmp_path / 'records.jsonl')
  assert not list(tmp_path.iterdir())


def test_the_page_has_the_estimates():
  done = launching.run('tools/estimate.py')
  assert done.returncode == 0, done.stderr
  page = (ROOT / 'docs/reproduce.md').read_text()
  for block in done.stdout.strip().split('\n\n'):
    assert block in page


def test_the_page_s_commands_are_understood():
  page = (ROOT / 'docs/reproduce.md').read_text().replace('\\\n', ' ')
  commands = re.findall(r'--config=configs/paligemma_coco.py:(\S+)(.*)', page)
  assert len(commands) == 5
  for arg, overrides in commands:
    config = paligemma_coco.get_config(arg)
    config_lib.check_overrides(config, overrides.split())


def test_smoke_needs_no_data(folders, tmp_path):
  """A released model's whole way on the photographs that ship."""
  arguments = f'protocol=smoke,model={folders / "huggingface"},res=224'
  config = paligemma_coco.get_config(arguments)
  config.max_tokens = 4
  study = studies.TradeoffStudy(config)
  records = study.run(tmp_path / 'records.jsonl', progress=False)
  assert len(records) == 2 * 7
  assert {record['data'] for record in records} == {'photos/test'}
  # Nothing is known of the pictures that it was trained on.
  assert not any('unlike' in record for record in records)
