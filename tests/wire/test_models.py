import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
from collab_jax.wire.coding import (
  adaptive,
  context,
  field_coder,
  range_coder,
)


@pytest.mark.parametrize(
  'make', [range_coder.small_model, lambda f: range_coder.model(np.array(f))]
)
@given(frequencies=st.lists(st.integers(1, 2**16), min_size=2, max_size=40))
def test_parts_are_exact(make, frequencies):
  """constriction's own cumulative integers are those of the page."""
  total, start = sum(frequencies), 0
  scale = (2**64 - 1) >> 24
  model = make(frequencies)
  for symbol, frequency in enumerate(frequencies):
    writer = range_coder.Writer()
    writer.write(symbol, model)
    position, (low, range_) = writer._encoder.pos()
    begin = start * 2**24 // total
    end = (start + frequency) * 2**24 // total
    want = scale * begin, scale * (end - begin)
    if position:  # A word has left.
      want = want[0] << 32 & (2**64 - 1), want[1] << 32
    assert (low, range_) == want
    start += frequency


@pytest.mark.parametrize('count', [2, 3, 7, 255, 256, 40000, 65536])
def test_even_parts_are_exact(count):
  scale = (2**64 - 1) >> 24
  for symbol in (0, 1, count - 1):
    writer = range_coder.Writer()
    writer.write(symbol, range_coder.even(count))
    position, (low, range_) = writer._encoder.pos()
    each = 2**24 // count
    size = each if symbol < count - 1 else 2**24 - each * (count - 1)
    want = scale * each * symbol, scale * size
    if position:
      want = want[0] << 32 & (2**64 - 1), want[1] << 32
    assert (low, range_) == want


@given(st.integers(0, 2**32 - 1))
def test_bytes_are_the_fewest(seed):
  rng = np.random.default_rng(seed)
  alphabet = int(rng.integers(2, 300))
  frequencies = rng.integers(1, rng.choice([2, 50, 20000]), alphabet) + 0
  frequencies[0] += rng.choice([0, 10**6])
  model = range_coder.model(frequencies)
  chances = frequencies / frequencies.sum()
  symbols = rng.choice(alphabet, rng.integers(60), p=chances).astype(np.int32)
  writer = range_coder.Writer()
  if symbols.size:
    writer.write(symbols, model)
  data = writer.finish()
  ideal = -np.log2(chances[symbols]).sum() / 8
  assert len(data) <= ideal + 1
  assert not data.endswith(b'\0')
  if symbols.size:
    found = range_coder.Reader(data).read(model, len(symbols))
    np.testing.assert_array_equal(found, symbols)


