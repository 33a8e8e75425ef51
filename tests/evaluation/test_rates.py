"""Families, fronts and savings of records made by hand; latencies."""

import numpy as np
import pytest

from collab_jax import channels, evaluation, metrics, quantizers
from collab_jax.evaluation.report import rate
from tests.evaluation import synthetic


@pytest.fixture(scope='module')
def records():
  return synthetic.make(images=40, pictures=synthetic.PICTURES)


@pytest.fixture(scope='module')
def rows(records):
  return evaluation.summarize(records, resamples=50)


@pytest.fixture(scope='module')
def saved(records):
  return evaluation.bd_rates(records, resamples=60)


@pytest.mark.parametrize(
  ('name', 'codec', 'expected'),
  [
    ('kmeans(k=8,init=++)', {}, 'k-means++'),
    ('kmeans(k=8)', {}, 'k-means, random start'),
    (
      'kmeans(k=8,init=++,centroids=random(k=4,vectors=pool(k=2,n=4)))',
      {},
      'k-means++ + random + pool',
    ),
    (
      'random(k=8,rebuild=nearest,vectors=identity(dtype=bfloat16))',
      {'split': 'head'},
      'random + 16 bits',
    ),
    ('kmeans(k=8,init=++)', {'coding': 'best'}, 'k-means++, coded'),
    (
      'pool(k=8,centroids=top_norm(k=1))',
      {'split': 'head', 'coding': 'best'},
      'pool + top norm',
    ),
    ('centred(vectors=kmeans(k=8,init=++))', {}, 'centred + k-means++'),
    ('merge(k=8,centroids=ecvq(book=random))', {}, 'merging + ECVQ'),
  ],
)
def test_a_family_is_what_differs_in_numbers(name, codec, expected):
  flat = {'codec': 'feature', 'split': 'encoder', **codec}
  flat |= quantizers.describe(quantizers.make(name))
  assert rate.family({'name': name, 'codec': flat}) == expected


def test_a_family_of_classes_elsewhere():
  codec = {'codec': 'feature', 'quantizer': 'my.module:Mine_too', 'bits': 2}
  row = {'name': 'my.module:Mine_too(bits=2)', 'codec': codec}
  assert rate.family(row) == 'Mine too'


def test_families_hold_every_codec_that_sends_something(rows):
  families = rate.families(rows)
  assert {'JPEG', 'AVIF', 'k-means++', 'all vectors'} <= families.keys()
  names = [row['name'] for family in families.values() for row in family]
  assert sorted(names) == sorted(
    row['name'] for row in rows if row['codec']['codec'] != 'blind'
  )
  for family in families.values():
    sizes = [row['bytes'] for row in family]
    assert sizes == sorted(sizes)


def test_fronts_are_those_of_the_metrics(rows):
  _, pictures = rate.split(rows)
  front = rate.front(pictures)
  points = [(row['bytes'], row['bleu4']) for row in pictures]
  expected = metrics.pareto_front(*zip(*points, strict=True))
  assert [row['name'] for row in front] == [
    pictures[i]['name'] for i in expected
  ]
  assert 'size=32' not in front[0]['name']


def test_savings_are_delta_rates_of_the_rows(rows, saved):
  features, pictures = rate.split(rows)
  assert saved[0]['curve'] == rate.FEATURES
  assert saved[0]['anchor'] == rate.PICTURES
  fronts = [
    [[row[y] for row in rate.front(group)] for y in ('bytes', 'bleu4')]
    for group in (pictures, features)
  ]
  expected = metrics.bd_rate(*fronts[0], *fronts[1])
  assert saved[0]['bd_rate'] == pytest.approx(expected, rel=1e-9)
  assert saved[0]['scores'] == metrics.overlap(fronts[0][1], fronts[1][1])
  assert saved[0]['points'] == len(fronts[1][0])
  against = {s['anchor']: s for s in saved if s['curve'] == rate.FEATURES}
  # The best of all is a harder anchor than JPEG alone.
  assert against['JPEG']['bd_rate'] < against[rate.PICTURES]['bd_rate']
  assert {s['curve'] for s in saved} >= {'k-means++', 'k-means, random start'}
  assert 'all vectors' not in {s['curve'] for s in saved}


