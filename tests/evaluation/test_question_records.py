"""Questions: one message a picture, a record each, intervals over pictures."""

import dataclasses
import itertools
import json
from typing import ClassVar

import numpy as np
import pytest

from collab_jax import captioner as captioning
from collab_jax import (
  codecs,
  data,
  evaluation,
  metrics,
  quantizers,
  random_keys,
  tasks,
)
from collab_jax.data import asked, question
from collab_jax.evaluation import record_store
from collab_jax.evaluation.report import grids, summary
from collab_jax.plots import style
from tests import standin
from tests.evaluation import runs
from tests.evaluation import synthetic as synthetic_records

# As many words as no two prompts of a picture share.
_COUNTS = (1, 3, 2, 5)


def questions_of(picture):
  """Questions about a picture, fewer about some than about others."""
  count = _COUNTS[picture.image_id % len(_COUNTS)]
  return tuple(
    question.Question(
      f'answer en {"what is this " * (i + 1)}'.strip(),
      (picture.captions[i],),
      'long' if i % 2 else 'short',
      f'{picture.image_id}/{i}',
    )
    for i in range(count)
  )


@dataclasses.dataclass(frozen=True)
class Stub(tasks.Task):
  """Task of the scenes whose answers are single letters."""

  label: ClassVar[str] = 'letters'
  max_tokens: ClassVar[int] = 5
  metrics: ClassVar[tuple[str, ...]] = ('exact', 'cider')

  def load(self, folder='', split='', limit=None, size=64, method=''):
    del folder, size, method
    return asked.Asked(data.scenes(split or 'test', limit), questions_of)

  def read(self, text, asked):
    return text[:1]


TASK = Stub()


def run(path=None, *, limit=6, task=TASK, **kw):
  settings = {'batch_size': 4, 'data': TASK.load(limit=limit)} | kw
  return runs.evaluate(settings.pop('data'), path, task=task, **settings)


def texts(records):
  return {record_store.key_of(r): r['caption'] for r in records}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  path = tmp_path_factory.mktemp('questions') / 'records.jsonl'
  return run(path), path


def test_a_record_for_each_question(whole):
  records, path = whole
  reader = TASK.load(limit=6)
  wanted = sum(len(reader[i].questions) for i in range(6))
  assert len(records) == wanted * (2 * 2 + 1 + 3)
  assert len({record_store.key_of(r) for r in records}) == len(records)
  for record in records[:wanted]:
    picture = next(p for p in reader if p.image_id == record['image_id'])
    each = next(q for q in picture.questions if q.id == record['question'])
    assert record['prompt'] == each.prompt
    assert record['kind'] == each.kind
    assert record['references'] == list(each.references)
    assert record['answer'] == record['caption'][:1]
    assert record['questions'] == len(picture.questions)
    share = record['total_bytes'] / record['questions']
    assert record['question_bytes'] == pytest.approx(share)
    # CIDEr weighs words by all references: a text has no score of its own.
    assert set(record['scores']) == {'exact'}
    assert 'slots' not in record
  read = evaluation.read_records(path)
  assert sorted(map(str, read)) == sorted(
    str(json.loads(json.dumps(r))) for r in records
  )


def test_answers_are_those_of_the_captioner(whole):
  records, _ = whole
  model = standin.small()
  codec = codecs.FeatureCodec(model, quantizers.make('identity'))
  captioner = captioning.Captioner(model, 5)
  written = {
    r['question']: r['caption'] for r in records if r['name'] == 'identity'
  }
  for picture in TASK.load(limit=6):
    images = picture.image[None]
    prefix = codec.decode(
      codec.encode(images, random_keys.make(0), [picture.image_id])
    )
    for each in picture.questions:
      assert captioner(prefix, each.prompt) == [written[each.id]]
  assert len(set(written.values())) > 1


@pytest.mark.parametrize('batch_size', [1, 64])
def test_any_batch_size(whole, batch_size):
  assert texts(run(batch_size=batch_size)) == texts(whole[0])


def test_drawn_answers_depend_on_no_batch():
  kw = {
    'decoding': 'sample(temperature=2)',
    'names': runs.NAMES[:1],
    'blind': (),
  }
  first = run(batch_size=2, limit=3, **kw)
  assert texts(run(batch_size=3, limit=3, **kw)) == texts(first)
  by_seed = [
    [r['caption'] for r in first if r['seed'] == seed] for seed in (0, 1)
  ]
  assert by_seed[0] != by_seed[1]


