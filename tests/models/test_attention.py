"""Attention by blocks, against the plain form with all scores at once."""

import dataclasses
import functools
import math
import re

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from collab_jax import _platform
from collab_jax.models import attention, gemma, gemma_layers, siglip

# Sums of float32 in another order: of 256 numbers of a head, and of up to
# 4,096 weights that add up to 1.
ATOL = 2e-5


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def plain(q, k, v, mask=None, cap=None):
  """Softmax of all scores; k and v with heads after positions, as q."""
  groups = q.shape[2] // k.shape[2]
  k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
  scores = jnp.einsum('btqe,bsqe->bqts', q, k)
  scores = scores if cap is None else cap * jnp.tanh(scores / cap)
  if mask is not None:
    scores = jnp.where(mask[:, None], scores, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1)
  return jnp.einsum('bqts,bsqe->btqe', weights, v)


def grouped(q, k, v, mask, cap=None, implementation=None):
  """Attention as the decoder calls it."""
  k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
  return attention.grouped(q, k, v, mask, cap, implementation)


def prefix_lm(t, prefix, window):
  """A mask, and all its entries by the definition."""
  valid = np.arange(t) % 7 != 3
  block = np.maximum(np.arange(t) - prefix + 1, 0)
  positions = np.arange(t) * 2
  i, j = np.mgrid[:t, :t]
  seen = valid[j] & (block[j] <= block[i])
  if window:
    seen &= (block[i] == 0) | (positions[i] - positions[j] < window)
  arrays = (jnp.asarray(x)[None] for x in (valid, block, positions))
  return attention.PrefixLMMask(*arrays, window=window), jnp.asarray(seen)[None]


@pytest.fixture(autouse=True)
def precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.mark.parametrize('t', [64, 512, 513, 1024, 4096])
def test_full(t):
  q, k, v = (normal(i, 1, t, 2, 8) for i in range(3))
  want = plain(q * 8**-0.5, k, v)
  np.testing.assert_allclose(attention.full(q, k, v), want, rtol=0, atol=ATOL)


@pytest.mark.parametrize('t', [64, 513, 1024])
def test_received(t):
  q, k = (normal(i, 2, 3, t, 8) for i in range(2))
  weights = jax.nn.softmax(q @ k.mT * 8**-0.5, axis=-1)
  got = jax.jit(attention.received, static_argnums=2)(q, k, 'float32')
  want = weights.mean((1, 2))
  np.testing.assert_allclose(got, want, rtol=0, atol=ATOL / t)


@pytest.mark.parametrize('kv_heads', [1, 2, 4])
@pytest.mark.parametrize(('cap', 'window'), [(None, None), (5.0, 300)])
@pytest.mark.parametrize('t', [300, 1029])
def test_prefix_lm(t, cap, window, kv_heads):
  """Gemma 1's and Gemma 2's, of prefixes with gaps."""
  q = normal(0, 1, t, 4, 16)
  k, v = (normal(i, 1, t, kv_heads, 16) for i in (1, 2))
  mask, seen = prefix_lm(t, t - 200, window)
  want = plain(q, k, v, seen, cap)
  for given in (mask, seen):
    np.testing.assert_allclose(
      grouped(q, k, v, given, cap), want, rtol=0, atol=ATOL
    )


@pytest.mark.parametrize('t', [1029, 4101])
def test_valid_keys(t):
  """The mask of prefill: the same keys for all queries, at 448 and 896 px."""
  q, k, v = normal(0, 1, t, 2, 8), normal(1, 1, t, 1, 8), normal(2, 1, t, 1, 8)
  valid = jnp.arange(t)[None] % 5 != 1
  want = plain(q, k, v, jnp.broadcast_to(valid[:, None], (1, t, t)), 5.0)
  got = grouped(q, k, v, valid[:, None], 5.0)
  np.testing.assert_allclose(got, want, rtol=0, atol=ATOL)