def test_intervals_hold_the_value_and_are_seeded(records, saved):
  for delta in saved:
    if delta['bd_rate'] is not None and delta['low'] is not None:
      assert delta['low'] <= delta['high']
  assert saved[0]['low'] < saved[0]['bd_rate'] < saved[0]['high']
  assert evaluation.bd_rates(records, resamples=60) == saved
  narrow = evaluation.bd_rates(records, resamples=60, level=0.5)[0]
  assert saved[0]['low'] < narrow['low'] < narrow['high'] < saved[0]['high']


def test_a_codec_beside_itself_saves_nothing_in_any_draw(records):
  twins = [
    {
      **record,
      'name': f'twin of {record["name"]}',
      'codec': {'codec': 'feature', 'quantizer': 'twin'},
    }
    for record in records
    if record['codec']['codec'] == 'image'
  ]
  pictures = [r for r in records if r['codec']['codec'] == 'image']
  delta = evaluation.bd_rates([*pictures, *twins], resamples=20)[0]
  # Paired: both ends see the same pictures in every draw.
  np.testing.assert_allclose(
    [delta['bd_rate'], delta['low'], delta['high']], 0, atol=1e-9
  )


def test_what_cannot_be_compared_says_why(records):
  kept = [
    r
    for r in records
    if r['codec']['codec'] == 'image' or r['name'] == 'kmeans(k=8,init=++)'
  ]
  delta = evaluation.bd_rates(kept, resamples=5)[0]
  assert delta['bd_rate'] is None
  assert 'got 1 points' in delta['why']
  rows = evaluation.summarize(kept, resamples=5)
  text = evaluation.rate_findings(rows, [delta], (0.9,))
  assert text[-1].startswith('BD-rate of all features against all image codec')
  assert 'none, curve: got 1 points' in text[-1]


def test_without_pictures_there_is_no_anchor(records):
  features = [r for r in records if r['codec']['codec'] != 'image']
  assert evaluation.bd_rates(features, resamples=5) == []
  with pytest.raises(ValueError, match='resamples: got 0'):
    evaluation.bd_rates(records, resamples=0)


def test_codecs_share_their_pictures(records):
  few = [
    r for r in records if r['codec']['codec'] != 'image' or r['image_id'] < 30
  ]
  whole = [r for r in records if r['image_id'] < 30]
  got, expected = (evaluation.bd_rates(r, resamples=5) for r in (few, whole))
  assert got[0]['bd_rate'] == pytest.approx(expected[0]['bd_rate'])
  apart = [
    r
    for r in records
    if (r['codec']['codec'] == 'image') == (r['image_id'] < 20)
  ]
  with pytest.raises(ValueError, match='no picture in common'):
    evaluation.bd_rates(apart, resamples=5)


def test_table_marks_the_fronts(rows):
  lines = evaluation.rate_table(rows).split('\n')
  assert lines[0].split() == [
    *('bytes', 'BLEU-4', '95%', 'interval', 'kept', 'CIDEr', 'codec')
  ]
  marked = {line.split()[-1] for line in lines if line.startswith('* ')}
  features, pictures = rate.split(rows)
  on = {r['name'] for g in (features, pictures) for r in rate.front(g)}
  assert marked - {'block'} == on
  text = evaluation.rate_table(rows)
  assert all(row['name'] in text for row in rows)
  short = evaluation.rate_table(rows, fronts_only=True)
  assert 'jpeg(quality=50,size=32' not in short
  assert 'blind(mean)' in short


def test_findings_are_the_rows_numbers(rows, saved):
  text = '\n'.join(evaluation.rate_findings(rows, saved, (0.5, 0.9)))
  full = evaluation.full(rows)
  features, pictures = rate.split(rows)
  for level in (0.5, 0.9):
    assert f'For {100 * level:.0f}% of the BLEU-4 of all vectors' in text
    for group in (features, pictures):
      row = rate.cheapest(group, level * full['bleu4'])
      assert row is None or f'{row["bytes"]:,.0f} bytes ({row["name"]}' in text
  k8 = next(r for r in rows if r['name'] == 'kmeans(k=8)')
  assert f'8 centroids in 16 bits: {k8["bytes"]:,.0f} bytes' in text
  assert f'all image codecs: {100 * saved[0]["bd_rate"]:+.1f}% [' in text


