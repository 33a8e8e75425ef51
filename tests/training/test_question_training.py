"""Training on questions: packing, growth, steps, resuming after a kill."""

import dataclasses
import functools
import json
import shutil
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np
import pytest

import collab_jax as cj
from collab_jax import checkpoints, data, training
from collab_jax.models import paligemma
from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import (
  batches,
  growth,
  packing,
  pretrain_step,
  question_step,
  questions,
)
from configs import train_questions

CONFIG: Any = train_questions.get_config('mode=smoke')


@pytest.fixture(scope='module')
def start():
  return cj.load('tiny')


@pytest.fixture(scope='module')
def grown(start):
  return questions.grow(CONFIG, start, questions.make_tokenizer(CONFIG))


@pytest.fixture(scope='module')
def source(grown):
  return questions.make_source(CONFIG, grown)


@pytest.fixture(scope='module')
def image(grown):
  pictures = np.stack([data.scenes('val')[i].image for i in range(2)])
  return grown.project(grown.encode_image(pictures / np.float32(127.5) - 1))


def texts(tokenizer):
  scene = data.scenes('val', questions=True)[0]
  asked = [(q.kind, q.prompt, q.references[0]) for q in scene.questions]
  return [
    packing.tokenize(tokenizer, *text)
    for text in [('caption', 'caption en', scene.captions[0]), *asked]
  ]


def test_vocabulary_has_words_and_locations(grown):
  tokenizer = grown.tokenizer
  text = '<loc0001><loc1023><loc0512><loc0000> red ring ; <loc0007>'
  assert tokenizer.pieces(text) == [
    '<loc0001>',
    '<loc1023>',
    '<loc0512>',
    '<loc0000>',
    '▁red',
    '▁ring',
    '▁;',
    '▁',
    '<loc0007>',
  ]
  assert tokenizer.decode(tokenizer.encode(text)) == text
  question = 'answer en how many large things'
  assert [p.strip('▁') for p in tokenizer.pieces(question)] == question.split()
  first = tokenizer.encode('<loc0000>')[0]
  assert tokenizer.encode('<seg127>') == [first + 1024 + 127]
  assert first + 1152 == tokenizer.vocab_size <= CONFIG.model.llm.vocab_size


def test_growth_keeps_the_captions(start, grown, image):
  assert grown.config.text.depth == start.config.text.depth + 1
  captions = [
    cj.Captioner(model, max_tokens=34)(image) for model in (start, grown)
  ]
  assert captions[0] == captions[1]


def test_growth_keeps_rows_of_known_pieces(start, grown):
  old, new = (
    m.params['llm']['embedder']['input_embedding'] for m in (start, grown)
  )
  for word in ('red', ' ring', '\n', '<loc0007>'):
    (i,), (j,) = (m.tokenizer.encode(word) for m in (start, grown))
    np.testing.assert_array_equal(old[i], new[j])
  assert new.shape == (CONFIG.model.llm.vocab_size, old.shape[1])
  unknown = [
    i
    for i, piece in enumerate(grown.tokenizer.vocabulary)
    if piece not in start.tokenizer.vocabulary
  ]
  assert unknown
  fresh = np.abs(new[np.asarray(unknown)] - old.mean(0)).max(1)
  assert (fresh > 0).all()
  assert (fresh < old.std()).all()


def test_growth_refuses_fewer_layers_and_other_dimensions(start, grown):
  layers = start.params['llm']['layers']
  with pytest.raises(ValueError, match='depth: got 1, expected an integer'):
    growth.add_layers(start.config.text, layers, 1, jax.random.key(0))
  config = CONFIG.copy_and_resolve_references()
  config.model.llm.mlp_dim = 128
  with pytest.raises(ValueError, match=r'model: got .*of the start model'):
    questions.grow(config, start, grown.tokenizer)


