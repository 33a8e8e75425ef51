"""Properties of a model that no recorded number shows."""

import dataclasses
import functools
import json
import pathlib

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from benchmarks import parity
from collab_jax import message
from collab_jax.models import decoding, paligemma

STEPS = 8
GOLDEN_CONFIG = json.loads(
  (
    pathlib.Path(__file__).parents[1] / 'golden/pg2_56/config_bv.json'
  ).read_text()
)
# PaliGemma 2's has all there is: post norms, soft-caps, grouped queries.
GOLDEN = parity.load_golden('pg2_56')
N = GOLDEN['repz/zimg'].shape[1]
PROMPT = GOLDEN['inputs/dec_text']
MASK = GOLDEN['inputs/dec_mask_input']


# Compiling is what takes the time here.
FAST = {'xla_backend_optimization_level': 0}


@pytest.fixture(scope='module')
def model():
  """The recorded model, cut to two layers."""
  whole = parity.load_model('pg2_56', 'model.npz', unroll=False)
  llm = whole.params['llm']
  llm = llm | {'layers': jax.tree.map(lambda p: p[:2], llm['layers'])}
  config = dataclasses.replace(
    whole.config, text=dataclasses.replace(whole.config.text, depth=2)
  )
  return whole.replace(params=whole.params | {'llm': llm}, config=config)


@pytest.fixture(autouse=True)
def precision():
  with jax.default_matmul_precision('highest'):
    yield


@functools.partial(
  jax.jit, static_argnames=('eos', 'method'), compiler_options=FAST
)
def write(model, prefix, tokens, mask, eos=-1, method=None, key=None):
  return model.generate(
    prefix, tokens, mask, STEPS, eos=eos, method=method, key=key
  )


@functools.partial(jax.jit, static_argnames='softcap', compiler_options=FAST)
def logits(model, prefix, tokens, mask_ar, softcap=True):
  return model.logits(prefix, tokens, mask_ar, softcap)


def features():
  return jnp.asarray(GOLDEN['repz/zimg'])


def plain():
  """All vectors, as the Prefix that a bare array stands for."""
  return prefix_of(features())


def full():
  return GOLDEN['inputs/full_text'], GOLDEN['inputs/full_mask_ar']


def prefix_of(x, valid=None, positions=None, end=None):
  """A Prefix whose rows are alike but for x."""
  b, m, _ = x.shape
  valid = np.ones(m, bool) if valid is None else valid
  positions = np.arange(m) if positions is None else positions
  return message.Prefix(
    x=jnp.asarray(x),
    valid=jnp.tile(valid, (b, 1)),
    positions=jnp.tile(positions.astype(np.int32), (b, 1)),
    end=jnp.full(b, m if end is None else end, jnp.int32),
  )


def close(got, want, atol=1e-4):
  np.testing.assert_allclose(got, want, rtol=0, atol=atol)


def far(got, want):
  """The logits differ by more than any rounding."""
  assert np.abs(np.asarray(got) - np.asarray(want)).max() > 0.05


def test_jit_equals_eager(model):
  images = jnp.asarray(GOLDEN['inputs/images'])
  encoded = model.encode_image(images)
  close(jax.jit(paligemma.Model.encode_image)(model, images), encoded, 2e-5)
  projected = jax.jit(paligemma.Model.project)(model, encoded)
  close(projected, model.project(encoded), 2e-5)
  close(logits(model, projected, *full()), model.logits(projected, *full()))
  np.testing.assert_array_equal(
    write(model, projected, PROMPT, MASK),
    model.generate(projected, PROMPT, MASK, STEPS, eos=-1),
  )


def test_generate_is_the_argmax_of_the_full_forward(model):
  x, prompt = plain(), PROMPT[:, :3]
  tokens = write(model, x, prompt, np.ones_like(prompt, bool))
  text = np.concatenate([prompt, tokens[:, :-1]], axis=1)
  causal = np.tile(np.arange(text.shape[1]) >= 3, (3, 1)).astype(np.int32)
  scores = logits(model, x, text, causal)[:, 2:]
  np.testing.assert_array_equal(np.argmax(scores, -1), tokens)


