"""Records over channels: the same at any batch size, and never a crash."""

import pytest

from collab_jax import captioner as captioning
from collab_jax import codecs, data, evaluation, quantizers
from tests import standin
from tests.evaluation.runs import assert_same


def run(links=None, *, batch_size=4, **kw):
  model = standin.small()
  return evaluation.evaluate(
    make() if links is None else links,
    captioner=captioning.Captioner(model, 5),
    data=data.scenes('test', limit=6),
    batch_size=batch_size,
    progress=False,
    **kw,
  )


def make():
  codec = codecs.FeatureCodec(standin.small(), quantizers.KMeans(k=4))
  return [
    codecs.Link(codec, 'erasure(p=0.5,rate=1e6)', 'rows(failure=0.1)'),
    codecs.Link(codec, 'erasure(p=0.5)'),
    codec,
  ]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  path = tmp_path_factory.mktemp('links') / 'records.jsonl'
  return run(path=path, seeds=(0, 1)), path


def test_records_say_what_happened(whole):
  records, path = whole
  assert len(records) == 6 * 2 * 3
  rows = [r for r in records if 'rows' in r['name']]
  assert {r['codec']['channel'] for r in rows} == {
    'erasure(rate=1000000.0,p=0.5)'
  }
  for r in rows:
    link = r['link']
    assert link['packets'] == 4
    assert sum(r['bytes'].values()) == r['total_bytes']
    assert link['airtime'] == pytest.approx(8 * r['total_bytes'] / 1e6)
    assert link['seconds'] == link['airtime']
    assert link['whole'] == (link['rows'] > 0)
    assert (r['distortion'] is None) == (not link['whole'])
  assert 0 < sum(r['link']['lost'] for r in rows) < 4 * len(rows)
  plain = [r for r in records if r['name'] == 'kmeans(k=4)']
  assert all('link' not in r for r in plain)
  cut = [r for r in records if '| whole |' in r['name']]
  # What cannot be channels from a picture is said of a grey one.
  lost = {r['caption'] for r in cut if not r['link']['whole']}
  assert len(lost) == 1
  of = {(r['image_id'], r['seed']): r['caption'] for r in plain}
  for r in cut:
    if r['link']['whole']:
      assert r['caption'] == of[r['image_id'], r['seed']]
  assert evaluation.read_records(path)
  means = {r['name']: r['link'] for r in evaluation.summarize(records)}
  assert means[rows[0]['name']]['packets'] == 4
  assert means['kmeans(k=4)'] == {}


def test_any_batch_size(whole):
  assert_same(run(batch_size=1, seeds=(0, 1)), whole[0])


def test_nothing_arrives():
  codec = make()[-1]
  records = run([codec], channel='erasure(p=1)')
  assert len({r['caption'] for r in records}) == 1
  assert {r['link']['whole'] for r in records} == {0}
  assert {r['name'] for r in records} == {'kmeans(k=4) | whole | erasure(p=1)'}
  assert evaluation.summarize(records)[0]['images'] == 6


def test_a_channel_for_all_but_links():
  links = make()
  records = run(links[::2], channel='bit_errors(p=0.3)')
  channels = {r['name']: r['codec']['channel'] for r in records}
  assert sorted(channels.values()) == [
    'bit_errors(p=0.3)',
    'erasure(rate=1000000.0,p=0.5)',
  ]
