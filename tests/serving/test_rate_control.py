"""Rate control: curves, link estimates, and time goals."""

import dataclasses
import json
import math
import sys

import grpc
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import checkpoints, codecs, quantizers
from collab_jax.codecs import unlike_pictures
from collab_jax.models import paligemma
from collab_jax.serving.client import (
  channel,
  rate_control,
  retry,
)
from collab_jax.serving.client import client as clients
from configs import tasks as tasks_config
from tests import standin
from tests.serving import scripted, shaper
from tools import rate_curve

CODES = grpc.StatusCode
IMAGES = np.zeros((1, 64, 64, 3), np.uint8)


def _make(text):
  config = paligemma.Config.from_dict(standin.CONFIG)
  model = paligemma.Model(params={}, config=config, tokenizer=None)
  quality = int(text.partition('=')[2].rstrip(')'))
  return codecs.ImageCodec(model, 'jpeg', quality)


def _point(quality, size, largest, score):
  return rate_control.OperatingPoint(
    f'jpeg(quality={quality})', float(size), largest, score
  )


CURVE = rate_control.RateCurve(
  model='m',
  split='encoder',
  coding='best',
  data='scenes/val',
  full=90.0,
  captions=10,
  points=(
    _point(1, 500.0, 700, 50.0),
    _point(10, 800.0, 900, 60.0),
    _point(50, 1000.0, 2000, 80.0),
    _point(90, 1500.0, 1800, 85.0),
  ),
)


def test_best_fitting_codec_comes_first():
  found = [p.codec for p in CURVE.within(1900)]
  assert found == [f'jpeg(quality={q})' for q in (90, 10, 1)]
  assert [p.score for p in CURVE.within(10**6)] == [85.0, 80.0, 60.0, 50.0]
  assert CURVE.within(700)[0].score == 50.0
  with pytest.raises(ValueError, match=r'at least 700: .*jpeg\(quality=1\)'):
    CURVE.within(699)


def test_curve_round_trip(tmp_path):
  path = tmp_path / 'curve.json'
  path.write_text(CURVE.to_json())
  assert rate_control.read_curve(path) == CURVE
  assert len(path.read_text().splitlines()) < 20


def _of_captions(curve):
  """Returns a curve as older versions wrote it: of captions, and alone."""
  values = dataclasses.asdict(curve)
  points = [
    {('bleu4' if n == 'score' else n): v for n, v in point._asdict().items()}
    for point in curve.points
  ]
  del values['task'], values['metric']
  return values | {'format': 1, 'points': points}


def test_older_files_are_read(tmp_path):
  path = tmp_path / 'curve.json'
  path.write_text(json.dumps(_of_captions(CURVE)))
  assert rate_control.read_curves(path) == {'captions': CURVE}
  assert rate_control.read_curve(path) == CURVE
  assert rate_control.read_curve(path, 'captions') == CURVE


@pytest.mark.parametrize(
  'change',
  [
    {'format': 2},
    {'format': 3},
    {'points': []},
    {'points': [{'codec': 'x'}]},
    {'points': [{'codec': 'x', 'bytes': 'a', 'largest': 1, 'bleu4': 2.0}]},
    {'points': 7},
    {'more': 1},
  ],
)
def test_damaged_curves_are_refused(tmp_path, change):
  path = tmp_path / 'curve.json'
  path.write_text(json.dumps(_of_captions(CURVE) | change))
  with pytest.raises(ValueError, match='is no rate curve'):
    rate_control.read_curve(path)


@pytest.mark.parametrize(
  'change',
  [
    {'points': []},
    {'points': [{'codec': 'x', 'bytes': 'a', 'largest': 1, 'score': 2.0}]},
    {'points': [{'codec': 'x', 'bytes': 1.0, 'largest': 1, 'bleu4': 2.0}]},
    {'more': 1},
    {'task': ''},
    {'task': 7},
  ],
)
def test_damaged_curves_of_tasks_are_refused(tmp_path, change):
  path = tmp_path / 'curve.json'
  values = json.loads(CURVE.to_json())
  (curve,) = values['curves']
  for curves in ([curve | change], [], [curve, curve], 7):
    path.write_text(json.dumps(values | {'curves': curves}))
    with pytest.raises(ValueError, match='is no rate curve'):
      rate_control.read_curves(path)


COUNTS = dataclasses.replace(
  CURVE, task='counts', metric='exact', points=CURVE.points[1:]
)


