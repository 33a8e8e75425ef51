"""Passes overlap: in one order, with the records of one after the other."""

import collections
from concurrent import futures
import dataclasses
import json
import threading
import time
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from collab_jax import captioner as captioning
from collab_jax import codecs, data, evaluation, quantizers, wire
from collab_jax.codecs import device_clock
from collab_jax.evaluation import batches, passes, pipeline, record_store
from collab_jax.models import paligemma
from tests import colours, standin

LIMIT, SIZE = 10, 4


class Recorded:
  """Pass that notes its steps; its messages take a time of their own."""

  batch: Any = None

  def __init__(self, number, events, host):
    self.number, self.events, self.host = number, events, host

  def encode(self):
    self.events.append(('encode', self.number))
    delay = 0.01 * (self.number * 7 % 3)
    self.message = self.host.submit(time.sleep, delay)

  def decode(self):
    self.message.result()
    self.events.append(('decode', self.number))

  def records(self):
    self.events.append(('records', self.number))
    return []


def test_steps_have_one_order_and_few_passes_are_begun():
  orders = []
  for threads in (1, 4):
    events: list[tuple[str, int]] = []
    with futures.ThreadPoolExecutor(threads) as host:
      for i, finished in enumerate(
        pipeline.run(Recorded(n, events, host) for n in range(9))
      ):
        assert finished.records() == []
        assert events[-1] == ('records', i)
    orders.append(events)
  events = orders[0]
  assert events == orders[1]
  assert events[:6] == [
    *(('encode', 0), ('encode', 1), ('encode', 2), ('decode', 0)),
    *(('encode', 3), ('decode', 1)),
  ]
  for i in range(1, 9):
    # The device has its next work before anybody waits for records.
    assert events.index(('decode', i)) < events.index(('records', i - 1))
  begun = np.cumsum(
    [{'encode': 1, 'decode': 0, 'records': -1}[step] for step, _ in events]
  )
  assert begun.max() == 4
  assert not begun[-1]


def make_codecs(model):
  def feature(quantizer, **kw):
    return codecs.FeatureCodec(model, quantizer, **kw)

  return [
    feature(quantizers.KMeans(k=4, init='++')),
    feature(quantizers.Random(k=4, rebuild='close'), split='head'),
    feature(quantizers.VisionZip(k=3), coding='best'),
    codecs.ImageCodec(model, 'jpeg', 30),
    colours.Colours(model, 4),
    codecs.Link(
      feature(quantizers.KMeans(k=5)), 'erasure(p=0.6)', 'rows(failure=0.1)'
    ),
    codecs.Link(colours.Colours(model), 'erasure(p=0.5)'),
  ]


def run(chosen=None, path=None, *, method='greedy', **kw):
  model = standin.small()
  return evaluation.evaluate(
    make_codecs(model) if chosen is None else chosen,
    captioner=captioning.Captioner(model, 5, decoding=method),
    data=data.scenes('test', limit=LIMIT),
    path=path,
    batch_size=SIZE,
    progress=False,
    **kw,
  )


def one_by_one(codec, seed, captioner):
  """Fields of records, made without a pipeline: by whole calls, in order."""
  reader, rows = data.scenes('test', limit=LIMIT), []
  grey = np.full((1, 64, 64, 3), 128, np.uint8)
  grey = codecs.FeatureCodec(captioner.model, 'identity').features(grey)
  key = captioner.keys(seed, (0,))
  (lost,) = captioner(captioner.model.project(grey), key=key)
  for start in range(0, LIMIT, SIZE):
    examples = [reader[i] for i in range(start, min(start + SIZE, LIMIT))]
    batch = batches.Batch(examples, SIZE)
    count = len(batch.ids)
    encoded = codec.encode_batch(
      batch.images, jax.random.key(seed), batch.padded_ids
    )
    arrived = [
      codec.transmit(encoded.messages[i], seed, batch.padded_ids[i])[0]
      for i in range(count)
    ]
    decoded = codec.decode_batch(arrived + arrived[-1:] * (SIZE - count))
    captions, errors = [lost] * SIZE, [None] * SIZE
    if decoded.prefix is not None:
      keys = captioner.keys(seed, batch.padded_ids)
      captions = captioner(decoded.prefix, key=keys)
      shape = decoded.tokens and decoded.tokens.x.shape
      if encoded.features is not None and encoded.features.shape == shape:
        # Compiled, as additions in another order give other last digits.
        errors = passes.mean_squared_error(decoded.tokens.x, encoded.features)
        errors = [float(f'{e:.6g}') for e in errors.tolist()]
    for i in range(count):
      known = decoded.arrived is None or decoded.arrived[i]
      rows.append(
        {
          'image_id': batch.ids[i],
          'name': codec.name,
          'seed': seed,
          'caption': captions[i] if known else lost,
          'bytes': codec.sizes(encoded.messages[i]),
          'distortion': errors[i] if known else None,
        }
      )
  return rows


