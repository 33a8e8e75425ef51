"""Products in 16 bits: how much they round, and what stays in float32."""

import functools
import json

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from benchmarks import parity
from collab_jax import _platform, checkpoints
from collab_jax.models import common, gemma, paligemma

# Largest relative error of rounding a number.
ROUNDING = {'bfloat16': 2.0**-9, 'float16': 2.0**-12}
HALVES = tuple(ROUNDING)
LAYOUTS = 'stacked', 'transposed'

# Tolerated root mean square of the error over that of the recorded array, in
# roundings. Measured: up to 1.3 after one product, 4.4 after the three blocks
# of the encoder, 16 after the decoder's layers; the same in both dtypes, so
# that no sum is rounded. Twice of it is tolerated.
IMAGE, DECODER = 9, 32


@functools.cache
def golden(name):
  return parity.load_golden(name)


@functools.cache
def load(name, dtype=None, compute=None, layout=None):
  folder = parity.GOLDEN / name
  return checkpoints.load(
    folder / 'model.npz',
    config=json.loads((folder / 'config_bv.json').read_text()),
    dtype=dtype,
    compute_dtype=compute,
    layout=layout,
  )


def error(got, want):
  got, want = (np.asarray(x, np.float64) for x in (got, want))
  return np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))


def check(name, arrays, dtype):
  for array, got in arrays.items():
    want = golden(name)[array]
    if array.startswith('bf16w/') or array.endswith(('tokens', 'margin')):
      continue  # Of other weights; or after a token that may be another.
    if 'step_logits' in array:
      got, want = got[:, 0], want[:, 0]
    if not parity.tolerance(array):
      np.testing.assert_array_equal(got, want, err_msg=array)
      continue
    image = parity.tolerance(array) == parity.FEATURES
    rounding = ROUNDING[dtype] * (IMAGE if image else DECODER)
    assert error(got, want) < rounding, array


@jax.jit
def _scores(model, images, text):
  zimg = model.project(model.encode_image(images))
  return zimg, model.logits(zimg, text, jnp.zeros_like(text))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('name', parity.MODELS)
def test_recorded_arrays(name, dtype, layout):
  model = load(name, compute=dtype, layout=layout)
  assert (model.dtype, model.compute_dtype) == ('float32', dtype)
  parts = [parity.image_tower, parity.whole_sequences]
  if layout == 'stacked':
    parts.append(parity.greedy)
  check(name, parity.measure(model, golden(name), parts), dtype)


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('name', parity.MODELS)
def test_layouts_agree(name, dtype):
  """Both round the same factors; only sums are made in another order."""
  images = golden(name)['inputs/images']
  arrays = []
  for layout in LAYOUTS:
    model = load(name, compute=dtype, layout=layout)
    arrays.append(_scores(model, images, golden(name)['inputs/full_text']))
  for one, other, limit in zip(*arrays, (IMAGE, DECODER), strict=True):
    assert one.dtype == other.dtype == jnp.float32
    assert error(one, other) < limit * ROUNDING[dtype] / 4


def test_products_are_in_the_dtype_of_the_weights():
  assert load('pg1_56').compute_dtype == 'float32'
  for layout in LAYOUTS:
    half = load('pg1_56', dtype='bfloat16', layout=layout)
    assert half.config.vision.compute_dtype == ''
    assert (half.dtype, half.compute_dtype) == ('bfloat16', 'bfloat16')
    images = golden('pg1_56')['inputs/images']
    named = load('pg1_56', dtype='bfloat16', compute='bfloat16', layout=layout)
    np.testing.assert_array_equal(
      half.encode_image(images), named.encode_image(images)
    )


def test_towers_may_differ():
  config = load('pg1_56').config
  params = {
    'img': load('pg1_56', dtype='bfloat16').params['img'],
    'llm': load('pg1_56').params['llm'],
  }
  model = paligemma.Model(params, config)
  assert model.dtype == model.compute_dtype == 'bfloat16+float32'
  server = paligemma.Model({'llm': params['llm']}, config)
  assert server.compute_dtype == 'float32'


def test_a_dtype_that_there_is_not():
  said = "compute_dtype: got 'bf16', expected one of float32"
  with pytest.raises(ValueError, match=said):
    load('pg1_56', compute='bf16')