def test_curves_of_tasks_are_one_file(tmp_path):
  path = tmp_path / 'curve.json'
  path.write_text(rate_control.to_json([CURVE, COUNTS]))
  assert rate_control.read_curves(path) == {
    'captions': CURVE,
    'counts': COUNTS,
  }
  assert rate_control.read_curve(path) == CURVE
  assert rate_control.read_curve(path, 'counts') == COUNTS
  with pytest.raises(ValueError, match=r"'count'; did you mean 'counts'\?"):
    rate_control.read_curve(path, 'count')
  with pytest.raises(
    ValueError,
    match=r"task: got 'ocr', expected one of captions, counts: the tasks of"
    r' .*curve\.json; tools/rate_curve\.py makes',
  ):
    rate_control.read_curve(path, 'ocr')
  path.write_text(COUNTS.to_json())
  assert rate_control.read_curve(path) == COUNTS  # The only one.
  with pytest.raises(ValueError, match=r'model of the curves: got .*one and'):
    rate_control.to_json([CURVE, dataclasses.replace(COUNTS, model='n')])
  with pytest.raises(ValueError, match="'captions' twice"):
    rate_control.to_json([CURVE, CURVE])


def test_cheapest_codec_that_keeps_a_share():
  assert [p.score for p in CURVE.keeping(0.6)] == [60.0, 80.0, 85.0]
  with pytest.raises(
    ValueError,
    match=r"task: got 'counts', expected one .* keeps 95%: jpeg\(quality=90\)"
    r' has 85 of 90; give max_bytes or goal_ms',
  ):
    COUNTS.keeping()
  for share in (2.0, -1.0, float('nan')):
    with pytest.raises(ValueError, match=r'share: got .* a number from 0 to 1'):
      CURVE.keeping(share)


def test_client_for_share_takes_what_the_server_supports():
  with scripted.serving(_SelectiveServer(50, 90)) as target:
    link = channel.Connection(target)
    with rate_control.client_for_share(link, COUNTS, _make, 0.5) as client:
      assert [c.name for c in client.codecs] == ['jpeg(quality=50)']
      assert client.caption(IMAGES)[0].codec == 'jpeg(quality=50)'
    link.close()


@pytest.mark.parametrize(
  'codec',
  [
    'curve_side_effect:Codec(k=3)',
    'kmeans(k=8,centroids=curve_side_effect:Codec)',
  ],
)
def test_curves_import_nothing(tmp_path, monkeypatch, codec):
  (tmp_path / 'curve_side_effect.py').write_text('raise SystemExit(1)\n')
  monkeypatch.syspath_prepend(tmp_path)
  path = tmp_path / 'curve.json'
  point = CURVE.points[0]
  text = dataclasses.replace(CURVE, points=(point,)).to_json()
  path.write_text(text.replace(point.codec, codec))
  with pytest.raises(ValueError, match=r'codec: got .*side_effect.*, expected'):
    rate_control.read_curve(path)
  assert 'curve_side_effect' not in sys.modules


def test_pareto_front_drops_dominated_points():
  best = _point(1, 10.0, 20, 50.0)
  same = _point(2, 10.0, 20, 50.0)
  shorter = _point(3, 12.0, 15, 50.0)
  beaten = [_point(4, 10.0, 21, 50.0), _point(5, 11.0, 30, 49.0)]
  dear = _point(6, 99.0, 99, 51.0)
  points = [*beaten, dear, shorter, same, best]
  assert set(rate_control.pareto_front(points)) == {best, same, shorter, dear}
  assert [p.bytes for p in rate_control.pareto_front(points)] == [
    10.0,
    10.0,
    12.0,
    99.0,
  ]


TASKS = ('captions', 'attributes', 'counts', 'relations', 'detection')


def test_shipped_curves_are_of_the_tasks_of_the_figure():
  path = checkpoints.folder('rates') / 'tiny.json'
  curves = rate_control.read_curves(path)
  lines = [title for title, *_ in tasks_config.get_config('mode=curve').lines]
  assert [*curves] == lines == [*TASKS]
  assert rate_control.shipped_curve('tiny') == curves['captions']
  assert curves['counts'].metric == 'exact'
  for curve in curves.values():
    assert curve.keeping()[0].score >= 0.95 * curve.full > 50
  # A place takes more bytes than a count.
  least = {task: curve.keeping()[0].bytes for task, curve in curves.items()}
  assert least['detection'] > 2 * least['counts']


@pytest.mark.parametrize('task', TASKS)
def test_shipped_curve_fits_the_shipped_model(task):
  curve = rate_control.shipped_curve('tiny', task)
  assert curve.data == 'scenes/val'
  assert rate_control.pareto_front(curve.points) == curve.points
  assert len(curve.points) > 8
  vectors = checkpoints.config_of('tiny').vision.num_tokens
  for point in curve.points:
    if not point.codec.startswith(codecs.KINDS):
      assert quantizers.make(point.codec).sent(vectors) <= vectors
  # The whole range: a tenth of the score, to nearly all.
  assert curve.points[0].largest < 40
  assert curve.points[-1].score > 0.98 * curve.full
  with pytest.raises(ValueError, match=r'tools/rate_curve\.py'):
    rate_control.shipped_curve('other')