@pytest.mark.parametrize('method', ['greedy', 'sample(temperature=2)'])
def test_records_are_those_of_whole_calls_one_by_one(method, tmp_path):
  path = tmp_path / 'records.jsonl'
  records = run(path=path, method=method, seeds=(0, 1))
  model = standin.small()
  captioner = captioning.Captioner(model, 5, decoding=method)
  wanted = [
    row
    for codec in make_codecs(model)
    for seed in ((0, 1) if codec.uses_key or captioner.uses_key else (0,))
    for row in one_by_one(codec, seed, captioner)
  ]
  got = [{name: r[name] for name in wanted[0]} for r in records]
  assert got == wanted
  # In the file batch by batch, and passes in their order.
  keys = [(r['name'], r['seed']) for r in wanted]
  order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  ids = [e.image_id for e in data.scenes('test', limit=LIMIT)]
  places = [
    (ids.index(r['image_id']) // SIZE, order[r['name'], r['seed']])
    for r in lines
  ]
  assert places == sorted(places)
  assert len(lines) == len(records)


def test_workers_change_nothing():
  chosen = make_codecs(standin.small())[:2]
  first, again = (run(chosen, workers=n) for n in (1, 5))
  for a, b in zip(first, again, strict=True):
    del a['seconds'], b['seconds']
    assert a == b


def test_seconds_are_positive_and_name_their_stages():
  for record in run(seeds=(0,)):
    stages = {'encode', 'caption', 'decode'}
    if record['codec']['codec'] == 'feature':
      stages |= {'quantize'}
    if 'channel' in record['codec']:
      stages |= {'pack'}
    assert set(record['seconds']) | {'caption'} == stages
    assert all(s >= 0 for s in record['seconds'].values())


def evaluating():
  """Names of the threads of an evaluation that are left."""
  names = [thread.name for thread in threading.enumerate()]
  return [name for name in names if name.startswith('evaluate')]


@dataclasses.dataclass
class Failing(codecs.Codec):
  """Fails in a stage, at the second batch."""

  model: paligemma.Model
  stage: str = ''

  def __post_init__(self):
    super().__post_init__()
    self.calls = collections.Counter()

  def _fail(self, stage):
    self.calls[stage] += 1
    if stage == self.stage and self.calls[stage] > 1:
      raise RuntimeError(f'broken {stage}')

  def blank_batch(self, batch_size):
    return [bytes(12)] * batch_size

  def warm_up(self, batch_size):
    return super().decode_unpacked([*self._pictures(batch_size)]).prefix

  def _pictures(self, count):
    return np.zeros((count, 64, 64, 3), np.uint8)

  def encode(self, images, key=None, image_ids=None):
    self._fail('encode')
    return [bytes(12)] * len(images)

  def transmit(self, message, seed, image_id):
    self._fail('transmit')
    return super().transmit(message, seed, image_id)

  def unpack(self, message):
    try:
      self._fail('unpack')
    except RuntimeError as error:
      raise wire.FormatError(str(error)) from error
    return self._pictures(1)[0]

  def decode_unpacked(self, unpacked):
    self._fail('decode_unpacked')
    return super().decode_unpacked(unpacked)

  def sizes(self, message):
    self._fail('sizes')
    return super().sizes(message)


@pytest.mark.parametrize(
  'stage', ['encode', 'transmit', 'unpack', 'decode_unpacked', 'sizes']
)
def test_an_error_of_any_stage_ends_the_run(stage, tmp_path):
  path = tmp_path / 'records.jsonl'
  model = standin.small()
  chosen = [colours.Colours(model, 4), Failing(model, stage)]
  with pytest.raises((RuntimeError, wire.FormatError), match=f'broken {stage}'):
    run(chosen, path)
  # No thread is left, and what was recorded before is kept.
  assert not evaluating()
  kept = evaluation.read_records(path)
  sent = collections.Counter(r['name'] for r in kept)
  assert sent[chosen[0].name] >= SIZE
  assert sent[chosen[1].name] in (0, SIZE)
  records = run([chosen[0], Failing(model)])
  by_key = {record_store.key_of(r): r['caption'] for r in records}
  for record in kept[:SIZE]:
    assert by_key[record_store.key_of(record)] == record['caption']


@pytest.mark.parametrize('name', ['generate', 'detokenize'])
def test_an_error_of_the_captioner_ends_the_run(name, monkeypatch):
  model = standin.small()

  def fail(*_, **__):
    raise MemoryError('no memory left')

  codec = colours.Colours(model, 4)
  codec.warm_up(SIZE)
  monkeypatch.setattr(captioning.Captioner, name, fail)
  with pytest.raises(MemoryError, match='no memory left'):
    run([codec])
  assert not evaluating()


@dataclasses.dataclass
class Counted(colours.Colours):
  """Counts pictures that are encoded and not recorded yet."""

  def __post_init__(self):
    super().__post_init__()
    self.lock, self.open, self.most = threading.Lock(), 0, 0

  def blank_batch(self, batch_size):
    return [bytes(3 * self.side**2)] * batch_size

  def encode(self, images, key=None, image_ids=None):
    with self.lock:
      self.open += len(images)
      self.most = max(self.most, self.open)
    return super().encode(images, key, image_ids)

  def sizes(self, message):
    with self.lock:
      self.open -= 1
    return super().sizes(message)


def test_few_passes_are_in_memory():
  codec = Counted(standin.small(), 4)
  evaluation.evaluate(
    [codec],
    captioner=captioning.Captioner(standin.small(), 5),
    data=data.scenes('test', limit=40),
    batch_size=2,
    progress=False,
  )
  assert not codec.open
  assert 2 < codec.most <= 2 * 4


class _Result:
  """Array of a device that ends when it is told to."""

  def __init__(self):
    self.ended = threading.Event()

  def block_until_ready(self):
    assert self.ended.wait(10)
    return self


class _Broken:
  """Array of a program that fails while it runs."""

  def block_until_ready(self):
    raise RuntimeError('on the device')


def test_a_clock_counts_no_wait_twice():
  with futures.ThreadPoolExecutor(1) as watch:
    clock = device_clock.DeviceClock(watch)
    start = time.perf_counter()
    results = [_Result() for _ in range(3)]
    waits = [clock.dispatch(lambda r=r: r)[1] for r in results]
    for result in results:
      time.sleep(0.02)
      result.ended.set()
    seconds = [wait() for wait in waits]
    whole = time.perf_counter() - start
  assert all(s > 0.01 for s in seconds)
  assert sum(seconds) <= whole
  assert clock.busy == pytest.approx(sum(seconds))
  # Without a thread a dispatch waits.
  result = _Result()
  result.ended.set()
  clock = device_clock.DeviceClock()
  assert clock.dispatch(lambda: result)[1]() == clock.busy >= 0


def test_programs_side_by_side_share_the_seconds():
  ticks = iter([0.0, 1.0, 2.0, 5.0, 5.0, 9.0, 10.0, 10.0, 11.0])
  clocked = mock.Mock(perf_counter=lambda: next(ticks))
  long, longer = _Result(), _Result()
  with (
    mock.patch.object(device_clock, 'time', clocked),
    futures.ThreadPoolExecutor(1) as watch,
  ):
    clock = device_clock.DeviceClock(watch)  # At 0 s.
    _, wait = clock.dispatch(lambda: long)  # From 1 s on.
    _, beside = clock.dispatch_beside(lambda: np.zeros(1))  # 2 s to 5 s.
    _, later = clock.dispatch(lambda: longer)  # At 5 s, behind the first.
    long.ended.set()
    assert wait() == 8 - 3 / 2  # 1 s to 9 s, 3 s of them shared.
    with pytest.raises(ZeroDivisionError):  # At 10 s.
      clock.dispatch_beside(lambda: 1 / 0)
    longer.ended.set()
    assert later() == 11 - 9
    assert beside() == 3 / 2
  ticks = iter([12.0])
  with mock.patch.object(device_clock, 'time', clocked):
    assert clock.busy == 10  # Nothing ran before 1 s and after 11 s.


def test_a_program_that_fails_leaves_the_clock_of_a_device():
  clock = device_clock.DeviceClock()
  with pytest.raises(ZeroDivisionError):
    clock.dispatch(lambda: 1 / 0)
  with pytest.raises(RuntimeError, match='on the device'):
    clock.dispatch(_Broken)
  busy = clock.busy
  time.sleep(0.01)
  assert clock.busy == busy
  assert clock.dispatch(lambda: np.zeros(1))[1]() < 0.01


def test_a_whole_that_is_overridden_is_used():
  class Tagged(codecs.FeatureCodec):
    def encode_batch(self, images, key, image_ids=None, cache=None, pack=None):
      encoded = super().encode_batch(images, key, image_ids, cache, pack)
      return encoded._replace(messages=[b'!' + m for m in encoded.messages])

    def decode_batch(self, data):
      return super().decode_batch([m.removeprefix(b'!') for m in data])

    def sizes(self, message):
      return {'tag': 1, **super().sizes(message[1:])}

  model = standin.small()
  tagged, plain = (
    run([cls(model, quantizers.KMeans(k=4))])
    for cls in (Tagged, codecs.FeatureCodec)
  )
  for a, b in zip(tagged, plain, strict=True):
    assert a['caption'] == b['caption']
    assert a['total_bytes'] == b['total_bytes'] + 1
