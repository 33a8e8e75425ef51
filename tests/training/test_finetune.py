"""Training with the quantizer inside: groups, losses, codebooks, memory."""

import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from benchmarks import finetune as bench
from benchmarks import sharding as bench_sharding
from collab_jax import quantizers
from collab_jax.checkpoints import trees
from collab_jax.models import lora
from collab_jax.training import (
  bottleneck,
  finetune,
  finetune_step,
  memory,
  param_groups,
)
from collab_jax.training.codebooks import ema_codebook
from configs import finetune as finetune_config
from tests import standin

KEY = jax.random.key(0)
LEARNED = (
  'merge(k=2,centroids=ecvq(stages=2,size=4,weight=0.05,beam=2,book=random))'
)


def settings(**changes):
  config = finetune_config.get_config('mode=smoke')
  config.model, config.quantizers = str(standin.folder()), (LEARNED,)
  # A small vocabulary, and patches that labels are not for.
  config.text_length, config.weights.label = 80, 0.0
  config.update(changes)
  return config


@functools.cache
def batch(config_rows=2):
  model = standin.small()
  shapes = memory.batch_shapes(settings(batch_size=config_rows), model.config)
  rng = np.random.default_rng(0)
  found = {n: np.zeros(x.shape, x.dtype) for n, x in shapes.items()}
  found['image'] = rng.integers(0, 256, shapes['image'].shape, np.uint8)
  found['tokens'] = rng.integers(1, 300, shapes['tokens'].shape, np.int32)
  found['mask_ar'][:, 4:] = 1
  found['mask_loss'][:, 4:12] = 1
  return found


def two_steps(train, encoder):
  """Returns parameters before and after two steps, flat."""
  config = settings(train=train, encoder=encoder, rank=2)
  model = standin.small()
  trainable, frozen = finetune.split_params(config, model)
  tx = param_groups.optimizer(config, {})
  state = finetune_step.FinetuneState(
    trainable, tx.init(trainable), None, jnp.zeros((), jnp.int32)
  )
  params = param_groups.join(trainable, frozen)
  before = {k: np.array(v) for k, v in trees.flatten(params).items()}
  weights, quantizer = (
    finetune_step.LossWeights(),
    quantizers.make('merge(k=2)'),
  )
  for _ in range(3):  # The rate is 0 at first; B is 0 before the second.
    state, _ = finetune_step.finetune_step(
      model.config, tx, weights, quantizer, state, frozen, None, batch(), KEY
    )
  return before, trees.flatten(param_groups.join(state.params, frozen))


@pytest.mark.parametrize(
  ('train', 'encoder'), [('projector', False), ('lora', False), ('all', True)]
)
def test_only_trainable_groups_change(train, encoder):
  before, after = two_steps(train, encoder)
  parts = param_groups.trainable_groups(train, encoder)
  assert set(before) == set(after)
  unmoved = []
  for path, old in before.items():
    same = np.array_equal(old, np.asarray(after[path]))
    if param_groups.group_of(path) not in parts:
      assert same, path
    elif same:
      unmoved.append(path)
  # Without labels, nothing reaches the heads.
  assert [p for p in unmoved if param_groups.group_of(p) != 'heads'] == []


def test_unknown_choices_are_refused():
  with pytest.raises(ValueError, match="train: got 'half'"):
    param_groups.trainable_groups('half', True)
  with pytest.raises(ValueError, match='rates: got head'):
    param_groups.optimizer(settings(), {'head': 1.0})
  with pytest.raises(ValueError, match='expected one above 0'):
    finetune_step.LossWeights(caption=0.0)


def test_rates_scale_a_part():
  config = settings(optimizer='adamw', warmup_steps=0)
  tree = {
    'model': {'img': {'head': {'bias': jnp.ones(2)}, 'x': jnp.ones(2)}},
  }
  grads = jax.tree.map(jnp.ones_like, tree)
  updates = {}
  for share in (1.0, 0.25):
    tx = param_groups.optimizer(config, {'encoder': share})
    updates[share] = tx.update(grads, tx.init(tree), tree)[0]['model']['img']
  whole, less = updates[1.0], updates[0.25]
  np.testing.assert_allclose(less['x'], 0.25 * whole['x'], rtol=1e-6)
  np.testing.assert_array_equal(less['head']['bias'], whole['head']['bias'])


