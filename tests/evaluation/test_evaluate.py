"""Records: the same at any batch size, after a kill, and never mixed."""

from concurrent import futures
import json
import signal
import textwrap
import threading
import time
import types

import jax
import numpy as np
import pytest

from collab_jax import (
  _precision,
  checkpoints,
  codecs,
  data,
  evaluation,
  quantizers,
)
from collab_jax import captioner as captioning
from collab_jax.evaluation import batches, record_store
from collab_jax.evaluation import loop as evaluate_loop
from collab_jax.serving.server import compilations
from tests import launching, standin
from tests.evaluation import runs


def run(path=None, *, limit=10, split='test', **settings):
  reader = data.scenes(split, limit=limit)
  return runs.evaluate(reader, path, **{'batch_size': 7} | settings)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  path = tmp_path_factory.mktemp('whole') / 'records.jsonl'
  return run(path), path


def test_records_say_everything(whole):
  records, path = whole
  # 10 images; two codecs with two seeds, one that ignores the key, 3 blind.
  assert len(records) == 10 * (2 * 2 + 1 + 3)
  keys = {record_store.key_of(r) for r in records}
  assert len(keys) == len(records)
  example = data.scenes('test')[0]
  first = records[0]
  assert first['image_id'] == example.image_id
  assert first['references'] == list(example.captions)
  assert first['ratio'] == 4 / 64
  assert sum(first['bytes'].values()) == first['total_bytes'] == 5 + 16 + 4 * 32
  assert first['distortion'] > 0
  assert set(first['seconds']) == {'encode', 'quantize', 'decode', 'caption'}
  assert first['slots'] == data.slots(first['caption'], example.info)
  closed = next(r for r in records if r['name'].startswith('random'))
  assert closed['distortion'] is None
  blind = [r for r in records if r['codec']['codec'] == 'blind']
  assert {r['total_bytes'] for r in blind} == {0}
  assert sorted(map(str, evaluation.read_records(path))) == sorted(
    str(json.loads(json.dumps(r))) for r in records
  )


def test_blind_captions(whole):
  records, _ = whole
  by_name = {}
  for r in records:
    by_name.setdefault(r['name'], {})[r['image_id']] = r['caption']
  assert len(set(by_name['blind(zeroed)'].values())) == 1
  assert len(set(by_name['blind(mean)'].values())) == 1
  # The stand-in's captions survive 16 bits.
  full, shuffled = by_name['identity'], by_name['blind(shuffled)']
  assert sorted(full.values()) == sorted(shuffled.values())
  assert full != shuffled


@pytest.mark.parametrize('batch_size', [1, 64])
def test_any_batch_size(whole, batch_size):
  runs.assert_same(run(batch_size=batch_size), whole[0])


def test_resumed_after_a_torn_line(whole, tmp_path):
  runs.check_resumed(runs.torn(whole[1], tmp_path), run, whole)


def test_nothing_is_computed_twice(whole):
  _, path = whole
  before = path.read_bytes()
  start = time.process_time()
  run(path)
  assert path.read_bytes() == before
  assert time.process_time() - start < 5


def test_more_of_the_same_is_added(tmp_path):
  path = tmp_path / 'records.jsonl'
  settings = {'blind': (), 'batch_size': 1}
  run(path, limit=2, seeds=(0,), **settings)
  more = run(path, limit=3, **settings)
  runs.assert_same(more, run(limit=3, **settings))
  assert len(evaluation.read_records(path)) == len(more)


_SCRIPT = """
    import sys
    from pathlib import Path
    from collab_jax import checkpoints
    from tests import standin
    from tests.evaluation import test_evaluate
    standin.small = lambda: checkpoints.load(sys.argv[1])
    test_evaluate.run(Path(sys.argv[2]), batch_size=1)
"""


def test_killed_and_resumed(whole, tmp_path):
  path = tmp_path / 'records.jsonl'
  script = tmp_path / 'script.py'
  script.write_text(textwrap.dedent(_SCRIPT))
  first = launching.Launched(script, standin.folder(), path)
  while first.runs():
    if path.exists() and path.read_bytes().count(b'\n') > 12:
      break
    time.sleep(0.005)
  done = first.kill()
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert 12 < len(evaluation.read_records(path)) < len(whole[0])
  runs.assert_same(run(path, batch_size=1), whole[0])
  assert len(evaluation.read_records(path)) == len(whole[0])


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'max_tokens': 6}, r'captioner.max_tokens: the file has 5, this run 6'),
    ({'split': 'dense'}, r"data: .*'scenes/test', this run 'scenes/dense'"),
    ({'limit': 9}, r'blind\(mean\) images: the file has 10, this run 9'),
  ],
)
def test_other_settings_are_refused(whole, change, said):
  _, path = whole
  before = path.read_bytes()
  with pytest.raises(evaluation.SettingsError, match=said):
    run(path, **change)
  assert path.read_bytes() == before