def _record(name, image, size, caption, **codec):
  codec = {'codec': 'feature', 'split': 'encoder', 'coding': 'best'} | codec
  return {
    'image_id': image,
    'name': name,
    'seed': 0,
    'codec': codec,
    'caption': caption,
    'references': ['a red ball on the green grass'],
    'sent': 1,
    'vectors': 4,
    'ratio': 0.25,
    'bytes': {'x': size},
    'total_bytes': size,
    'distortion': None,
    'seconds': {},
    'model': 'm',
    'data': 'd',
    'decoding': 'greedy',
  }


def test_there_is_nothing_to_keep_of_a_score_of_zero():
  curve = dataclasses.replace(CURVE, full=0.0)
  link = channel.Connection('localhost:1')  # Nobody is asked.
  with pytest.raises(ValueError, match='all vectors have a score: in the curv'):
    rate_control.client_for_share(link, curve, _make)
  link.close()


@pytest.mark.parametrize('content', [b'', b'[]', b'5', b'{}', b'{"a": "\xe9"}'])
def test_files_that_are_no_curve_are_named(tmp_path, content):
  path = tmp_path / 'curve.json'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r'curve\.json is no rate curve \('):
    rate_control.read_curve(path)


def test_curve_from_records():
  good, bad = 'a red ball on the green grass', 'a blue cube on the green grass'
  made = {'quantizer': 'kmeans', 'k': 2}
  records = [
    _record('identity/best', 1, 999, good, quantizer='identity'),
    _record('identity/best', 2, 999, good, quantizer='identity'),
    _record('kmeans(k=2)/best', 1, 10, good, **made),
    _record('kmeans(k=2)/best', 2, 30, bad, **made),
    _record('kmeans(k=3)/best', 1, 40, bad, **made),
    _record('kmeans(k=3)/best', 2, 40, bad, **made),
  ]
  curve = rate_curve.make(records)
  assert (curve.model, curve.data, curve.coding) == ('m', 'd', 'best')
  assert curve.captions == 2
  assert curve.full == pytest.approx(100)
  assert [p.codec for p in curve.points] == ['kmeans(k=2)', 'identity']
  assert curve.points[0][1:3] == (20.0, 30)
  records[0]['model'] = 'other'
  with pytest.raises(ValueError, match='expected one'):
    rate_curve.make(records)


@pytest.mark.parametrize(('kbps', 'delay_ms'), [(500, 20.0), (2000, 5.0)])
def test_link_estimate_matches_the_shaped_link(kbps, delay_ms):
  with (
    scripted.serving(scripted.ScriptedServer()) as target,
    shaper.Shaper(target, kbps, delay_ms) as link,
    clients.EdgeClient(link.address, _make('jpeg(quality=50)')) as client,
  ):
    found = rate_control.measure_link(client)
  assert found.kbps == pytest.approx(kbps, rel=0.3)
  assert 2 * delay_ms < found.delay_ms < 2 * delay_ms + 20


def test_byte_budget_is_the_rest_of_the_goal():
  link = rate_control.LinkEstimate(kbps=80.0, delay_ms=20.0)
  assert rate_control.byte_budget(link, 130.0, 10.0) == 1000
  assert rate_control.byte_budget(link, 25.0, 10.0) < 0


def test_client_for_budget_skips_refused_codecs():
  servicer = scripted.ScriptedServer()
  with scripted.serving(servicer) as target:
    link = channel.Connection(target)
    with rate_control.client_for_budget(link, CURVE, _make, 1900) as client:
      assert [c.name for c in client.codecs] == [
        f'jpeg(quality={q})' for q in (90, 10, 1)
      ]
      assert client.caption(IMAGES)[0].codec == 'jpeg(quality=90)'
    # What the server does not take is left out.
    servicer.failures = [(CODES.FAILED_PRECONDITION, 'handshake unknown')]
    with rate_control.client_for_budget(link, CURVE, _make, 1900) as client:
      assert client.codecs[0].name == 'jpeg(quality=10)'
    servicer.failures = [(CODES.FAILED_PRECONDITION, 'handshake unknown')] * 3
    with pytest.raises(retry.RemoteError, match='unknown'):
      rate_control.client_for_budget(link, CURVE, _make, 1900)
    link.close()