def adapted():
  llm = standin.small().params['llm']
  adapters = lora.init(llm['layers'], KEY, 2, 4.0)
  adapters = jax.tree.map(
    lambda p: p + 0.1 * jax.random.normal(KEY, p.shape), adapters
  )
  return llm, {**llm['layers'], lora.NAME: adapters}


def test_merged_adapters_are_applied_ones():
  model = standin.small()
  llm, layers = adapted()
  inputs = batch()['tokens'][:, :8], batch()['mask_ar'][:, :8]
  view = jax.random.normal(KEY, (2, 3, model.config.text.width))

  def logits(layers):
    own = {**model.params, 'llm': {**llm, 'layers': layers}}
    return model.replace(params=own).logits(view, *inputs)

  applied, merged = logits(layers), logits(lora.merge(layers))
  # The same sums in another program: float32 rounds the last digits.
  np.testing.assert_allclose(applied, merged, rtol=2e-4, atol=2e-4)
  assert np.abs(np.asarray(merged - logits(llm['layers']))).max() > 0.1


def test_adapters_are_products_of_their_factors():
  llm, layers = adapted()
  merged = lora.merge(layers)
  factors, scale = layers[lora.NAME]['attn.kv_einsum.w'], 2.0
  scale = np.asarray(layers[lora.NAME]['scale'])[0]
  change = np.einsum('cdr,crf->cdf', factors['a'][0], factors['b'][0])
  # Two matrices, each for all key-value heads: [2 D K E] to [2 K D E].
  change = change.reshape(*change.shape[:2], -1, 8).swapaxes(1, 2)
  want = np.asarray(llm['layers']['attn']['kv_einsum']['w'][0]) + scale * change
  got = merged['attn']['kv_einsum']['w'][0]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_gradient_of_a_mean_is_shared_by_its_members():
  x = jnp.concatenate([jnp.zeros((3, 2)), jnp.ones((1, 2)) * 9])
  x += 0.01 * jax.random.normal(KEY, x.shape)
  quantizer = quantizers.make('merge(k=2,centroids=identity(dtype=float32))')

  def first(x, gradient):
    found = bottleneck.apply(quantizer, {}, x, KEY, gradient)
    return found.tokens.x[0, 0]

  mean = jax.grad(first)(x, 'mean')
  np.testing.assert_allclose(mean[:, 0], [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)
  straight = jax.grad(first)(x, 'straight')
  np.testing.assert_allclose(straight[:, 0], [1, 0, 0, 0], atol=1e-6)
  # As the finite difference says, and not the straight-through estimate.
  ahead = first(x.at[1, 0].add(0.3), 'mean') - first(x, 'mean')
  np.testing.assert_allclose(ahead, 0.1, atol=1e-4)


def test_vectors_are_quantized_once(monkeypatch):
  quantizer, x = quantizers.make('scalar'), jax.random.normal(KEY, (4, 8))
  apart = quantizers.straight_through(quantizer, {}, x, KEY)
  calls, own = [], quantizers.Scalar.quantize

  def counted(*arguments):
    calls.append(arguments)
    return own(*arguments)

  monkeypatch.setattr(quantizers.Scalar, 'quantize', counted)
  found = bottleneck.apply(quantizer, {}, x, KEY)
  assert len(calls) == 1
  np.testing.assert_array_equal(found.tokens.x, apart.x)


@pytest.mark.parametrize('rebuild', ['keep', 'close'])
def test_fewer_tokens_have_the_gradient_of_those_they_stand_for(rebuild):
  # Members 0, 2 and 3 of the first cluster, 1 of the second.
  x = jnp.zeros((4, 2)).at[1].set(9.0)
  x += 0.01 * jax.random.normal(KEY, x.shape)
  quantizer = quantizers.make(
    f'merge(k=2,centroids=identity(dtype=float32),rebuild={rebuild})'
  )

  def total(x, gradient):
    return bottleneck.apply(quantizer, {}, x, KEY, gradient).tokens.x.sum()

  mean = jax.grad(total)(x, 'mean')
  np.testing.assert_allclose(mean[:, 0], [1 / 3, 1, 1 / 3, 1 / 3], atol=1e-6)
  straight = jax.grad(total)(x, 'straight')
  apart = jax.grad(
    lambda x: quantizers.straight_through(quantizer, {}, x, KEY).x.sum()
  )(x)
  np.testing.assert_allclose(straight, apart)
  np.testing.assert_allclose(straight.sum(), 4.0)  # Two tokens of two numbers.


def test_empty_clusters_have_a_finite_gradient():
  # More clusters than different vectors.
  x = jnp.ones((4, 2))
  book = ema_codebook.init(
    jax.random.normal(KEY, (2, 4, 2)), jnp.full((2, 4), 1.0)
  )
  quantizer = quantizers.make(LEARNED.replace('k=2', 'k=3,smooth=2'))
  params = finetune_step.quantizer_params(quantizer, book, 4, 2)

  def bits(x):
    found = bottleneck.apply(quantizer, params, x, KEY)
    chosen = found.message['centroids/x']
    return (
      ema_codebook.soft_bits(book, found.centroids, chosen, 0.1)
      + found.tokens.x.sum()
    )

  assert np.isfinite(jax.grad(bits)(x)).all()
  assert np.isfinite(jax.grad(bits)(0 * x)).all()


def vectors(n=64, d=3):
  rng = np.random.default_rng(1)
  return rng.normal(size=(n, d)).astype(np.float32)


def test_running_means_are_numpys():
  rng = np.random.default_rng(0)
  codes = rng.normal(size=(2, 4, 3)).astype(np.float32)
  counts = np.array([[3.0, 5, 2, 4], [6, 1, 2, 7]], np.float32)
  x = vectors()
  chosen = rng.integers(0, 4, (64, 2)).astype(np.int32)
  book = ema_codebook.init(codes, counts)
  found = ema_codebook.update(book, x, chosen, KEY, 0.9, 0.0)
  for stage in range(2):
    rest = x - codes[1 - stage][chosen[:, 1 - stage]]
    for code in range(4):
      own = rest[chosen[:, stage] == code]
      count = 0.9 * counts[stage, code] + 0.1 * len(own)
      total = 0.9 * counts[stage, code] * codes[stage, code]
      total = (total + 0.1 * own.sum(0)) / count
      np.testing.assert_allclose(found.counts[stage, code], count, rtol=1e-5)
      np.testing.assert_allclose(
        found.codes[stage, code], total, rtol=1e-4, atol=1e-5
      )


def test_dead_codes_live_again():
  codes = np.zeros((1, 4, 3), np.float32)
  codes[0, 3] = 100.0  # Nothing is near.
  book = ema_codebook.init(codes, np.array([[9.0, 9, 9, 1]], np.float32))
  x = vectors()
  chosen = np.zeros((64, 1), np.int32)
  quiet = ema_codebook.update(book, x, chosen, KEY, 0.5, 0.0)
  np.testing.assert_allclose(quiet.codes[0, 3], 100.0)
  # However seldom it was chosen.
  seldom = ema_codebook.EmaCodebook(
    codes, book.sums * 1e-12, book.counts * 1e-12
  )
  quiet_too = ema_codebook.update(seldom, x, chosen, KEY, 0.5, 0.0)
  np.testing.assert_array_equal(quiet_too.codes[0, 3], codes[0, 3])
  alive = ema_codebook.update(book, x, chosen, KEY, 0.5, 0.6)
  assert (np.abs(x - np.asarray(alive.codes[0, 3])).max(1) < 1e-5).any()
  np.testing.assert_allclose(alive.codes[0, 1], quiet.codes[0, 1])


def test_gradient_of_the_rate_lowers_the_entropy():
  codes = np.array([[[-1.0], [1], [3]]], np.float32)
  book = ema_codebook.init(codes, np.array([[8.0, 2, 1]], np.float32))
  inner = quantizers.make('ecvq(stages=1,size=3,weight=1.0,book=random)')
  x = jnp.linspace(-2, 4, 60)[:, None]

  def entropy(x):
    chosen = inner.quantize(ema_codebook.params(book), x, KEY)['x']
    share = np.bincount(np.asarray(chosen)[:, 0], minlength=3) / len(x)
    return -sum(p * np.log2(p) for p in share if p), chosen

  before, chosen = entropy(x)
  slope = jax.jit(jax.grad(ema_codebook.soft_bits, 1), static_argnums=3)
  for _ in range(60):
    x = x - 5.0 * slope(book, x, chosen, 1.0)
  assert entropy(x)[0] < before - 0.1


def test_divergence_is_zero_at_equality():
  logits = jax.random.normal(KEY, (2, 5, 7))
  weight = jnp.ones((2, 5))

  def gap(x):
    return finetune_step.kl_divergence(x, logits, weight, 2.0)

  assert float(gap(logits)) == pytest.approx(0, abs=1e-6)
  assert np.abs(np.asarray(jax.grad(gap)(logits))).max() < 1e-6
  assert float(gap(logits + jax.random.normal(KEY, logits.shape))) > 0.1


def test_distillation_of_the_start_model_is_zero():
  model = standin.small()
  weights = finetune_step.LossWeights(caption=0.5, distill=1.0)
  _, (metrics, _) = jax.jit(
    functools.partial(finetune_step.loss, model.config, weights, None)
  )({'model': model.params}, {}, None, model.params, batch(), KEY)
  assert float(metrics['distill']) == pytest.approx(0, abs=1e-5)


def test_batches_pass_through_all_quantizers_and_none():
  config = settings(full=0.3)
  chosen = [quantizers.make(f'merge(k={k})') for k in (1, 2)]

  def draw():
    return [finetune.draw_quantizer(config, chosen, i) for i in range(300)]

  drawn = draw()
  assert 60 <= drawn.count(None) <= 120
  assert all(75 <= drawn.count(q) <= 135 for q in chosen)
  assert drawn == [
    finetune.draw_quantizer(config, chosen, i) for i in range(300)
  ]


@pytest.mark.parametrize(
  ('train', 'encoder', 'distill'), [('lora', True, 1.0), ('all', False, 0.0)]
)
def test_parameters_are_counted_as_they_lie_in_memory(train, encoder, distill):
  config = settings(train=train, encoder=encoder)
  config.weights.distill = distill
  model = standin.small()
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), model.params)
  model = model.replace(params=half)
  # The start model, which is the teacher, is there as long as the caller's.
  held = jax.tree.leaves([model.params, finetune.split_params(config, model)])
  there = {leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in held}
  need = memory.step_memory(config, model.config, dtype='bfloat16')
  assert need.params == sum(there.values())


@pytest.mark.parametrize(('train', 'encoder'), bench.CHOICES)
def test_full_size_steps_have_shapes(train, encoder):
  dims = bench.dimensions('paligemma-3b')
  config = bench.settings(train, encoder, 2)
  config.prompt, config.text_length = '', 16
  need = memory.step_memory(config, dims, dtype='bfloat16')
  assert need.gradients == need.trained
  # AdamW keeps two numbers for each that trains.
  assert need.optimizer == pytest.approx(2 * need.trained, rel=1e-3)
  # Twice what trains: in float32, and as it was loaded.
  assert 5.8e9 + need.trained < need.params < 6e9 + need.trained
  # Of each of 18 layers one residual stream in float32, and more at the ends.
  assert need.activations > 18 * 2 * (256 + 15) * 2048 * 4
  mesh = bench_sharding.abstract_mesh(*bench.MESH)
  trainable, frozen = memory.param_shapes(config, dims, 'bfloat16')
  placed = jax.tree.leaves(bench.placed([trainable, frozen], mesh))
  here = sum(bench_sharding.sharding.device_bytes(x) for x in placed)
  assert here < need.params / 4