def test_blind_answers(whole):
  records, _ = whole
  by_name = {}
  for r in records:
    by_name.setdefault(r['name'], {})[r['question']] = r
  for kind in ('zeroed', 'mean'):
    by_prompt = {}
    for r in by_name[f'blind({kind})'].values():
      by_prompt.setdefault(r['prompt'], set()).add(r['caption'])
    assert {len(several) for several in by_prompt.values()} == {1}
  shuffled = by_name['blind(shuffled)']
  assert shuffled.keys() == by_name['identity'].keys()
  assert {r['total_bytes'] for r in shuffled.values()} == {0}


def test_encoder_and_messages_once_a_picture(monkeypatch):
  encoded, packed = [], []
  model = standin.small()
  codec = codecs.FeatureCodec(model, quantizers.make('kmeans(k=4)'))
  transmit = type(codec).transmit

  def count_messages(self, message, seed, image_id):
    packed.append(image_id)
    return transmit(self, message, seed, image_id)

  observe = type(codec).observe

  def count_pictures(self, images):
    # Programs are compiled with black pictures.
    encoded.append(len(images) if np.asarray(images).any() else 0)
    return observe(self, images)

  monkeypatch.setattr(type(codec), 'transmit', count_messages)
  monkeypatch.setattr(type(codec), 'observe', count_pictures)
  records = run(names=runs.NAMES[:1], seeds=(0,), blind=())
  assert len(records) > 6
  assert sorted(packed) == sorted({r['image_id'] for r in records})
  assert sum(encoded) == 8  # Two batches of 4, of which two rows are padding.


def test_lost_messages_are_answered_from_a_grey_picture():
  records = run(
    names=runs.NAMES[:1], channel='erasure(p=1.0)', seeds=(0,), blind=()
  )
  assert all(r['link']['whole'] == 0 for r in records)
  by_prompt = {}
  for r in records:
    by_prompt.setdefault(r['prompt'], set()).add(r['caption'])
  assert {len(several) for several in by_prompt.values()} == {1}
  assert len(by_prompt) > 1


def test_resumed_after_a_torn_line(whole, tmp_path):
  runs.check_resumed(runs.torn(whole[1], tmp_path), run, whole)


def test_nothing_is_computed_twice(whole):
  _, path = whole
  before = path.read_bytes()
  run(path)
  assert path.read_bytes() == before


@dataclasses.dataclass(frozen=True)
class Words(Stub):
  """Task that reads answers in another way."""

  def read(self, text, asked):
    return text[:2]


def ask_otherwise(picture):
  first, *others = questions_of(picture)
  return (dataclasses.replace(first, prompt='answer en why'), *others)


def drop_one(picture):
  return questions_of(picture)[:1]


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'task': Words()}, r'task: the file has .*Stub.*, this run .*Words'),
    ({'task': None}, r'task: the file has .*Stub.*, this run None'),
    (
      {'data': asked.Asked(data.scenes('test', 6), ask_otherwise)},
      r'other pictures or questions.*\n.*: other questions',
    ),
    (
      {'data': asked.Asked(data.scenes('test', 6), drop_one)},
      r'other pictures or questions.*\n.*: other questions',
    ),
  ],
)
def test_other_questions_are_refused(whole, change, said):
  _, path = whole
  before = path.read_bytes()
  with pytest.raises(evaluation.SettingsError, match=said):
    run(path, **change)
  assert path.read_bytes() == before


@pytest.mark.parametrize('place', [0, 1])
def test_questions_without_references_are_refused(place):
  scenes = data.scenes('test', 2)
  number = scenes[place].image_id

  def ask(picture):
    first, *others = questions_of(picture)
    if picture.image_id == number:
      first = dataclasses.replace(first, references=())
    return (first, *others)

  said = rf'picture {number}: references of {number}/0: got \(\), expected one'
  with pytest.raises(ValueError, match=said):
    run(data=asked.Asked(scenes, ask))


