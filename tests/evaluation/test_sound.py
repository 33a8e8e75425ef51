"""An evaluation goes on without the pictures that cannot be read."""

import json

import pytest

from collab_jax import captioner as captioning
from collab_jax import codecs, data, evaluation, quantizers
from tests import standin
from tests.data import photos
from tests.evaluation import runs

BLIND = ('zeroed', 'mean', 'shuffled')


def run(folder, path=None, limit=None, **options):
  model = standin.small()
  return evaluation.evaluate(
    [codecs.FeatureCodec(model, quantizers.KMeans(k=4))],
    captioner=captioning.Captioner(model, 4),
    data=data.coco(folder, size=64, limit=limit),
    path=path,
    progress=False,
    blind=BLIND,
    **options,
  )


@pytest.fixture
def broken(tmp_path):
  """Seven pictures, two of which are truncated."""
  photos.coco(tmp_path, range(1, 8))
  paths = sorted((tmp_path / 'val2014').iterdir())
  for path in (paths[0], paths[4]):
    path.write_bytes(path.read_bytes()[:300])
  return tmp_path


def test_as_if_they_were_not_listed(broken, tmp_path, caplog):
  path = tmp_path / 'run' / 'records.jsonl'
  records = run(broken, path, batch_size=2)
  assert len(records) == 5 * 4
  assert 'coco/val2014: 2 of 7 pictures cannot be read' in caplog.text
  listed = json.loads(path.with_suffix('.left_out.json').read_text())
  assert len(listed) == 2
  assert all('truncated' in line for line in listed)
  assert 'val2014_000000000001.jpg' in listed[0]

  other = tmp_path / 'other'
  photos.coco(other, [2, 3, 4, 6, 7])
  runs.assert_same(records, run(other, batch_size=3))


def test_resumed_without_them(broken, tmp_path):
  path = tmp_path / 'run' / 'records.jsonl'
  records = run(broken, path)
  before = path.read_bytes()
  runs.assert_same(run(broken, path), records)
  assert path.read_bytes() == before


def test_a_list_is_taken_back_when_all_is_well(broken, tmp_path):
  path = tmp_path / 'run' / 'records.jsonl'
  run(broken, path)
  photos.coco(broken, range(1, 8))
  with pytest.raises(evaluation.SettingsError, match='the file has 5, this'):
    run(broken, path)
  assert not path.with_suffix('.left_out.json').exists()


def test_nothing_to_read(tmp_path):
  photos.coco(tmp_path, [1, 2])
  for path in (tmp_path / 'val2014').iterdir():
    path.write_bytes(b'no picture')
  with pytest.raises(ValueError, match='2 of 2 pictures cannot be') as error:
    run(tmp_path)
  assert '000000000001.jpg is no picture' in str(error.value)
  assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match='coco/val2014 is empty'):
    run(tmp_path, limit=0)