def test_another_book_in_the_place_of_one_is_refused(tmp_path):
  book, path = tmp_path / 'book.safetensors', tmp_path / 'records.jsonl'
  model = standin.small()

  def go(seed):
    codes = np.random.default_rng(seed).normal(size=(1, 4, 16))
    arrays = {'codes': codes, 'counts': np.ones((1, 4))}
    quantizers.pretrained.save(book, arrays, kind='codebook', width=16)
    inner = quantizers.SharedVQ(4, str(book))
    return evaluation.evaluate(
      [
        codecs.FeatureCodec(model, quantizers.Agglomerative(2, centroids=inner))
      ],
      captioner=captioning.Captioner(model, 5),
      data=data.scenes('test', limit=4),
      path=path,
      progress=False,
    )

  whole = go(0)
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[:2]))
  with pytest.raises(
    evaluation.SettingsError, match=r'books\..*: the file has'
  ):
    go(1)
  assert path.read_text() == ''.join(lines[:2])
  runs.assert_same(go(0), whole)
  rows = evaluation.summarize(whole, resamples=1)
  assert 'books' not in evaluation.label(rows[0])


@pytest.mark.parametrize('decoding', ['beam2', 'sample(temperature=2)'])
def test_other_decodings(whole, decoding, tmp_path):
  settings = {'limit': 5, 'decoding': decoding}
  path = tmp_path / 'records.jsonl'
  records = run(path, **settings)
  runs.assert_same(run(batch_size=2, **settings), records)
  greedy = {record_store.key_of(r): r['caption'] for r in whole[0]}
  captions = {record_store.key_of(r): r['caption'] for r in records}
  assert any(captions[key] != greedy[key] for key in captions if key in greedy)
  drawn = decoding != 'beam2'
  # Captions that are drawn are drawn for each seed, of all vectors too.
  assert len(records) == 5 * (3 * 2 if drawn else 2 * 2 + 1) + 5 * 3
  if drawn:
    full = [
      [
        c
        for (_, name, s), c in captions.items()
        if (name, s) == ('identity', seed)
      ]
      for seed in (0, 1)
    ]
    assert full[0] != full[1]
  said = 'captioner.decoding: the file has .* this run .greedy'
  with pytest.raises(evaluation.SettingsError, match=said):
    run(path, limit=5)


def test_another_model_is_refused(whole):
  model = standin.small()
  other = model.replace(params=jax.tree.map(lambda p: p * 1.01, model.params))
  with pytest.raises(evaluation.SettingsError, match=r'model\.checksum'):
    evaluation.evaluate(
      runs.make_codecs(other),
      captioner=captioning.Captioner(other, 5),
      data=data.scenes('test', limit=10),
      path=whole[1],
    )


def test_other_products_are_refused(whole):
  model = standin.small()
  said = json.loads(whole[1].with_suffix('.settings.json').read_text())
  assert said['model']['dtype'] == said['model']['compute_dtype'] == 'float32'
  assert (said['precision'], said['platform']) == ('default', 'cpu')

  def go(model):
    return evaluation.evaluate(
      runs.make_codecs(model),
      captioner=captioning.Captioner(model, 5),
      data=data.scenes('test', limit=10),
      path=whole[1],
      progress=False,
    )

  half = model.replace(config=model.config.with_compute_dtype('bfloat16'))
  expected = "model.compute_dtype: the file has 'float32', this run 'bfloat16'"
  with pytest.raises(evaluation.SettingsError, match=expected):
    go(half)
  expected = "precision: the file has 'default', this run 'highest'"
  with (
    _precision.matmul_precision('highest'),
    pytest.raises(evaluation.SettingsError, match=expected),
  ):
    go(model)


def test_two_runs_at_once_are_refused(whole):
  _, path = whole
  settings = json.loads(path.with_suffix('.settings.json').read_text())
  with (
    record_store.RecordStore(path, settings, {}),
    pytest.raises(BlockingIOError, match='another run is writing'),
  ):
    run(path)


def test_records_without_settings_are_refused(whole, tmp_path):
  lone = tmp_path / 'records.jsonl'
  lone.write_bytes(whole[1].read_bytes())
  with pytest.raises(evaluation.SettingsError, match='is missing'):
    run(lone)


def test_a_damaged_file_is_refused(tmp_path):
  path = tmp_path / 'records.jsonl'
  path.write_text('{"image_id": 1}\n{}\n')
  with pytest.raises(ValueError, match=r'records.jsonl:1 is no record'):
    evaluation.read_records(path)


