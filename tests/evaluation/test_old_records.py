"""Records of version 0.1.0, which have no nested settings, are still read."""

import json
from pathlib import Path
import shutil

import pytest

from collab_jax import captioner as captioning
from collab_jax import codecs, data, evaluation, plots
from collab_jax.evaluation.report import settings
from tests import launching, standin

OLD = Path(__file__).parents[1] / 'golden/records_1'
# All but the image codec, whose records name the encoder's version.
TEXTS = (
  ('kmeans(k=2,init=++)', 'encoder', 'fixed'),
  ('kmeans(k=4,init=++)', 'encoder', 'fixed'),
  ('merge(k=2,smooth=2,centroids=scalar(bits=3))', 'encoder', 'best'),
  ('pool(k=4,n=64)', 'head', 'fixed'),
  ('identity', 'encoder', 'fixed'),
)
CHANNELS = 'erasure(p=0.3,rate=1e6)', 'erasure(p=0.0,rate=1e6)'


@pytest.fixture(scope='module')
def bound():
  plain = [codecs.parse(*text).bind(standin.small()) for text in TEXTS]
  links = [codecs.Link(plain[1], c, 'rows(parity=8)') for c in CHANNELS]
  return [*plain, *links]


def test_they_are_drawn(tmp_path):
  done = launching.run(
    'experiments/plot.py',
    f'--records={OLD}/records.jsonl',
    f'--workdir={tmp_path}',
    '--resamples=5',
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'fig3.svg').exists()
  table = (tmp_path / 'table.txt').read_text()
  for label in (
    'k-means++ ',
    'merge (smooth=2, centroids=scalar(bits=3), coded)',
    'pool (n=64, split=head)',
    'JPEG 32 px',
    'all vectors',
    'blind: mean features',
  ):
    assert f'\n{label}' in table
  rows = evaluation.summarize(
    evaluation.read_records(OLD / 'records.jsonl'), resamples=5
  )
  (sweep,) = evaluation.link_curves(rows)
  assert sweep.channel == 'erasure(rate=1000000.0)'
  curve = sweep.curves['kmeans(k=4,init=++) | rows(parity=8)']
  assert [x for x, _ in curve] == [0.0, 0.3]
  assert plots.channel(rows).axes


def test_they_have_the_settings_of_today(bound):
  records = evaluation.read_records(OLD / 'records.jsonl')
  old = {r['name']: settings.nested(r) for r in records}
  for codec in bound:
    assert old[codec.name] == json.loads(json.dumps(codec.settings))


def test_they_are_resumed(bound, tmp_path):
  for path in OLD.iterdir():
    shutil.copy(path, tmp_path)
  path = tmp_path / 'records.jsonl'
  records = evaluation.read_records(path)
  removed = [r for r in records if 'kmeans(k=4' in r['name']]
  kept = [r for r in records if r not in removed]
  path.write_text(''.join(json.dumps(r) + '\n' for r in kept))
  before = path.read_bytes()
  got = evaluation.evaluate(
    bound,
    captioner=captioning.Captioner(standin.small(), 4),
    data=data.scenes('test', 2),
    path=path,
    batch_size=2,
    blind=('mean',),
    progress=False,
  )
  assert len(got) == 2 * (len(bound) + 1)
  assert path.read_bytes().startswith(before)
  added = evaluation.read_records(path)[len(kept) :]
  assert [r['name'] for r in added] == [r['name'] for r in removed]
  for new, old in zip(added, removed, strict=True):
    assert new.pop('settings')
    for field in ('seconds', 'caption', 'slots', 'distortion'):
      del new[field], old[field]  # Other machines may round otherwise.
    assert new.pop('run')
    assert new.pop('pixels')
    assert new == old
