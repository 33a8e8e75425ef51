"""Records to rows, and rows to text."""

import importlib
import json
import sys

import numpy as np
import pytest

from collab_jax import codecs, evaluation, metrics, quantizers
from collab_jax.evaluation.report import columns, labels, rate, settings
from collab_jax.evaluation.report import text as text_lib
from collab_jax.studies import build
from tests.evaluation import synthetic


@pytest.fixture(scope='module')
def records():
  return synthetic.make()


@pytest.fixture(scope='module')
def rows(records):
  return evaluation.summarize(records, resamples=200)


def test_scores_are_the_metrics_of_the_captions(records, rows):
  row = next(r for r in rows if r['name'] == 'kmeans(k=4,init=++)')
  expected = {'bleu1': [], 'bleu4': [], 'cider': [], 'rouge_l': []}
  for seed in range(3):
    group = [
      r for r in records if r['name'] == row['name'] and r['seed'] == seed
    ]
    texts = [r['caption'] for r in group], [r['references'] for r in group]
    expected['bleu1'].append(metrics.bleu(*texts)['bleu1'])
    expected['bleu4'].append(metrics.bleu(*texts)['bleu4'])
    expected['cider'].append(metrics.cider(*texts))
    expected['rouge_l'].append(metrics.rouge_l(*texts))
  for name, values in expected.items():
    assert row[name] == pytest.approx(np.mean(values), rel=1e-9), name
  assert (row['images'], row['seeds'], row['sent']) == (20, 3, 4)
  assert row['bytes'] == 4 * 256 + 32
  assert row['slots']['relation'] is None
  assert row['bleu4_low'] < row['bleu4'] < row['bleu4_high']


def test_share_kept_is_of_all_vectors(rows):
  full = evaluation.full(rows)
  assert full['name'] == 'identity'
  assert full['kept'] == full['kept_low'] == full['kept_high'] == 1
  for row in rows:
    assert row['kept'] == pytest.approx(row['bleu4'] / full['bleu4'])
    assert row['kept_low'] <= row['kept'] <= row['kept_high']


def test_without_all_vectors_nothing_is_kept(records):
  rows = evaluation.summarize(
    [r for r in records if r['name'] != 'identity'], resamples=5
  )
  assert {row['kept'] for row in rows} == {None}
  assert 'share' in evaluation.pivot(rows)
  assert evaluation.table(rows)


def test_images_without_every_seed_are_left_out(records):
  name = 'kmeans(k=1,init=++)'
  remaining = [
    r
    for r in records
    if not (r['name'] == name and r['seed'] == 2 and r['image_id'] < 5)
  ]
  rows = evaluation.summarize(remaining, resamples=5)
  assert {r['name']: r['images'] for r in rows}[name] == 15
  assert {r['name']: r['images'] for r in rows}['identity'] == 20


def test_curves_are_the_paper_s_methods(rows):
  curves = evaluation.curves(rows)
  assert [*curves] == [
    'k-means++',
    'k-means, random start',
    'random subset, nearest sent',
    'random subset, positions kept',
    'random subset, closed up',
    'random subset, rest zeroed',
  ]
  for curve in curves.values():
    assert [row['sent'] for row in curve] == [1, 2, 4, 8]


def _row(name, **codec):
  """A row as of records that older versions wrote, and as of today's."""
  quantizer = quantizers.make(name)
  flat = {'codec': 'feature', 'split': 'encoder', **codec}
  flat |= quantizers.describe(quantizer)
  nested = {
    'codec': 'feature',
    'split': codec.get('split', 'encoder'),
    'coding': codec.get('coding', 'fixed'),
    'quantizer': quantizers.settings(quantizer),
  }
  old = {'name': name, 'codec': json.loads(json.dumps(flat))}
  return old, {**old, 'settings': json.loads(json.dumps(nested))}


@pytest.mark.parametrize(
  ('name', 'codec', 'label'),
  [
    ('kmeans(k=8,init=++)', {}, 'k-means++'),
    ('kmeans(k=8,init=++)', {'coding': 'best'}, 'k-means++, coded'),
    (
      'kmeans(k=8,init=++,centroids=scalar(bits=3))',
      {},
      'kmeans (init=++, centroids=scalar(bits=3))',
    ),
    (
      'kmeans(k=8,init=++)',
      {'split': 'head'},
      'kmeans (init=++, split=head)',
    ),
    ('merge(k=4)', {'coding': 'best'}, 'merge (coded)'),
    (
      'merge(k=4,centroids=pca(dims=9,vectors=ecvq(beam=2)))',
      {},
      'merge (centroids=pca(dims=9,vectors=ecvq(beam=2)))',
    ),
    ('centred(vectors=merge(k=4))', {}, 'centred (vectors=merge)'),
    (
      'centred(vectors=merge(k=4,smooth=2,'
      'centroids=pca(dims=128,vectors=ecvq(weight=0.3))))',
      {},
      'centred (vectors=merge(smooth=2,'
      'centroids=pca(dims=128,vectors=ecvq(weight=0.3))))',
    ),
  ],
)
def test_labels_say_all_settings_but_k(name, codec, label):
  for row in _row(name, **codec):
    assert labels.label(row) == label