def test_wrong_arguments(without_types):
  model = standin.small()
  codec = codecs.FeatureCodec(model, 'identity')
  captioner = captioning.Captioner(model, 5)
  reader = data.scenes('test', limit=2)
  with pytest.raises(TypeError, match=r'a list of codecs; write \[codec\]'):
    evaluation.evaluate(codec, captioner=captioner, data=reader)
  for wrong in ({'seeds': 0}, {'batch_size': 2.5}, {'workers': '2'}):
    (name,) = wrong
    with pytest.raises(ValueError, match=f'{name}: got'):
      evaluation.evaluate([codec], captioner=captioner, data=reader, **wrong)
  with pytest.raises(ValueError, match='codecs given twice: identity'):
    evaluation.evaluate([codec, codec], captioner=captioner, data=reader)
  with pytest.raises(ValueError, match='scenes/test is empty'):
    evaluation.evaluate(
      [codec], captioner=captioner, data=data.scenes('test', limit=0)
    )
  with pytest.raises(ValueError, match="got 'dark', expected one of"):
    evaluation.evaluate(
      [codec], captioner=captioner, data=reader, blind=['dark']
    )


def test_two_threads_compile_one_captioner():
  """Codecs whose prefixes are of one length share the captioner's program."""
  calls, together = [], threading.Barrier(2, timeout=20)

  class Codec:
    def __init__(self, name):
      self.name = self.programs = name

    def warm_up(self, size):
      together.wait()
      return types.SimpleNamespace(x=np.zeros((size, 4, 24)))

  class Captioner:
    def keys(self, seed, ids):
      return None

    def __call__(self, prefix, key):
      calls.append(prefix)
      time.sleep(0.1)

  run = object.__new__(evaluate_loop._Run)
  run.captioner, run.seed, run.warm_ups = Captioner(), 0, {}
  run.codec_seeds = [(Codec('a'), 0), (Codec('b'), 0)]
  run.missing = {'a', 'b'}
  run.recorder = types.SimpleNamespace(task=None)
  with futures.ThreadPoolExecutor(2) as pool:
    run.start_compiling(pool, 2)
    for warm_up in run.warm_ups.values():
      warm_up.result()
  assert len(calls) == 1


def test_the_encoder_s_time_counts_once_and_compiling_not_at_all():
  model = standin.small()
  codec = codecs.FeatureCodec(model, quantizers.VisionZip(k=3))
  batch = batches.Batch([data.scenes('test', 3)[i] for i in range(3)], 3)
  codec.warm_up(3)
  compiled = []
  compilations.listen(compiled.append)
  cache = codecs.FeatureCache()
  settings = batch.images, jax.random.key(1), batch.padded_ids, cache
  first, again = (codec.encode_batch(*settings) for _ in range(2))
  compilations.listen(lambda _: None)
  assert not compiled
  assert 0 < first.seconds['encode'] == again.seconds['encode']
  assert first.features is again.features
  plain = codecs.FeatureCodec(model, quantizers.KMeans(k=3))
  assert plain.encode_batch(*settings).features is not first.features
  other = codecs.FeatureCodec(model, quantizers.KMeans(k=5))
  shared = [c.encode_batch(*settings) for c in (plain, other)]
  assert shared[0].features is shared[1].features
  assert shared[0].seconds['encode'] == shared[1].seconds['encode']
  ran = []

  def compile_and_run():
    time.sleep(0.1)
    ran.append(1)

  compiled = set()
  for seconds in ((0, 0.1), (0.1, 10)):
    cache = codecs.FeatureCache(compiled)
    first, again = (cache.get('key', compile_and_run) for _ in range(2))
    assert first == again
    assert first[0] is None
    assert seconds[0] <= first[1] < seconds[1]
  assert compiled == {'key'}
  assert ran == [1, 1]


def test_pictures_unlike_the_training_are_recorded(caplog, tmp_path):
  """Photographs through the tiny model have the field, and no scene has."""
  model = checkpoints.load('tiny')
  settings = {
    'captioner': captioning.Captioner(model, 3),
    'progress': False,
    'batch_size': 4,
    'path': tmp_path / 'records.jsonl',
  }
  chosen = [codecs.FeatureCodec(model, 'kmeans(k=4)')]
  photos = data.photos(size=64)
  records = evaluation.evaluate(chosen, data=photos, **settings)
  assert all(record['unlike'] is True for record in records)
  (warning,) = [r.message for r in caplog.records if 'unlike' in r.message]
  assert warning == (
    '7 of 7 pictures of photos/test are unlike those that the tiny model was'
    ' trained on: their captions mean nothing.'
  )
  rows = evaluation.summarize(
    evaluation.read_records(settings['path']), resamples=10
  )
  assert evaluation.unlike_pictures(rows) == warning
  caplog.clear()
  scenes = data.scenes('test', limit=4)
  settings['path'] = None
  records = evaluation.evaluate(chosen, data=scenes, **settings)
  assert not any('unlike' in record for record in records)
  assert not any('unlike' in r.message for r in caplog.records)
  rows = evaluation.summarize(records, resamples=10)
  assert evaluation.unlike_pictures(rows) == ''