def test_rows_hold_whole_texts(grown):
  several = texts(grown.tokenizer)
  row = packing.pack(several, 256, 200, 80, True)
  for segment in range(1, row['segment'].max() + 1):
    at = np.flatnonzero(row['segment'] == segment)
    assert (np.diff(at) == 1).all()
    assert row['positions'][at].tolist() == [*range(256, 256 + len(at))]
    ids = row['tokens'][at].tolist()
    (text,) = (t for t in several if t.prompt + t.answer == ids)
    block = row['block'][at].tolist()
    prompt = len(text.prompt)
    assert block == [0] * prompt + [*range(1, 1 + len(text.answer))]
    # Each answer's token is predicted from the one before it.
    places = at[prompt:] - 1 + 256
    chosen = np.isin(row['outputs'], places) & (row['kind'] >= 0)
    assert row['target'][chosen].tolist() == text.answer
    assert set(row['kind'][chosen]) == {text.kind}
  assert row['valid'].sum() == (row['segment'] > 0).sum()
  assert row['segment'].max() > 5
  assert grown.tokenizer.decode(several[0].answer).split() == (
    data.scenes('val')[0].captions[0].split()
  )


def test_texts_that_do_not_fit_are_left_out(grown):
  several = texts(grown.tokenizer)
  long, short = several[0], several[1]
  row = packing.pack([short, long], 256, len(short.prompt) + 5, 10, True)
  assert row['segment'].max() == 1
  with pytest.raises(ValueError, match='length and targets: got 8 and 9'):
    packing.pack([long], 256, 8, 9, True)
  single = packing.pack(several, 256, 60, 40, False)
  assert single['valid'].sum() == len(long.prompt + long.answer)
  assert not single['segment'].any()


def test_single_rows_score_as_the_model_does(grown, image):
  text = texts(grown.tokenizer)[0]
  row = packing.pack([text], 256, 48, 36, False)
  rows = {n: jnp.asarray(v)[None] for n, v in row.items()}
  scores = packing.logits(grown, image[:1], rows)[0]
  mask_ar = (row['block'] > 0).astype(np.int32)
  mask_ar[row['valid'] == 0] = 1
  expected = grown.logits(image[:1], rows['tokens'], mask_ar[None], False)[0]
  count = len(text.answer)
  first = len(text.prompt) - 1
  np.testing.assert_allclose(
    scores[:count], expected[first : first + count], atol=2e-3
  )


def test_packed_texts_do_not_see_each_other(grown, image):
  several = texts(grown.tokenizer)
  row = packing.pack(several, 256, 200, 80, True)
  together = packing.logits(
    grown, image[:1], {n: jnp.asarray(v)[None] for n, v in row.items()}
  )[0]
  for text in several[:4]:
    alone = packing.pack([text], 256, 200, 80, True)
    scores = packing.logits(
      grown, image[:1], {n: jnp.asarray(v)[None] for n, v in alone.items()}
    )[0]
    count = len(text.answer)
    starts = [
      i
      for i in range(80 - count)
      if row['target'][i : i + count].tolist() == text.answer
      and set(row['kind'][i : i + count]) == {text.kind}
    ]
    errors = [
      np.abs(together[i : i + count] - scores[:count]).max() for i in starts
    ]
    assert min(errors) < 2e-3


def test_losses_by_kind():
  scores = jnp.zeros((1, 4, 5))
  kinds = [0, 0, 8, -1]
  rows = {
    'target': jnp.zeros((1, 4), jnp.int32),
    'kind': jnp.asarray([kinds]),
  }
  weights = [1.0] * 8 + [3.0]
  total, by_kind = packing.losses(scores, rows, weights)
  assert total == pytest.approx(np.log(5))
  assert by_kind['caption'] == by_kind[packing.KINDS[8]] == total
  assert by_kind[packing.KINDS[1]] == 0