def test_pictures_need_questions():
  with pytest.raises(ValueError, match='whose pictures have no questions'):
    run(data=data.scenes('test', 2))
  with pytest.raises(ValueError, match=r"task: got 'okvq'.*'okvqa'"):
    run(task='okvq')


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('references', ['else'], r'question .*: got other references than in'),
    ('prompt', 'answer en why', r'question .*: got other prompt than in'),
    ('kind', 'else', r'question .*: got other kind than in'),
    ('questions', 9, r'picture \d+: got other questions than in'),
    ('questions', 0, 'questions: got 0, expected an integer of at least 1'),
    ('scores', [1], r'scores: got \[1\], expected an object of numbers'),
    ('answer', None, "lacks the field 'answer'"),
  ],
)
def test_contradictions_are_refused(whole, tmp_path, field, value, said):
  _, path = whole
  records = [json.loads(line) for line in path.read_bytes().splitlines()]
  first = next(r for r in records if r['name'] == 'identity')
  changed = tmp_path / 'records.jsonl'
  other = {**first, 'name': 'other', field: value}
  lines = [json.dumps(r) for r in (first, other)]
  changed.write_text('\n'.join(lines) + '\n')
  with pytest.raises(ValueError, match=said):
    evaluation.read_records(changed)


def synthetic(pictures=30, seed=0):
  """Records of two codecs; answers about one picture are right together."""
  rng = np.random.default_rng(seed)
  counts = rng.integers(1, 6, pictures)
  records = []
  for name, k, size in (('identity', 64, 900), ('kmeans(k=8)', 8, 100)):
    codec = {'codec': 'feature', 'quantizer': name.partition('(')[0]}
    codec |= {'split': 'encoder', 'k': k}
    for i in range(pictures):
      right = rng.random() < (0.9 if name == 'identity' else 0.6)
      count = int(counts[i])
      fields = {'task': 'scenes(kind=yes_no)', 'caption': 'x'}
      fields['seconds'] = {'caption': 0.01 * (i + 1)}
      row = codec, name, k, size + i, count, i
      records += [
        synthetic_records.answered(
          *(*row, n, 'yes' if right else 'no'),
          kind='a' if n % 2 else 'b',
          **fields,
        )
        for n in range(count)
      ]
  return records, counts


def test_bytes_are_counted_once_a_picture():
  records, counts = synthetic()
  full, part = evaluation.summarize(records, resamples=50)
  assert part['images'] == 30
  assert part['questions'] == counts.sum()
  assert part['bytes'] == pytest.approx(100 + np.mean(range(30)))
  shares = [(100 + i) / n for i, n in enumerate(counts) for _ in range(n)]
  assert part['question_bytes'] == pytest.approx(np.mean(shares))
  assert sum(shares) == pytest.approx(sum(100 + i for i in range(30)))
  rights = [r['scores']['exact'] for r in records if r['name'] == 'identity']
  assert full['exact'] == pytest.approx(np.mean(rights))
  assert full['task'] == 'scenes(kind=yes_no)'
  assert set(full['metrics']) == {'exact'}


def test_pictures_are_drawn_not_questions():
  records, counts = synthetic()
  by_picture = [
    [r['scores']['exact'] for r in records if r['name'] == 'identity']
  ]
  starts = np.cumsum([0, *counts])
  rights = np.array(by_picture[0])
  sums = np.array([rights[a:b].sum() for a, b in itertools.pairwise(starts)])
  draws = metrics.drawn_scores(
    np.stack([sums, counts], axis=-1).astype(float), metrics.mean, 400, 0
  )
  row = evaluation.summarize(records, resamples=400)[0]
  low, high = metrics.interval(draws, 0.95)
  assert (row['exact_low'], row['exact_high']) == pytest.approx((low, high))
  # Drawn one by one, as if each were a picture, they would seem surer.
  alone = metrics.bootstrap(metrics.mean_stats(rights), metrics.mean, 400)
  assert high - low > 1.2 * (alone[1] - alone[0])


def test_scores_of_kinds():
  records, _ = synthetic()
  rows = evaluation.summarize(records, resamples=50)
  assert evaluation.kinds(records) == ['b', 'a']
  for kind in ('a', 'b'):
    chosen = evaluation.of_kinds(records, kind)
    assert {r['kind'] for r in chosen} == {kind}
    alone = evaluation.summarize(chosen, resamples=50)
    for row, other in zip(rows, alone, strict=True):
      part = row['kinds'][kind]
      for field in ('exact', 'exact_low', 'exact_kept', 'exact_kept_low'):
        assert part[field] == pytest.approx(other[field])
      assert part['questions'] == other['questions']
      assert part['images'] == other['images']
  both = evaluation.of_kinds(records, 'a', 'b')
  assert runs.timeless(both) == runs.timeless(records)
  with pytest.raises(ValueError, match='kinds: got c, expected some of b, a'):
    evaluation.of_kinds(records, 'c')