@pytest.mark.parametrize(('cap', 'window'), [(None, None), (5.0, 300)])
def test_gradients(cap, window):
  t = 700
  q, k, v = normal(0, 1, t, 4, 8), normal(1, 1, t, 2, 8), normal(2, 1, t, 2, 8)
  mask, seen = prefix_lm(t, 500, window)
  out = normal(3, *q.shape)

  def gradients(attend, mask):
    def loss(q, k, v):
      return (attend(q, k, v, mask, cap) * out).sum()

    return jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)

  pairs = zip(gradients(grouped, mask), gradients(plain, seen), strict=True)
  for got, want in pairs:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=5e-5)


def test_gradients_of_full():
  q, k, v = (normal(i, 2, 600, 2, 8) for i in range(3))
  out = normal(3, *q.shape)

  def gradients(attend):
    return jax.grad(lambda *x: (attend(*x) * out).sum(), (0, 1, 2))(q, k, v)

  got = gradients(attention.full)
  want = gradients(lambda q, k, v: plain(q * 8**-0.5, k, v))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5)


def test_blocks_of_large_batches_are_shorter(monkeypatch):
  q, k, v = (normal(i, 3, 640, 2, 8) for i in range(3))
  want = attention.full(q, k, v)
  monkeypatch.setattr(attention, '_SCORES', 3 * 2 * 640 * 64)
  text = jax.jit(attention.full).lower(q, k, v).as_text()
  assert largest(text, 640) == 3 * 2 * 640 * 64
  np.testing.assert_allclose(attention.full(q, k, v), want, rtol=0, atol=ATOL)


@pytest.mark.parametrize('cap', [None, 5.0])
def test_products_of_a_single_query(cap):
  """The form of accelerators, against the sums of a CPU."""
  q, k, v = normal(0, 2, 1, 8, 16), normal(1, 2, 2, 16, 40), None
  v = normal(2, 2, 2, 40, 16)
  bias = jnp.where(jnp.arange(40) % 3 > 0, 0.0, attention.MASKED)
  bias = jnp.broadcast_to(bias, (2, 1, 1, 40))
  got = attention._single_product(q, k, v, bias, cap)
  want = attention._single(q, k, v, bias, cap)
  np.testing.assert_allclose(got, want, rtol=0, atol=ATOL)


@pytest.mark.parametrize(('q_heads', 'kv_heads', 'e'), [(3, 3, 72), (4, 2, 16)])
@pytest.mark.parametrize('cap', [None, 5.0])
def test_splash(q_heads, kv_heads, e, cap):
  """A TPU's kernel, interpreted; lengths and heads that it has to fill up."""
  t = 700
  q = normal(0, 2, t, q_heads, e) * e**-0.5
  k, v = (normal(i, 2, t, kv_heads, e) for i in (1, 2))
  valid = jnp.arange(t) % jnp.array([[5], [7]]) != 1
  out = normal(3, *q.shape)

  def run(attend, mask, **settings):
    def loss(q, k, v):
      got = attend(q, k, v, mask, cap, **settings)
      return (got * out).sum(), got

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

  seen = jnp.broadcast_to(valid[:, None], (2, t, t))
  want, got = (
    run(plain, seen),
    run(grouped, valid[:, None], implementation='splash'),
  )
  np.testing.assert_allclose(got[1], want[1], rtol=0, atol=ATOL)
  for a, b in zip(got[0], want[0], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5)


def test_splash_of_pictures():
  q, k, v = (normal(i, 1, 600, 2, 24) for i in range(3))
  got = attention.full(q, k, v, implementation='splash')
  want = plain(q * 24**-0.5, k, v)
  np.testing.assert_allclose(got, want, rtol=0, atol=ATOL)