@pytest.mark.parametrize('mode', ['tradeoff', 'rate', 'baselines'])
def test_old_records_give_the_same_settings(mode):
  config = importlib.import_module(f'configs.{mode}').get_config()
  names = [
    *map(quantizers.name, build.make_quantizers(config)),
    *(text for text in config.codecs if not text.startswith(codecs.KINDS)),
  ]
  for name in names:
    old, new = _row(name)
    assert settings.nested(old) == settings.nested(new)
    text = settings.text(new['settings']['quantizer'])
    assert text == quantizers.name(quantizers.make(name))


@pytest.mark.parametrize(
  ('name', 'codec', 'text'),
  [
    ('kmeans(k=8,init=++)', {}, 'kmeans(k=8,init=++)'),
    ('merge(k=4)', {'split': 'head', 'coding': 'best'}, 'merge(k=4)@head/best'),
    (
      'centred(vectors=merge(k=4,centroids=pca(dims=9)))',
      {},
      'centred(vectors=merge(k=4,centroids=pca(dims=9)))',
    ),
  ],
)
def test_names_in_tables_are_made_from_settings(name, codec, text):
  for row in _row(name, **codec):
    assert labels.text({**row, 'name': 'another'}) == text
    row['codec'] |= {'transport': 'rows(parity=8)', 'channel': 'erasure(p=0.4)'}
    row.pop('settings', None)
    link = {**row, 'name': 'another'}
    assert labels.text(link) == f'{text} | rows(parity=8) | erasure(p=0.4)'
    assert labels.text(link, channel=False) == f'{text} | rows(parity=8)'


def test_names_leave_out_the_folder_of_trained_parameters():
  name = 'merge(k=4,centroids=ecvq(book=/runs/free/ecvq/book.safetensors))'
  _, row = _row(name)
  short = settings.relative(row['settings'], '/runs/free/')
  assert labels.text(row) == name
  assert labels.text({**row, 'settings': short}) == (
    name.replace('/runs/free/', '')
  )


def test_names_that_settings_do_not_tell_are_as_recorded():
  codec = {'codec': 'mine:Thumbnail', 'side': 16}
  name = 'thumbnail of 16 px'
  assert labels.text({'name': name, 'codec': codec}) == name
  codec |= {'transport': 'whole', 'channel': 'erasure(p=0.4)'}
  row = {'name': f'{name} | whole | erasure(p=0.4)', 'codec': codec}
  assert labels.text(row) == row['name']
  assert labels.text(row, channel=False) == f'{name} | whole'
  codec = {'codec': 'feature', 'quantizer': 'mine:Half', 'scale': 1.0}
  assert labels.text({'name': 'mine:Half', 'codec': codec}) == 'mine:Half'


def test_labels_of_links_say_transport_and_channel():
  link = {'transport': 'whole', 'channel': 'erasure(p=0.4)'}
  rows = [
    _row('kmeans(k=8,init=++)', **{**link, 'channel': f'erasure(p={p})'})[0]
    for p in (0.1, 0.4)
  ]
  labelled = ['k-means++, whole, erasure(p=0.1)']
  labelled += ['k-means++, whole, erasure(p=0.4)']
  assert [*map(labels.label, rows)] == labelled
  assert labels.label(rows[0], link=False) == 'k-means++'
  assert [*labels.curves([{**r, 'sent': 8} for r in rows])] == labelled
  picture = {'codec': 'image', 'kind': 'jpeg', 'quality': 9, 'strip': True}
  row = {'name': '', 'codec': {**picture, 'size': 64, **link}}
  assert labels.label(row) == 'JPEG 64 px, stripped, whole, erasure(p=0.4)'
  assert rate.family(rows[0]) == labelled[0]
  assert rate.family(_row('merge(k=4)', **link)[0]) == (
    'merging, whole, erasure(p=0.4)'
  )


def test_codecs_of_one_s_own_have_labels():
  codec = {'codec': 'mine:Thumbnail', 'side': 16}
  row = {'name': 'mine:Thumbnail(side=16)', 'codec': codec}
  for new in ({}, {'settings': codec}):
    assert labels.label({**row, **new}) == 'Thumbnail (side=16)'
    assert rate.family({**row, **new}) == 'Thumbnail'
  link = {'transport': 'whole(mtu=9)', 'channel': 'erasure(p=0.4)'}
  row['codec'] = {**codec, **link}
  label = 'Thumbnail (side=16, whole(mtu=9), erasure(p=0.4))'
  assert labels.label(row) == label
  assert [*labels.curves([{**row, 'sent': 64}])] == [label]