def test_soft_cap_is_a_choice(model):
  raw = np.asarray(logits(model, plain(), *full(), softcap=False))
  cap = model.config.text.final_softcap
  close(logits(model, plain(), *full()), cap * np.tanh(raw / cap), 1e-5)
  far(raw, cap * np.tanh(raw / cap))


def test_bare_array_means_all_valid(model):
  want = logits(model, plain(), *full())
  close(logits(model, features(), *full()), want, 1e-6)


def test_masked_vectors_have_no_influence(model):
  valid = np.arange(N) % 3 != 0
  x = features()
  noise = jnp.where(valid[:, None], x, 100 * x[::-1])
  one, two = (prefix_of(t, valid) for t in (x, noise))
  close(logits(model, one, *full()), logits(model, two, *full()), 1e-6)
  far(logits(model, one, *full()), logits(model, plain(), *full()))
  np.testing.assert_array_equal(
    write(model, one, PROMPT, MASK), write(model, two, PROMPT, MASK)
  )


def test_masking_equals_dropping_with_positions_kept(model):
  valid = np.arange(N) % 3 != 0
  keep = np.flatnonzero(valid)
  masked = prefix_of(features(), valid)
  dropped = prefix_of(features()[:, keep], positions=keep, end=N)
  close(logits(model, masked, *full()), logits(model, dropped, *full()))
  np.testing.assert_array_equal(
    write(model, masked, PROMPT, MASK), write(model, dropped, PROMPT, MASK)
  )


def test_only_relative_positions_count(model):
  shifted = prefix_of(features(), positions=np.arange(N) + 40, end=N + 40)
  want = logits(model, plain(), *full())
  close(logits(model, shifted, *full()), want, 3e-4)
  np.testing.assert_array_equal(
    write(model, shifted, PROMPT, MASK), write(model, plain(), PROMPT, MASK)
  )


@pytest.mark.parametrize('keep', [np.arange(6, N), np.arange(0, N, 2)])
def test_closing_up_moves_vectors(model, keep):
  """The tail of the grid keeps its distances when it closes up; gaps do not."""
  x = features()[:, keep]
  kept = prefix_of(x, positions=keep, end=N)
  closed = prefix_of(x)
  one, two = logits(model, kept, *full()), logits(model, closed, *full())
  if keep[0]:
    close(one, two, 3e-4)
  else:
    far(one, two)


def test_order_of_vectors_is_their_positions(model):
  order = np.random.default_rng(0).permutation(N)
  shuffled = prefix_of(features()[:, order], positions=order, end=N)
  want = logits(model, plain(), *full())
  close(logits(model, shuffled, *full()), want)


def test_prompts_of_any_length_share_a_batch(model):
  assert len(set(MASK.sum(1))) > 1
  together = np.asarray(write(model, plain(), PROMPT, MASK))
  junk = np.where(MASK, PROMPT, 77)
  np.testing.assert_array_equal(write(model, plain(), junk, MASK), together)
  for row in np.argsort(MASK.sum(1))[[0, -1]]:
    length = MASK[row].sum()
    alone = write(
      model,
      jax.tree.map(lambda t, row=row: t[row : row + 1], plain()),
      PROMPT[row : row + 1, :length],
      np.ones((1, length), bool),
    )
    np.testing.assert_array_equal(alone[0], together[row])


def test_rows_end_at_eos(model):
  tokens = np.asarray(write(model, plain(), PROMPT, MASK))
  eos = int(tokens[1, 3])
  want = tokens.copy()
  for row in want:
    if eos in row:
      row[list(row).index(eos) + 1 :] = 0
  assert (want != tokens).any()
  got = write(model, plain(), PROMPT, MASK, eos=eos)
  np.testing.assert_array_equal(got, want)


