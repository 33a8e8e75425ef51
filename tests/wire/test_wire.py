from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import ml_dtypes
import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire

DTYPES = {
  'float16': np.float16,
  'bfloat16': ml_dtypes.bfloat16,
  'float32': np.float32,
}
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
field = st.one_of(
  st.builds(
    messages.Symbols,
    st.one_of(st.integers(1, 300), st.integers(1, 2**31)),
    shapes,
  ),
  st.builds(messages.Values, st.sampled_from(sorted(DTYPES)), shapes),
)
fields_ = st.dictionaries(st.text(max_size=3), field, min_size=1, max_size=4)


def _draw(data, field, rows=()):
  shape = (*rows, *field.shape)
  if isinstance(field, messages.Symbols):
    symbols = st.integers(0, field.alphabet - 1)
    return data.draw(hnp.arrays(np.int32, shape, elements=symbols))
  numbers = st.floats(-60000, 60000, width=16)
  values = data.draw(hnp.arrays(np.float32, shape, elements=numbers))
  return values.astype(DTYPES[field.dtype])


def _equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    assert a[name].shape == b[name].shape
    assert a[name].tobytes() == b[name].tobytes()


@given(st.data(), fields_)
def test_round_trip(data, fields):
  message = {name: _draw(data, field) for name, field in fields.items()}
  packed = wire.pack(message, fields)
  assert isinstance(packed, bytes)
  assert len(packed) == sum(wire.sizes(fields).values())
  _equal(message, wire.unpack(packed, fields))


@given(st.data(), fields_, st.integers(0, 3))
def test_batches_are_rows(data, fields, rows):
  batch = {n: _draw(data, f, (rows,)) for n, f in fields.items()}
  packed = wire.pack_batch(batch, fields)
  alone = [
    wire.pack({n: np.asarray(v[i]) for n, v in batch.items()}, fields)
    for i in range(rows)
  ]
  assert packed == alone
  _equal(batch, wire.unpack_batch(packed, fields))


@given(st.data(), fields_, st.booleans())
def test_any_bytes(data, fields, right_length):
  size = sum(wire.sizes(fields).values())
  least, most = (size, size) if right_length else (0, size + 3)
  junk = data.draw(st.binary(min_size=least, max_size=most))
  try:
    message = wire.unpack(junk, fields)
  except wire.FormatError:
    return
  # What is accepted is the only way to write it.
  assert wire.pack(message, fields) == junk


@pytest.mark.parametrize(
  ('alphabet', 'count', 'size'),
  [
    (1, 256, 0),
    (2, 256, 32),
    (2, 9, 2),
    (3, 256, 64),
    (8, 256, 96),
    (9, 256, 128),
    (64, 256, 192),
    (256, 256, 256),
    (257, 8, 9),
    (4096, 256, 384),
    (2**31, 2, 8),
    (5, 0, 0),
  ],
)
def test_sizes_of_symbols(alphabet, count, size):
  fields = {'a': messages.Symbols(alphabet, (count,))}
  assert wire.sizes(fields) == {'a': size}
  top = {'a': np.full(count, alphabet - 1, np.int32)}
  assert len(wire.pack(top, fields)) == size
  _equal(top, wire.unpack(wire.pack(top, fields), fields))


def test_layout():
  fields = {
    'a': messages.Symbols(8, (3,)),
    'x': messages.Values('float16', (1, 2)),
  }
  message = {
    'a': np.array([1, 2, 7]),
    'x': np.array([[1, -2]], np.float16),
  }
  # 001 010 111 0000000, then 0x3c00 and 0xc000, the low byte first.
  want = bytes([0b00101011, 0b10000000, 0x00, 0x3C, 0x00, 0xC0])
  assert wire.pack(message, fields) == want
  assert wire.sizes(fields) == {'a': 2, 'x': 4}


def test_the_papers_message():
  fields = {
    'assignments': messages.Symbols(8, (256,)),
    'centroids/x': messages.Values('float16', (8, 1152)),
  }
  assert wire.sizes(fields) == {'assignments': 96, 'centroids/x': 18432}


@pytest.mark.parametrize(
  ('message', 'match'),
  [
    ({}, 'must hold the fields'),
    ({'a': np.zeros(3, int), 'b': np.zeros(1)}, 'must hold the fields'),
    ({'a': np.zeros(2, int)}, 'expected shape'),
    ({'a': np.zeros(3)}, 'expected integers'),
    ({'a': np.array([0, 1, 5])}, r'must lie in \[0, 5\)'),
    ({'a': np.array([0, -1, 4])}, r'must lie in \[0, 5\)'),
  ],
)
def test_pack_refuses(message, match):
  with pytest.raises(ValueError, match=match):
    wire.pack(message, {'a': messages.Symbols(5, (3,))})


@pytest.mark.parametrize('bad', [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize('dtype', DTYPES)
def test_only_finite_numbers(bad, dtype):
  fields = {'x': messages.Values(dtype, (2,))}
  values = np.array([1, bad], DTYPES[dtype])
  with pytest.raises(ValueError, match='not finite'):
    wire.pack({'x': values}, fields)
  with pytest.raises(wire.FormatError, match='not finite'):
    wire.unpack(values.tobytes(), fields)
  largest = np.array([1, ml_dtypes.finfo(DTYPES[dtype]).max], DTYPES[dtype])
  _equal({'x': largest}, wire.unpack(largest.tobytes(), fields))


def test_values_have_the_declared_type():
  fields = {'x': messages.Values('float16', (2,))}
  with pytest.raises(ValueError, match='float16'):
    wire.pack({'x': np.zeros(2, np.float32)}, fields)


def test_unpack_refuses():
  fields = {'a': messages.Symbols(5, (3,))}
  with pytest.raises(wire.FormatError, match='0 bytes, expected 2'):
    wire.unpack(b'', fields)
  with pytest.raises(wire.FormatError, match='symbol 5'):
    wire.unpack(bytes([0b00001010, 0b10000000]), fields)
  with pytest.raises(wire.FormatError, match='padding'):
    wire.unpack(bytes([0, 1]), fields)


@pytest.mark.parametrize(
  'field',
  [
    messages.Symbols(0, (2,)),
    messages.Symbols(2**31 + 1, (2,)),
    messages.Values('int8', (2,)),
  ],
)
def test_fields_are_checked(field):
  with pytest.raises(ValueError, match="Field 'a'"):
    wire.sizes({'a': field})


def test_what_comes_back_is_writable():
  fields = {'x': messages.Values('float32', (2,))}
  wire.unpack(bytes(8), fields)['x'][0] = 1
