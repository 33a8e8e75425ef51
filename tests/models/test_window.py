"""The sliding window of every other layer, against Hugging Face's numbers."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from benchmarks import parity
from collab_jax import checkpoints
from collab_jax.models import decoding

FOLDER = parity.GOLDEN / 'pg2_56'


@functools.cache
def recorded():
  with np.load(FOLDER / 'hf_sliding_window8.npz', allow_pickle=False) as file:
    return parity.load_golden('pg2_56'), dict(file)


@functools.cache
def load(window):
  model = checkpoints.load(FOLDER / 'hf_new')
  text = dataclasses.replace(model.config.text, window=window)
  return model.replace(config=dataclasses.replace(model.config, text=text))


@functools.cache
def scored(window):
  golden, _ = recorded()

  @jax.jit
  def run(model, images, text, mask_ar):
    zimg = model.project(model.encode_image(images))
    return model.logits(zimg, text, mask_ar)

  with jax.default_matmul_precision('highest'):
    return np.asarray(
      run(
        load(window),
        *(golden[f'inputs/{k}'] for k in ('images', 'full_text')),
        jnp.asarray(golden['inputs/full_mask_ar']),
      )
    )


@functools.cache
def prefix():
  """Computes the prefix by the encoder, which has no window."""
  images = recorded()[0]['inputs/images']
  with jax.default_matmul_precision('highest'):
    run = jax.jit(lambda model, x: model.project(model.encode_image(x)))
    return run(load(None), images)


@functools.cache
def written(window, unroll=False):
  golden, _ = recorded()
  model = load(window)
  if unroll:
    text = dataclasses.replace(model.config.text, unroll=True)
    model = model.replace(config=dataclasses.replace(model.config, text=text))
  return parity.decode(model, golden, prefix(), 'float32')


def test_whole_sequences():
  golden, theirs = recorded()
  valid = golden['inputs/full_mask_input'].astype(bool)
  np.testing.assert_array_equal(valid, theirs['valid'])
  np.testing.assert_allclose(
    scored(8)[valid],
    theirs['full_text_logits'][valid],
    rtol=0,
    atol=parity.DECODER,
  )
  assert np.abs(scored(8) - scored(None))[valid].max() > 0.1


@pytest.mark.parametrize('unroll', [False, True])
def test_decoding(unroll):
  _, theirs = recorded()
  tokens, logits = written(8, unroll)
  for row in range(3):
    want = theirs[f'step_logits_{row}'].reshape(logits[row].shape)
    np.testing.assert_array_equal(tokens[row], theirs[f'tokens_{row}'].ravel())
    np.testing.assert_allclose(logits[row], want, rtol=0, atol=parity.DECODER)


def test_no_window_is_what_big_vision_does():
  golden, _ = recorded()
  tokens, _ = written(None)
  np.testing.assert_array_equal(tokens, golden['dec/tokens'])
  assert (written(8)[0] != tokens).any()


def test_a_window_that_nothing_leaves_changes_nothing():
  np.testing.assert_allclose(scored(4096), scored(None), rtol=0, atol=1e-6)
  np.testing.assert_array_equal(written(4096)[0], written(None)[0])


def test_beams_have_the_window_too():
  golden, _ = recorded()
  model = load(8)
  zimg = jnp.asarray(golden['enc/zimg'])
  prompts = parity._prompts(golden, zimg)

  @functools.partial(jax.jit, static_argnums=0)
  def run(method):
    return model.generate(zimg, *prompts, 6, eos=-1, method=method)

  np.testing.assert_array_equal(run(decoding.Beam(1)), run(decoding.Greedy()))
  assert run(decoding.Beam(3)).shape == (3, 6)