def test_examples(source, grown):
  first, later = source[0], source[source.packed]
  assert first['tokens'].shape == (1, CONFIG.packed_size[0])
  assert later['tokens'].shape == (CONFIG.rows, CONFIG.row_size[0])
  assert first['outputs'].shape == (1, CONFIG.packed_size[1])
  kinds = [later['kind'][i, 0] for i in range(CONFIG.rows)]
  assert kinds[0] == 0
  assert packing.KINDS[kinds[1]] == 'detect'
  assert set(first['kind'][0]) >= {-1, 0, 1, 2, 5}
  again = source[0]
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert grown.tokenizer.unk_id not in first['tokens']


def test_rows_of_a_text_leave_out_what_does_not_fit(source):
  # Boxes of many things are longer than a row may be; others take their place.
  single = dataclasses.replace(source, packed=0)
  short = dataclasses.replace(single, row_size=(48, 14))
  boxes = packing.KINDS.index('detect')
  longest = max((single[i]['kind'] == boxes).sum(-1).max() for i in range(9))
  assert longest > 14
  for index in range(9):
    example = short[index]
    assert example['tokens'].shape == (source.rows, 48)
    assert (example['kind'] >= 0).any(-1).all()


def test_every_scene_fits(source):
  single = dataclasses.replace(source, packed=0, rows=40)
  for index in range(100):
    row = source[0 if index < 4 else index]
    assert row['valid'].any()
    assert single[index]['valid'].any(-1).all()


def test_a_step_leaves_the_encoder(grown, source):
  trainable, frozen = questions.split_params(CONFIG, grown)
  assert {*trainable['model']} == {'llm'}
  assert {*frozen['model']} == {'img'}
  config = CONFIG.copy_and_resolve_references()
  config.encoder = True
  trainable, frozen = questions.split_params(config, grown)
  assert {*trainable['model']} == {'img', 'llm'}
  assert 'heads' in trainable
  assert not frozen


def test_losses_fall(grown, source):
  config = CONFIG.copy_and_resolve_references()
  config.learning_rate, config.steps = 2e-3, 1000
  tx = pretrain_step.optimizer(config)
  # A decoder that knows no question yet.
  fresh = paligemma.init(grown.config, jax.random.key(0))
  model = dataclasses.replace(
    grown, params=grown.params | {'llm': fresh['llm']}
  )
  params, frozen = questions.split_params(config, model)
  params = jax.tree.map(jnp.array, params)
  state = pretrain_step.PretrainState(
    params, tx.init(params), jnp.zeros((), jnp.int32)
  )
  batch = next(batches.batches(source, CONFIG.batch_size, 0))
  weights = (1.0,) * len(packing.KINDS)
  step = functools.partial(question_step.train_step, grown.config, tx, weights)
  seen = []
  for _ in range(12):
    state, metrics = step(state, frozen, batch)
    seen.append(jax.device_get(metrics))
  for name in packing.KINDS[1:]:
    assert seen[-1][name] <= 0.6 * seen[0][name]


def test_run_resumes_and_exports(tmp_path, start):
  whole = training.train_questions(CONFIG, tmp_path / 'whole')
  lines = (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()
  scores = {k: v for line in lines for k, v in json.loads(line).items()}
  assert {'val/bleu4', 'val/answers/count', 'caption', 'detect'} <= {*scores}
  # From the checkpoint before the last, as after a kill.
  cut = tmp_path / 'cut'
  shutil.copytree(tmp_path / 'whole', cut)
  shutil.rmtree(cut / 'model')
  shutil.rmtree(cut / 'checkpoints' / str(CONFIG.steps))
  again = training.train_questions(CONFIG, cut)
  assert (cut / 'metrics.jsonl').read_text().splitlines() == lines
  jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)
  jax.tree.map(
    np.testing.assert_array_equal, whole.params['img'], start.params['img']
  )
  loaded = checkpoints.load(tmp_path / 'whole' / 'model')
  assert loaded.tokenizer == whole.tokenizer
  assert isinstance(loaded.tokenizer, tokenizer_lib.Tokenizer)