def test_stops_when_all_rows_have_ended(model):
  x = features()[1:2]
  tokens = np.asarray(write(model, plain(), PROMPT, MASK))[1:2]
  eos = int(tokens[0, 3])
  steps = list(tokens[0]).index(eos) + 1
  recorder = parity.Recorder([])

  @functools.partial(jax.jit, compiler_options=FAST)
  def run(model):
    return model.generate(
      x, PROMPT[1:2], MASK[1:2], STEPS, eos=eos, method=recorder
    )

  run(model)
  jax.effects_barrier()
  assert len(recorder.logits) == steps < STEPS


def test_sampling(model):
  hot = decoding.Sample(temperature=2.0)
  args = (model, plain(), PROMPT, MASK)
  one = write(*args, method=hot, key=jax.random.key(0))
  np.testing.assert_array_equal(
    one, write(*args, method=hot, key=jax.random.key(0))
  )
  assert (one != write(*args, method=hot, key=jax.random.key(1))).any()


def test_beam_is_at_least_as_likely_as_greedy(model):
  prompt = PROMPT[:, :3]
  args = (model, plain(), prompt, np.ones_like(prompt, bool))
  greedy = np.asarray(write(*args))
  beam = np.asarray(write(*args, method=decoding.Beam(3)))
  assert (beam != greedy).any()

  def score(tokens):
    text = np.concatenate([prompt, tokens[:, :-1]], axis=1)
    causal = np.tile(np.arange(text.shape[1]) >= 3, (3, 1)).astype(np.int32)
    logp = jax.nn.log_softmax(logits(model, plain(), text, causal)[:, 2:])
    return np.take_along_axis(np.asarray(logp), tokens[..., None], 2).sum(
      (1, 2)
    )

  assert (score(beam) >= score(greedy) - 1e-4).all()


def test_wrong_picture_size(model):
  with pytest.raises(ValueError, match='images'):
    model.encode_image(jnp.zeros((1, 28, 56, 3)))


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'llm': {'attn_softcap': 5.0}}, r"'llm\.attn_softcap'.*attn_logits_soft"),
    ({'vit': {'attn_logits_softcap': 5.0}}, r"mean 'llm\.attn_logits_softcap'"),
    ({'attn_logits_softcap': 5.0}, r"mean 'llm\.attn_logits_softcap'"),
    (
      {'unrol': True},
      r"field of the model config: got 'unrol'; did you mean 'unroll'",
    ),
    ({'vit': {'depth': 3.0}}, r'vit\.depth: got 3\.0, expected an integer'),
    (
      {'llm': {'width': '40'}},
      r"llm\.width: got '40', expected an integer",
    ),
    ({'llm': {'depth': True}}, r'llm\.depth: got True, expected an int'),
    ({'llm': {'head_dim': 0}}, r'llm\.head_dim: got 0, .* at least 1'),
    ({'llm': {'norm_eps': '1e-6'}}, r'norm_eps: got .*, expected a number'),
    ({'image_size': None}, r'image_size: got None, expected an integer'),
    ({'vit': 3}, r'vit: got 3, expected an object'),
  ],
)
def test_wrong_dimensions_are_refused(change, said):
  parts = {
    part: GOLDEN_CONFIG[part] | value
    for part, value in change.items()
    if isinstance(value, dict)
  }
  with pytest.raises(ValueError, match=said):
    paligemma.Config.from_dict(GOLDEN_CONFIG | change | parts)


def test_missing_dimension_is_named():
  config = {n: v for n, v in GOLDEN_CONFIG.items() if n != 'patch_size'}
  with pytest.raises(ValueError, match="field 'patch_size' is missing"):
    paligemma.Config.from_dict(config)


def test_model_is_a_pytree_with_static_config(model):
  leaves, tree = jax.tree.flatten(model)
  assert all(isinstance(leaf, jax.Array) for leaf in leaves)
  assert jax.tree.unflatten(tree, leaves).config == model.config
  hash(tree)
