"""Engine: captions in decode slots equal those of the captioner."""

import dataclasses

import jax
import numpy as np
import pytest

from collab_jax import captioner as captioning
from collab_jax import message
from collab_jax.serving.engine import engine
from collab_jax.serving.server import compilations
from tests.serving import harness

SIZES = harness.SIZES
PROMPTS = ('caption en', '', 'what is on the left of the red ball?')


@pytest.fixture(scope='module')
def prefix():
  """Six prefixes on the host."""
  x = np.random.default_rng(0).normal(size=(6, 64, 24)).astype(np.float32)
  # Not all of a prefix is visible, and positions have gaps.
  valid = np.arange(64) % np.arange(5, 11)[:, None] != 0
  positions = np.tile(np.arange(64, dtype=np.int32) * 2, (6, 1))
  return message.Prefix(x, valid, positions, np.full(6, 130, np.int32))


@pytest.fixture(scope='module')
def made(model):
  ready = engine.Engine(model, SIZES)
  for job in ready.warm_up():
    job()
  return ready


@pytest.fixture
def ready(made):
  made.reset()
  return made


def _requests(model, prefix, prompts=PROMPTS, max_tokens=SIZES.max_tokens):
  return [
    engine.PrefillRequest(
      engine.HostPrefix(
        prefix.x[i], prefix.valid[i], prefix.positions[i], int(prefix.end[i])
      ),
      model.tokenizer.prompt(prompts[i % len(prompts)]),
      max_tokens,
    )
    for i in range(len(prefix.x))
  ]


def _expected(model, prefix, max_tokens=SIZES.max_tokens):
  captioner = captioning.Captioner(model, max_tokens)
  prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(prefix.x))]
  return captioner(prefix, prompts)


def _run(ready, requests, pause=0):
  """Runs requests to their end; returns tokens and bits of each."""
  waiting = list(enumerate(requests))
  rows, tokens, bits = {}, [[] for _ in requests], [[] for _ in requests]
  rounds = 0
  while waiting or rows:
    rounds += 1
    outputs = []
    room = (
      ready.split(min(len(waiting), ready.room))
      if (waiting and ready.room)
      else 0
    )
    if room and rounds > pause:
      some, waiting = waiting[:room], waiting[room:]
      begun = ready.prefill([work for _, work in some])
      for (number, _), one in zip(some, begun, strict=True):
        rows[one.slot] = number
      outputs += [(rows[one.slot], one) for one in begun]
      for one in begun:
        if one.ended:
          del rows[one.slot]
    stepped = ready.decode()
    outputs += [(rows[one.slot], one) for one in stepped]
    for one in stepped:
      if one.ended:
        del rows[one.slot]
    for number, one in outputs:
      tokens[number] += one.tokens
      bits[number] += one.bits
  return tokens, bits


def test_captions_of_many_lengths_equal_the_captioner(model, ready, prefix):
  requests = _requests(model, prefix)
  tokens, _ = _run(ready, requests)
  got = [model.tokenizer.decode(row) for row in tokens]
  assert got == _expected(model, prefix)
  assert len({len(row) for row in tokens} | {0}) > 1
  assert ready.active == 0


@pytest.mark.parametrize('before', [1, 7, 2 * SIZES.max_tokens + 1])
def test_captions_begin_at_any_step(model, ready, prefix, before):
  requests = _requests(model, prefix)
  # Others are in the making; the ring has gone round.
  ready.prefill([requests[5]])
  for _ in range(before):
    if not ready.decode():
      ready.prefill([requests[5]])
  for row in range(SIZES.max_slots):
    ready.release(row)
  tokens, _ = _run(ready, requests[:3])
  got = [model.tokenizer.decode(row) for row in tokens]
  assert got == _expected(model, message.Prefix(*(a[:3] for a in prefix)))


def test_each_caption_has_its_own_max_tokens(model, ready, prefix):
  requests = _requests(model, prefix)
  limits = [1, 2, 3, 5, 12, 50]
  whole, _ = _run(ready, requests)
  some = [
    w._replace(max_tokens=n) for w, n in zip(requests, limits, strict=True)
  ]
  tokens, _ = _run(ready, some)
  assert tokens == [row[:n] for row, n in zip(whole, limits, strict=True)]
  assert max(map(len, whole)) == SIZES.max_tokens