@pytest.mark.parametrize(
  ('t', 'dtype', 'name'),
  [
    (256, 'bfloat16', 'blocks'),
    (1024, 'bfloat16', 'splash'),
    (1024, 'float32', 'blocks'),
  ],
)
def test_a_tpu_takes_its_kernel_for_long_sequences(t, dtype, name):
  q = jnp.zeros((1, t, 2, 8), dtype)
  assert attention._fastest(q, q.dtype, masked=True) == 'blocks'
  with _platform.compiling_for('tpu'):
    assert attention._fastest(q, q.dtype, masked=True) == name
  with _platform.compiling_for('gpu'):  # No cuDNN on this machine.
    assert attention._fastest(q, q.dtype, masked=False) == 'blocks'


def largest(text, n):
  """The largest array with an axis of n in a program's text."""
  shapes = [
    [int(x) for x in dims.rstrip('x').split('x')]
    for dims in re.findall(r'tensor<((?:\d+x)+)', text)
  ]
  return max(math.prod(s) for s in shapes if n in s)


VISION = siglip.VisionConfig(
  image_size=448, patch_size=14, width=16, depth=2, num_heads=2, mlp_dim=16,
  out_dim=16, remat=True,
)  # fmt: skip
TEXT = gemma_layers.TextConfig(
  width=16, depth=2, mlp_dim=16, num_heads=2, num_kv_heads=1, head_dim=4,
  vocab_size=32, attn_softcap=5.0, window=50, remat=True,
)  # fmt: skip


def test_no_program_holds_all_scores():
  """Encoding, prefill and both gradients at 448 px: 1,024 and 1,034 long."""
  t, params = VISION.num_tokens + 10, gemma.init(TEXT, jax.random.key(0))
  img = siglip.init(VISION, jax.random.key(1))
  images, x = jnp.zeros((1, 448, 448, 3)), jnp.zeros((1, t, 16))
  positions = jnp.arange(t)[None]
  mask = attention.PrefixLMMask(positions >= 0, positions, positions)

  def encoded(params):
    return siglip.encode(VISION, params, images).sum()

  def observed(params):
    return siglip.encode(VISION, params, images, attention=True)

  def scored(params):
    return gemma.forward(TEXT, params, x, positions, mask).sum()

  last = jnp.array([t - 1])
  prefill = functools.partial(gemma.prefill, TEXT)
  programs = (
    (encoded, img),
    (observed, img),
    (jax.grad(encoded), img),
    (scored, params),
    (jax.grad(scored), params),
    (prefill, params, x, positions, positions >= 0, last),
  )
  for fn, *args in programs:
    text = jax.jit(fn).lower(*args).compile().as_text()
    for shape in re.findall(r'\[([\d,]+)\]', text):
      sizes = [int(n) for n in shape.split(',')]
      assert sum(n >= 1024 for n in sizes) < 2, shape


def test_a_tower_at_448_px_equals_plain_attention(monkeypatch):
  vision = dataclasses.replace(VISION, remat=False)
  params = siglip.init(vision, jax.random.key(0))
  images = normal(1, 1, 448, 448, 3)

  def run(params):
    return siglip.encode(vision, params, images)

  def gradient(params):
    return jax.grad(lambda p: jnp.square(run(p)).mean())(params)

  got = run(params), gradient(params)
  monkeypatch.setattr(attention, '_SHORT', 1 << 30)
  want = run(params), gradient(params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=5e-5),
    got,
    want,
  )


def test_the_mlp_of_long_sequences_is_computed_in_parts():
  text = dataclasses.replace(TEXT, compute_dtype='float32')
  block = gemma_layers.FeedForward(text)
  x = normal(0, 2, 1034, 16)
  params = block.init(jax.random.key(1), x[:, :1])

  def gradient(x):
    return jax.grad(lambda x: jnp.sin(block.apply(params, x)).sum())(x)

  for run in (functools.partial(block.apply, params), gradient):
    parts = jnp.concatenate([run(x[:, :500]), run(x[:, 500:])], axis=1)
    np.testing.assert_allclose(run(x), parts, rtol=0, atol=ATOL)