@pytest.mark.parametrize(
  ('dtype', 'compute', 'given', 'want'),
  [
    ('float32', None, None, 'float32'),
    ('bfloat16', None, None, 'bfloat16'),
    ('bfloat16', 'float32', None, 'float32'),
    ('float32', 'float16', None, 'float16'),
    ('bfloat16', None, 'float32', 'float32'),
  ],
)
def test_the_cache_is_in_the_dtype_of_products(dtype, compute, given, want):
  model = load('pg1_56', dtype=dtype, compute=compute)
  config, llm = model.config.text, model.params['llm']
  x = jnp.zeros((2, 5, config.width))
  at = jnp.tile(jnp.arange(5), (2, 1))
  _, cache = jax.eval_shape(
    lambda: gemma.prefill(config, llm, x, at, at >= 0, jnp.array([4, 4]), given)
  )
  assert {leaf.dtype.name for leaf in jax.tree.leaves(cache)} == {want}


@pytest.mark.parametrize('dtype', HALVES)
def test_gradients_are_those_of_float32(dtype):
  """Weights in float32 get gradients in float32, rounded as the products."""
  text = jnp.asarray(golden('pg1_56')['inputs/full_text'])
  images = golden('pg1_56')['inputs/images']

  @functools.partial(jax.jit, static_argnums=0)
  @functools.partial(jax.grad, argnums=1)
  def gradient(config, params):
    model = paligemma.Model(params, config)
    return jnp.mean(_scores(model, images, text)[1] ** 2)

  full, half = load('pg1_56'), load('pg1_56', compute=dtype)
  want = gradient(full.config, full.params)
  got = gradient(half.config, half.params)
  for tower in ('img', 'llm'):
    flat = [
      np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree[tower])])
      for tree in (got, want)
    ]
    assert flat[0].dtype == np.float32
    assert error(*flat) < 2 * DECODER * ROUNDING[dtype]


def test_float16_saturates():
  x = jnp.array([[1e6, -1e6, 1.0]])
  got = common.matmul(x, jnp.eye(3), 'float16')
  np.testing.assert_array_equal(got, [[65504, -65504, 1]])
  np.testing.assert_array_equal(common.rounded(x, 'float32'), x)


def test_norms_are_in_float32():
  x = jax.random.normal(jax.random.key(0), (4, 16))
  scale = jnp.full(16, 0.01, jnp.bfloat16)
  got = common.apply(common.RMSNorm(1e-6), {'scale': scale}, x)
  want = common.apply(
    common.RMSNorm(1e-6), {'scale': scale.astype(jnp.float32)}, x
  )
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-6)


CONFIG = {
  'name': 'wide',
  'image_size': 32,
  'patch_size': 8,
  'unroll': False,
  'vit': {'width': 192, 'depth': 6, 'num_heads': 2, 'mlp_dim': 512},
  'llm': {
    'width': 192,
    'depth': 6,
    'mlp_dim': 512,
    'num_heads': 2,
    'num_kv_heads': 1,
    'head_dim': 64,
    'vocab_size': 4096,
  },
}


@pytest.mark.parametrize('compute', ['', 'float32'])
def test_no_copy_of_stacked_weights_is_made(compute):
  """Weights in bfloat16 are converted, if at all, a layer at a time."""
  config = paligemma.Config.from_dict(CONFIG).with_compute_dtype(compute)
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16),
    paligemma.shapes(config),
  )
  model = paligemma.Model(params, config)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 3), jnp.int32)
  table = params['llm']['embedder']['input_embedding']

  def encode(model, images):
    return model.encode_image(images)

  def score(model, images, tokens):
    zimg = jnp.zeros((1, 16, 192))
    return model.logits(zimg, tokens, tokens)

  for function, stacks, other in (
    (encode, params['img']['Transformer'], 0),
    (score, params['llm']['layers'], table.size),
  ):
    arguments = (model, images, tokens)[: 2 + (function is score)]
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    weights = sum(leaf.size for leaf in jax.tree.leaves(stacks))
    # A layer in both dtypes, and the table of words, in float32.
    limit = 4 * (2 * weights / 6 + other) + 500_000
    assert limit < 4 * (weights + other)
    assert memory.temp_size_in_bytes < limit


@pytest.mark.parametrize(
  ('platform', 'layout'),
  [('cpu', 'transposed'), ('gpu', 'stacked'), ('tpu', 'stacked')],
)
def test_layout_of_big_models(monkeypatch, platform, layout):
  monkeypatch.setattr(checkpoints, '_BIG', 1)
  with _platform.compiling_for(platform):
    assert load.__wrapped__('pg1_56').config.text.layout == layout