def test_bits_match_the_logits(model, ready, prefix):
  requests = _requests(model, prefix)[:1]
  tokens, bits = _run(ready, requests)
  prompt = requests[0].prompt
  text = np.array([[*prompt, *tokens[0]]], np.int32)
  one = message.Prefix(*(a[:1] for a in prefix))
  mask_ar = np.r_[np.zeros(len(prompt), int), np.ones(len(tokens[0]), int)]
  score = jax.jit(lambda model, *args: model.logits(*args))
  logits = score(model, one, text, mask_ar[None])[0, len(prompt) - 1 :]
  logits = np.asarray(logits)
  odds = np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
  want = np.log2(odds)[: len(bits[0])]
  np.testing.assert_allclose(bits[0], want, rtol=1e-4, atol=1e-5)


def test_earlier_caption_of_a_slot_does_not_matter(model, ready, prefix):
  requests = _requests(model, prefix)
  bad = requests[0].prefix._replace(
    x=np.full_like(requests[0].prefix.x, np.nan)
  )
  for _ in range(SIZES.max_slots):
    ready.prefill([requests[0]._replace(prefix=bad)])
  ready.decode()
  for row in range(SIZES.max_slots):
    ready.release(row)
  tokens, _ = _run(ready, requests[1:3])
  got = [model.tokenizer.decode(row) for row in tokens]
  assert got == _expected(model, prefix)[1:3]


def test_nothing_is_compiled_after_the_warm_up(model, ready, prefix):
  counted = []
  compilations.listen(counted.append)
  requests = _requests(model, prefix)
  _run(ready, requests)
  _run(ready, requests[:1], pause=2)
  _run(ready, requests[::-1])
  assert counted == []
  jax.jit(lambda x: x + len(counted))(np.zeros(3))
  with compilations.warming_up():
    jax.jit(lambda x: x - len(counted))(np.zeros(3))
  assert counted == [False, True]


def test_windows_caps_and_layouts_equal_the_captioner(model, prefix):
  text = dataclasses.replace(
    model.config.text, window=5, attn_softcap=5.0, final_softcap=12.0
  )
  config = dataclasses.replace(model.config, text=text)
  other = model.replace(config=config).transposed()
  sizes = dataclasses.replace(
    SIZES, max_slots=1, max_prefill_batch=1, max_prompt=16
  )
  ready = engine.Engine(other, sizes)
  for job in ready.warm_up():
    job()
  two = message.Prefix(*(a[:2] for a in prefix))
  tokens, _ = _run(ready, _requests(other, two))
  got = [model.tokenizer.decode(row) for row in tokens]
  assert got == _expected(other, two)
  # It makes a difference.
  assert got != _expected(model, prefix)[:2]


def test_only_nearly_full_batches_are_padded(model):
  sizes = dataclasses.replace(SIZES, max_slots=64, max_prefill_batch=8)
  made = engine.Engine(model, sizes)
  assert made.batches == [1, 2, 4, 8]
  taken = [made.split(count) for count in range(1, 11)]
  assert taken == [1, 2, 2, 4, 4, 4, 7, 8, 8, 8]


@pytest.mark.parametrize(
  ('name', 'value'), [('max_slots', 0), ('decode_steps', -1), ('max_prompt', 2)]
)
def test_sizes_out_of_range_are_refused(name, value):
  with pytest.raises(ValueError, match=f'{name}: got {value}'):
    dataclasses.replace(SIZES, **{name: value})


@pytest.mark.parametrize(
  ('longest', 'prompts'),
  [
    (24, [8, 24]),
    (64, [8, 64]),
    (100, [8, 64, 100]),
    (512, [8, 64, 128, 256, 512]),
  ],
)
def test_long_prompts_are_padded_to_few_lengths(
  model, monkeypatch, longest, prompts
):
  """A short prompt does not pay for the longest one that is taken."""
  sizes = dataclasses.replace(SIZES, max_prompt=longest)
  ours = engine.Engine(model, sizes, usual_prompt=8)
  monkeypatch.setattr(ours, '_compile_prefill', lambda *size: None)
  for compile_one in ours.warm_up_length(64):
    compile_one()
  assert ours._lengths == [64 + n for n in prompts]
