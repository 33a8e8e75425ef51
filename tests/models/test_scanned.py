"""Layers as accelerators run them: one loop over stacked weights and caches."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from benchmarks import parity
from collab_jax import _platform, checkpoints
from collab_jax.models import decoding, gemma, paligemma
from collab_jax.serving.engine import engine
from tests.serving import harness


@pytest.fixture(autouse=True)
def target():
  with _platform.compiling_for('tpu'):
    yield


@functools.cache
def golden(name):
  return parity.load_golden(name)


@functools.cache
def load(name, window=None):
  model = parity.load_model(name, 'model.npz', unroll=True)
  text = dataclasses.replace(model.config.text, window=window)
  return model.replace(config=dataclasses.replace(model.config, text=text))


@pytest.mark.parametrize(
  'part', [parity.image_tower, parity.whole_sequences, parity.greedy]
)
@pytest.mark.parametrize('name', parity.MODELS)
def test_recorded_arrays(name, part):
  got = part(load(name), golden(name))
  for array in [a for a in got if a.startswith('bf16w/')]:
    del got[array]  # Of other weights.
  for array, value in got.items():
    want, atol = golden(name)[array], parity.tolerance(array)
    np.testing.assert_allclose(value, want, rtol=0, atol=atol, err_msg=array)


def programs(model):
  """Logits of whole sequences, and tokens of each decoding method."""
  recorded = golden('pg2_56')
  zimg = jnp.asarray(recorded['enc/zimg'])
  prompts = parity._prompts(recorded, zimg)
  text = recorded['inputs/full_text'], recorded['inputs/full_mask_ar']

  def write(method, halvings):
    return model.generate(
      zimg, *prompts, 6, eos=5, method=method, halvings=halvings
    )

  out = {
    'logits': jax.jit(model.logits)(zimg, *text),
    'greedy': jax.jit(lambda: write(decoding.Greedy(), halvings=1))(),
    'beam': jax.jit(lambda: write(decoding.Beam(2), halvings=0))(),
  }
  return jax.device_get(out)


def test_scanned_layers_equal_unrolled_ones():
  """With all there is: a window, soft-caps, beams, and rows that are left."""
  model = load('pg2_56', window=8)
  with jax.default_matmul_precision('highest'):
    got = programs(model)
    with _platform.compiling_for('cpu'):
      want = programs(model)
  for name, value in want.items():
    atol = parity.DECODER if name == 'logits' else 0
    np.testing.assert_allclose(got[name], value, rtol=0, atol=atol)


def test_layers_are_traced_once():
  """A program does not grow with the number of layers."""

  def size(depth):
    config = load('pg2_56').config
    text = dataclasses.replace(config.text, depth=depth)
    vision = dataclasses.replace(config.vision, depth=depth)
    config = dataclasses.replace(config, text=text, vision=vision)
    model = paligemma.Model(paligemma.shapes(config), config)
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    side = config.vision.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

    def run(model, images, tokens):
      zimg = model.project(model.encode_image(images))
      return model.generate(zimg, tokens, tokens > 0, 4, eos=1)

    return len(jax.jit(run).lower(model, images, tokens).as_text().split('\n'))

  assert size(9) == size(5)


def test_the_engine_writes_the_same():
  model = checkpoints.load('tiny')
  n, width = model.config.vision.num_tokens, model.config.text.width
  x = np.random.default_rng(0).normal(size=(2, n, width)).astype(np.float32)
  prefixes = [
    engine.HostPrefix(row, np.ones(n, bool), np.arange(n, dtype=np.int32), n)
    for row in x
  ]
  prompt = model.tokenizer.prompt('caption en')

  def captions():
    ready = engine.Engine(model, harness.SIZES)
    ready.reset()
    for job in ready.warm_up_length(n):
      job()
    requests = [engine.PrefillRequest(p, prompt, 8) for p in prefixes]
    written = [[] for _ in requests]
    outputs = ready.prefill(requests)
    slots = [output.slot for output in outputs]
    while outputs:
      for output in outputs:
        written[slots.index(output.slot)] += output.tokens
      outputs = ready.decode()
    return ready, written

  ready, got = captions()
  assert isinstance(ready._state.cache, gemma.StackedCache)
  with _platform.compiling_for('cpu'):
    assert captions()[1] == got