def test_bytes_that_nothing_leads_to():
  reader = range_coder.Reader(b'\xff' * 16)
  with pytest.raises(wire.FormatError, match='damaged'):
    reader.read(range_coder.even(3))
  with pytest.raises(wire.FormatError, match='damaged'):
    reader.many([range_coder.even(3)], 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_model_gives_symbols_back(seed):
  rng = np.random.default_rng(seed)
  side = int(rng.integers(1, 9))
  alphabet = int(rng.choice([2, 3, 4, 9, 70, 1000, 4096]))
  symbols = rng.integers(0, alphabet, side * side)
  if seed % 3 == 0:
    symbols %= 3
  if seed % 3 == 1:
    symbols.sort()
  field = messages.Symbols(alphabet, (side * side,))
  rows = int(rng.choice([1, side * side]))
  prior = rng.integers(1, 2**16 // alphabet + 1, (rows, alphabet))
  coder = field_coder.SymbolCoder('a', field, prior)
  symbols = symbols.astype(np.int32)
  writes = {
    0: lambda w: field_coder._write_even(symbols, alphabet, w),
    1: lambda w: adaptive.write(w, symbols, alphabet),
    2: context.DecisionRecorder(symbols, alphabet).write,
    3: lambda w: coder.static.write(w, symbols),
  }
  assert coder.models == writes.keys()
  plan = coder.plan(symbols)
  for model, write in writes.items():
    writer = range_coder.Writer()
    write(writer)
    data = writer.finish()
    bits = coder.bits(symbols, model)
    assert len(data) <= 1.001 * bits / 8 + 1.01
    if model != 2 or context.promising(symbols):
      assert plan.bits <= bits + 1e-3
    found = coder.read(range_coder.Reader(data), model, np.zeros(0, np.uint8))
    np.testing.assert_array_equal(found, symbols)
    assert found.dtype == np.int32


def test_adaptive_costs_by_its_definition():
  symbols = np.random.default_rng(0).geometric(0.3, 300).astype(np.int32) % 9
  bits = 0.0
  for start in adaptive.starts(300, 9)[:-1]:
    counts = 1 + 2 * np.bincount(symbols[:start], minlength=9)
    block = symbols[start : start + max(1, start // 16)]
    bits -= np.log2(counts[block] / counts.sum()).sum()
  assert math.isclose(adaptive.cost(symbols, 9), bits)


def _blobs(k, rng):
  """Clusters of patches near a few points, numbered as they appear."""
  points = rng.uniform(0, 16, (k, 2))
  grid = np.stack(np.mgrid[:16, :16], -1).reshape(-1, 1, 2)
  nearest = ((grid - points) ** 2).sum(-1).argmin(1)
  seen = dict.fromkeys(nearest.tolist())
  order = {s: i for i, s in enumerate(seen)}
  return np.array([order[s] for s in nearest.tolist()], np.int32)


@pytest.mark.parametrize('k', [2, 8, 32])
def test_neighbours_tell_most(k):
  rng = np.random.default_rng(k)
  session = wire.Session({'a': messages.Symbols(k, (256,))})
  shuffled = rng.permutation(k).astype(np.int32)
  for _ in range(5):
    symbols = _blobs(k, rng)
    data = session.pack({'a': symbols})
    bits = adaptive.cost(symbols, k)
    assert len(data) < 5 + bits / 8 * 0.7
    named = session.pack({'a': shuffled[symbols]})
    np.testing.assert_array_equal(session.unpack(named)['a'], shuffled[symbols])
    assert len(named) >= len(data) - 1


def test_the_smallest_model_is_taken():
  rng = np.random.default_rng(0)
  peaked = np.array([[60000, *[1] * 15]])
  field = messages.Symbols(16, (256,))
  coders = field_coder.SymbolCoder('a', field, peaked)
  even = rng.integers(0, 16, 256).astype(np.int32)
  skewed = rng.permutation(np.repeat([0, 1, 2], [180, 40, 36])).astype(np.int32)
  symbols_of = {
    'fixed': even,
    'adaptive': skewed,
    'context': np.repeat(np.arange(16), 16).astype(np.int32),
    'static': np.zeros(256, np.int32),
  }
  for name, symbols in symbols_of.items():
    assert field_coder.SYMBOL_MODELS[coders.plan(symbols).model] == name
  values = field_coder.ValueCoder('x', messages.Values('float16', (1000,)))
  normal = rng.normal(size=1000).astype(np.float16)
  assert field_coder.VALUE_MODELS[values.plan(normal).model] == 'adaptive'
  few = field_coder.ValueCoder('x', messages.Values('float16', (9,)))
  assert field_coder.VALUE_MODELS[few.plan(normal[:9]).model] == 'raw'


def test_every_start_of_a_decision_is_a_pair():
  assert len(context.PRIORS) == 75
  assert all(sum(pair) < context.LIMIT for pair in context.PRIORS)


def test_grids_without_neighbours_are_not_tried():
  rng = np.random.default_rng(0)
  assert not context.promising(rng.integers(0, 4096, 4096))
  assert context.promising(np.zeros(1, int)) is False
  assert context.promising(np.zeros(4, int))
  assert context.promising(_blobs(8, rng))


@pytest.mark.parametrize(
  ('shape', 'alphabet', 'known'),
  [
    ((4096,), 256, True),
    ((4096,), 257, False),
    ((4225,), 8, False),
    ((1024,), 2**16, True),
    ((1024,), 2**16 + 1, False),
    ((8,), 8, False),
    ((0,), 8, False),
    ((4, 4), 8, False),
    ((4,), 1, False),
  ],
)
def test_which_fields_are_grids(shape, alphabet, known):
  assert context.allowed(shape, alphabet) == known