def test_half_answered_pictures_are_left_out():
  records, counts = synthetic()
  several = next(i for i, n in enumerate(counts) if n > 1)
  torn = [
    r
    for r in records
    if not (r['name'] == 'kmeans(k=8)' and r['question'] == f'{several}/0')
  ]
  full, part = evaluation.summarize(torn, resamples=5)
  assert (full['images'], part['images']) == (30, 29)
  grid = grids.grids_of(torn)['kmeans(k=8)']
  assert several not in {row[0]['image_id'] for row in grid}


def test_differences_are_paired_by_picture():
  records, _ = synthetic()
  rows = evaluation.summarize(records, resamples=50)
  lines = evaluation.paired_differences(records, rows, resamples=50)
  assert [line['k'] for line in lines] == [8]
  assert summary.Scores(records, [metrics.make('exact')])


def test_captions_count_as_before():
  ones, seeds = np.random.default_rng(0).random((50, 3)), 3
  stats = metrics.mean_stats(ones)
  assert stats.shape == (50, seeds, 2)
  assert metrics.make('exact').mean_score(stats) == float(ones.mean())


def test_records_name_no_code():
  records, _ = synthetic()
  own = [{**r, 'task': 'nowhere:Task'} for r in records]
  # The metrics are those that the records have scores of; nothing is imported.
  assert evaluation.metrics_of(own) == ('exact',)
  assert evaluation.published(evaluation.summarize(own, resamples=5)) == []
  for task in ('nowhere:Task', 'tsv(score=nowhere:Metric)'):
    alien = [{**r, 'task': task, 'scores': {'nowhere:M': 1.0}} for r in own]
    with pytest.raises(ValueError, match=r'metrics: got .*in data'):
      evaluation.summarize(alien)
  bare = [{**r, 'scores': {}} for r in own]
  with pytest.raises(ValueError, match=r'metrics: got .*name them'):
    evaluation.summarize(bare)
  assert evaluation.summarize(bare, metrics=['exact'], resamples=5)


def test_records_of_unknown_tasks_and_of_prompts_with_colons():
  records, _ = synthetic()
  for name in ('okvq', 'okvqa(else=1)', 'okvqa((', 'nowhere:Task'):
    alien = [{**r, 'task': name} for r in records]
    assert evaluation.metrics_of(alien) == ('exact',)
    assert evaluation.published(evaluation.summarize(alien, resamples=5)) == []
  known = [{**r, 'task': 'coco(prompt=caption: en)'} for r in records]
  expected = tasks.make('coco').metrics
  assert evaluation.metrics_of(known) == expected


def test_scores_of_ones_own_metric_are_left_out_if_another_is_chosen():
  records, _ = synthetic()
  scores = {'nowhere:Metric': 1.0, 'exact': 1.0}
  own = [{**r, 'task': 'nowhere:Task', 'scores': scores} for r in records]
  with pytest.raises(ValueError, match=r'metrics: got .*metrics=\[\.\.\.\]'):
    evaluation.metrics_of(own)
  assert evaluation.metrics_of(own, strict=False) == ('exact',)
  (row, *_) = style.rows_of(own, 'exact')
  assert [*row['metrics']] == ['exact']


@pytest.mark.parametrize(
  ('ids', 'said'),
  [
    (('a', 'a'), r"questions of picture \d+: id: got \['a', 'a'\]"),
    (('', 'b'), r"id: got \['', 'b'\], expected a text of its own"),
    ((), r'questions of picture \d+: got \[\], expected at least one'),
  ],
)
def test_questions_of_one_id_are_refused(ids, said):
  scenes = data.scenes('test', 2)
  first = scenes[0].image_id

  def ask(picture):
    names = ('a', 'b') if picture.image_id == first else ids
    return tuple(
      question.Question(f'answer en {i}', ('red',), id=name)
      for i, name in enumerate(names)
    )

  with pytest.raises(ValueError, match=said):
    run(data=asked.Asked(scenes, ask))