def test_chosen_are_the_cheapest_that_reach_a_level(rows):
  chosen = evaluation.operating_points(rows, (0.5,))
  full = evaluation.full(rows)
  for name, group in zip(
    ('features, 50% of BLEU-4', 'image codec, 50% of BLEU-4'),
    rate.split(rows),
    strict=True,
  ):
    row = chosen[name]
    assert row['bleu4'] >= full['bleu4'] / 2
    assert not [
      r
      for r in group
      if r['bytes'] < row['bytes'] and r['bleu4'] >= full['bleu4'] / 2
    ]
  assert chosen["the paper's k-means, k = 8"]['sent'] == 8
  assert chosen['JPEG file, 50% of BLEU-4']['codec']['kind'] == 'jpeg'
  assert (
    evaluation.operating_points([r for r in rows if r is not full], (0.5,))
    == {}
  )


def test_latency_is_the_sum_of_its_parts():
  seconds = {'encode': 0.1, 'quantize': 0.02, 'decode': 0.03, 'caption': 0.05}
  row = {'name': 'x', 'bytes': 1000.0, 'seconds': seconds}
  link = evaluation.LinkRates((50, 1000), 24, 30)
  budget = channels.Budget(4, 0.5, edge_watts=3, radio_watts=2, idle_watts=1)
  table = link.table({'this': row}, budget)
  assert [line['rate_kbps'] for line in table] == [50, 1000]
  line_of_1000 = table[1]
  assert line_of_1000['edge'] == pytest.approx(4 * 0.12)
  assert line_of_1000['link'] == pytest.approx(8 * 1024 / 1e6 + 0.03)
  assert line_of_1000['server'] == pytest.approx(0.5 * 0.08)
  assert line_of_1000['total'] == pytest.approx(0.48 + 0.008192 + 0.03 + 0.04)
  # The radio is on while bits leave, not while they are on their way.
  joules = 3 * 0.48 + 2 * 0.008192 + 1 * (0.008192 + 0.03 + 0.04)
  assert line_of_1000['joules'] == pytest.approx(joules)
  # A codec of pictures has no stage 'quantize'.
  bare = {**row, 'seconds': {'encode': 0.1, 'decode': None}}
  line = evaluation.LinkRates((50,)).table({'bare': bare})[0]
  assert line['total'] == pytest.approx(0.26)


def test_one_formula_for_links_that_lose_and_those_that_do_not():
  codec = {'codec': 'image', 'channel': 'erasure(rate=1e6,delay=0.02)'}
  link = {'packets': 1, 'airtime': 0.008, 'seconds': 0.028}
  row = {
    'name': 'jpeg | whole | x',
    'codec': codec,
    'bytes': 1000.0,
    'bleu4': 50.0,
    'seconds': {'encode': 0.1, 'pack': 0.01, 'decode': 0.02, 'caption': 0.03},
    'link': link,
  }
  budget = channels.Budget(2, 3, edge_watts=7, radio_watts=5, idle_watts=0.5)
  lines = evaluation.link_table([row], budget).split('\n')
  want = evaluation.LinkRates((1000,), delay_ms=20).table({'x': row}, budget)[0]
  assert lines[-1].split()[-2:] == [
    f'{1000 * want["total"]:.1f}',
    f'{1000 * want["joules"]:.1f}',
  ]


@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    ({'rates_kbps': ()}, 'rates_kbps: got none, expected one or more'),
    ({'rates_kbps': (50, 0)}, 'rates_kbps: got 0, expected a number'),
    ({'rates_kbps': (1e306,)}, r'rates_kbps: got 1e\+306, expected a number'),
    ({'rates_kbps': (float('inf'),)}, 'rates_kbps: got inf'),
    ({'rates_kbps': (50, float('nan'))}, 'rates_kbps: got nan'),
    ({'rates_kbps': ('50',)}, "rates_kbps: got '50'"),
    ({'rates_kbps': (True,)}, 'rates_kbps: got True'),
    ({'delay_ms': -1}, 'delay_ms: got -1, expected a number of at least 0'),
    ({'delay_ms': float('nan')}, 'delay_ms: got nan'),
    ({'overhead_bytes': -8}, 'overhead_bytes: got -8'),
  ],
)
def test_no_such_link(unchecked, settings, said):
  with pytest.raises(ValueError, match=said):
    evaluation.LinkRates(**settings)