class _SelectiveServer(scripted.ScriptedServer):
  """Supports a few codecs only."""

  def __init__(self, *qualities):
    super().__init__()
    self._qualities = qualities

  def Handshake(self, request, context):
    if not any(f'quality={q})' in request.session for q in self._qualities):
      context.abort(CODES.FAILED_PRECONDITION, 'the server takes others')
    return super().Handshake(request, context)


def test_refused_codecs_are_no_fallbacks():
  noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
  with (
    scripted.serving(_SelectiveServer(90, 1)) as target,
    rate_control.client_for_budget(
      channel.Connection(target), CURVE, _make, 1900
    ) as client,
  ):
    assert [c.quality for c in map(_settings, client.codecs)] == [90, 1]
    # Its message is too long for the first codec.
    assert client.caption(noise)[0].codec == 'jpeg(quality=1)'
    client.connection.close()


def test_server_without_supported_codecs_is_an_error():
  with scripted.serving(_SelectiveServer()) as target:
    link = channel.Connection(target)
    with pytest.raises(retry.RemoteError) as raised:
      rate_control.client_for_budget(link, CURVE, _make, 900)
    link.close()
  assert 'admits none of jpeg(quality=10); jpeg(quality=1)' in str(raised.value)
  said = str(raised.value)
  assert said.endswith('the server takes others (FAILED_PRECONDITION)')


def _settings(codec):
  return codec.spec


def test_plan_for_a_time_goal():
  with (
    scripted.serving(scripted.ScriptedServer()) as target,
    shaper.Shaper(target, 500, 5.0) as shaped,
  ):
    link = channel.Connection(shaped.address)
    plan = rate_control.plan(link, CURVE, _make, 60.0)
    assert plan.met
    assert 1000 < plan.max_bytes < 4000
    assert not rate_control.plan(link, CURVE, _make, 1.0).met
    for goal in (-1.0, float('nan'), float('inf')):
      with pytest.raises(ValueError, match=r'goal_ms: got .*, expected a numb'):
        rate_control.plan(link, CURVE, _make, goal)
    link.close()


def test_a_plan_is_silent_and_leaves_the_warning_to_pictures(caplog):
  """The black picture that is timed is none of the user's."""
  unlike_pictures._warn_once.cache_clear()
  edge = checkpoints.load('tiny', part='edge')
  point = rate_control.OperatingPoint('kmeans(k=4)', 900.0, 2000, 50.0)
  curve = dataclasses.replace(CURVE, points=(point,))
  noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)

  def make(text):
    return codecs.FeatureCodec(edge, text)

  with scripted.serving(scripted.ScriptedServer()) as target:
    link = channel.Connection(target)
    rate_control.plan(link, curve, make, 1000.0)
    assert not caplog.records
    rate_control.client_for_budget(link, curve, make, 2000).caption(noise)
    link.close()
  assert ['unlike' in r.getMessage() for r in caplog.records] == [True]


_NUMBERS = st.floats() | st.integers(-(2**53), 2**53).map(float)
_CODECS = st.sampled_from(['jpeg(quality=5)', 'kmeans(k=8)', 'x.y:Z', '']) | (
  st.text(max_size=8)
)
_POINTS = st.builds(
  rate_control.OperatingPoint, _CODECS, _NUMBERS, st.integers(), _NUMBERS
)
_CURVES = st.builds(
  rate_control.RateCurve,
  model=st.text(max_size=8),
  split=st.sampled_from(codecs.SPLITS),
  coding=st.just('best'),
  data=st.text(max_size=8) | st.just('"points": []'),
  full=_NUMBERS,
  captions=st.integers(),
  points=st.lists(_POINTS, max_size=3).map(tuple),
)


@hypothesis.given(_CURVES)
@hypothesis.settings(max_examples=200, deadline=None)
def test_a_curve_that_is_written_is_read(tmp_path_factory, curve):
  numbers = [x for p in curve.points for x in (p.bytes, p.score)] + [curve.full]
  try:
    text = curve.to_json()
  except ValueError:
    assert (
      not curve.points
      or not all(map(math.isfinite, numbers))
      or any(':' in p.codec for p in curve.points)
    )
    return
  path = tmp_path_factory.mktemp('curve') / 'curve.json'
  path.write_text(text)
  assert rate_control.read_curve(path) == curve


@pytest.mark.parametrize('number', ['NaN', 'Infinity', '-Infinity', '1e999'])
def test_a_curve_of_no_numbers_is_refused(tmp_path, number):
  path = tmp_path / 'curve.json'
  path.write_text(CURVE.to_json().replace('90.0', number))
  with pytest.raises(ValueError, match='is no rate curve'):
    rate_control.read_curve(path)
