"""Every array recorded from big_vision, both decoders, against ours."""

import functools
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import parity

CASES = [
  (name, array)
  for name in parity.MODELS
  for array in parity.computed(parity.load_golden(name))
]


@functools.cache
def golden(name):
  return parity.load_golden(name)


@functools.cache
def ours(name, part, weights='model.npz', unroll=False):
  return part(parity.load_model(name, weights, unroll), golden(name))


def check(name, array, got):
  want = golden(name)[array]
  assert got.shape == want.shape
  if parity.tolerance(array):
    np.testing.assert_allclose(
      got, want, rtol=0, atol=parity.tolerance(array), err_msg=array
    )
  else:
    np.testing.assert_array_equal(got, want, err_msg=array)


def find(name, array):
  """Computes the part of the model that an array belongs to."""
  group, _, kind = array.partition('/')
  if group == 'dec_bf16cache':
    return ours(name, parity.greedy_bfloat16)[array]
  weights = 'model.bf16.npz' if group == 'bf16w' else 'model.npz'
  if group == 'enc' or kind in ('encoded', 'zimg'):
    return ours(name, parity.image_tower, weights)[array]
  if group == 'full' or kind.startswith(('text', 'llm')):
    return ours(name, parity.whole_sequences, weights)[array]
  return ours(name, parity.greedy)[array]


@pytest.mark.parametrize(('name', 'array'), CASES)
def test_array(name, array):
  check(name, array, find(name, array))


def test_with_the_compiler_flags_of_users():
  """The code that XLA makes without the flags that conftest.py sets."""
  flags = 'XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS'
  hidden = *flags, 'JAX_COMPILATION_CACHE_DIR'
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.parity', '--due'],
    cwd=parity.GOLDEN.parents[1],
    env={k: v for k, v in os.environ.items() if k not in hidden},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert '\n0 arrays out of tolerance' in done.stdout
  (head,) = (x for x in done.stdout.split('\n') if x.startswith('| array |'))
  assert all(name in head for name in parity.MODELS)
  assert all(f'\n| {array} | ' in done.stdout for _, array in CASES)


@pytest.mark.parametrize('part', [parity.image_tower, parity.greedy])
def test_unrolled_layers(part):
  for array, got in ours('pg2_56', part, unroll=True).items():
    if not array.startswith('bf16w/'):
      check('pg2_56', array, got)


@pytest.mark.parametrize('name', parity.MODELS)
def test_bfloat16_cache_is_told_from_float32(name):
  """The tolerance that rounding needs must not hide a float32 cache."""
  full = ours(name, parity.greedy)['dec/step_logits']
  diff = np.abs(full - golden(name)['dec_bf16cache/step_logits'])
  assert diff.max((1, 2)).min() > 1.5 * parity.ROUNDED


@pytest.mark.parametrize('name', parity.MODELS)
def test_recording_is_consistent(name):
  """Inputs agree with one another, so a failure above is not theirs."""
  g = golden(name)
  np.testing.assert_allclose(
    g['inputs/images'], g['inputs/images_u8'] / 127.5 - 1, atol=1e-6
  )
  for row, length in enumerate(g['inputs/prefix_len']):
    assert not g['inputs/full_mask_ar'][row, :length].any()
    assert g['inputs/full_mask_ar'][row, length:].all()
    assert g['inputs/dec_mask_input'][row].sum() == length
    np.testing.assert_array_equal(
      g['inputs/dec_text'][row, :length], g['inputs/full_text'][row, :length]
    )
  np.testing.assert_array_equal(
    g['dec/prefill_cache_end'] - g['dec/prefill_cache_begin'],
    g['dec/prefill_seq_len'],
  )


def test_golden_files_are_the_recorded_ones():
  lines = (parity.GOLDEN / 'sha256.txt').read_text().splitlines()
  want = {name: digest for digest, name in map(str.split, lines)}
  got = {
    path.relative_to(parity.GOLDEN).as_posix(): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in parity.GOLDEN.rglob('*')
    if path.is_file() and path.parent != parity.GOLDEN
  }
  assert got == want