def test_names_in_records_are_never_imported(tmp_path, monkeypatch):
  (tmp_path / 'trap.py').write_text('raise AssertionError("imported")')
  monkeypatch.syspath_prepend(tmp_path)
  codec = {
    'codec': 'feature',
    'quantizer': 'trap:Mine',
    'vectors': 'trap:X(n=1)',
  }
  codec['transport'] = 'trap:Transport(mtu=9)'
  codec['channel'] = 'trap:Channel(p=0.5,seed=1)'
  row = {'name': 'trap:Mine | trap:Transport | trap:Channel', 'codec': codec}
  assert labels.label(row) == (
    'Mine (vectors=trap:X(n=1), trap:Transport(mtu=9),'
    ' trap:Channel(p=0.5,seed=1))'
  )
  (sweep,) = evaluation.link_curves([row])
  assert (sweep.channel, sweep.setting) == ('trap:Channel(seed=1)', 'p')
  assert 'trap' not in sys.modules


def test_a_curve_goes_over_the_k_of_what_is_within():
  rows = [
    {**row, 'sent': k}
    for k in (4, 2)
    for inner in ('merge', 'low_rank')
    for row in _row(f'centred(vectors={inner}(k={k}))')[1:]
  ]
  curves = labels.curves(rows)
  assert {
    name: [r['sent'] for r in curve] for name, curve in curves.items()
  } == {
    'centred (vectors=low_rank)': [2, 4],
    'centred (vectors=merge)': [2, 4],
  }


def test_crossing():
  curve = [{'ratio': x, 'bleu4': y} for x, y in ((1, 10), (4, 30), (8, 20))]
  assert evaluation.crossing(curve, 20) == pytest.approx(2)
  assert evaluation.crossing(curve, 10) == 1
  assert evaluation.crossing(curve, 5) == 1
  assert evaluation.crossing(curve, 31) is None


def test_numbers_as_people_read_them():
  shares = (None, 0, 1 / 256, 1 / 16, 1 / 8, 0.5, 1)
  assert [*map(text_lib.percent, shares)] == [
    *('-', '0%', '0.4%', '6.3%', '12.5%', '50%', '100%')
  ]
  assert [text_lib.size(n) for n in (0, 999, 2080, 65536)] == [
    *('0 B', '999 B', '2.1 kB', '65.5 kB')
  ]


def test_tables_are_aligned_and_complete(rows):
  blocks = evaluation.table(rows).split('\n\n')
  assert [block.count('\n') for block in blocks] == len(blocks) * [len(rows)]
  assert max(len(n) for block in blocks for n in block.split('\n')) <= 100
  heads = [block.partition('\n')[0] for block in blocks]
  for name in columns.columns(rows):
    assert sum(columns.column(rows, name).label in head for head in heads) == 1
  few = evaluation.table([row | {'slots': {}} for row in rows[:2]], 'cider')
  assert 'CIDEr  95% interval' in few.split('\n')[0]
  pivot = evaluation.pivot(rows).split('\n')
  assert pivot[0].split() == ['vectors', 'sent', '1', '2', '4', '8']
  k8 = next(r for r in rows if r['name'] == 'kmeans(k=8,init=++)')
  line = next(line for line in pivot if line.startswith('k-means++'))
  assert line.endswith(f'{k8["bleu4"]:.1f}')
  assert max(map(len, pivot)) < 80


def test_findings(rows):
  text = '\n'.join(evaluation.findings(rows))
  k8 = next(r for r in rows if r['name'] == 'kmeans(k=8,init=++)')
  assert f'keep {100 * k8["kept"]:.0f}%' in text
  assert 'To match them, random subset, rest zeroed' in text
  assert evaluation.findings([r for r in rows if r['sent'] != 8]) == []


def test_no_records():
  with pytest.raises(ValueError, match='no records'):
    evaluation.summarize([])


def test_the_interval_is_called_what_it_is(records):
  rows = evaluation.summarize(records, resamples=5, level=0.5)
  head = evaluation.table(rows).split('\n')[0]
  assert '50% interval' in head
  assert '95%' not in head


@pytest.mark.parametrize(
  ('draws', 'said'),
  [
    ({'resamples': 0}, 'resamples: got 0, expected an integer of at least 1'),
    ({'level': 95.0}, 'level: got 95.0, expected a number between 0 and 1'),
    ({'level': float('nan')}, 'level: got nan'),
    ({'seed': -1}, 'seed: got -1'),
  ],
)
def test_wrong_draws_are_refused(records, draws, said):
  with pytest.raises(ValueError, match=said):
    evaluation.summarize(records, **draws)


def test_records_without_slots_beside_others(records):
  name = 'kmeans(k=1,init=++)'
  mixed = [
    {n: v for n, v in r.items() if n != 'slots'}
    if r['name'] == name and r['image_id'] < 5
    else r
    for r in records
  ]
  rows = evaluation.summarize(mixed, resamples=5)
  assert {r['name']: r['slots']['shape'] for r in rows}[name] > 0
