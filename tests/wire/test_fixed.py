import ml_dtypes
import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
from collab_jax.wire import checksum
from tests.wire import drawing

# A byte of version, then a CRC.
HEADER = 5


def _fixed(fields):
  return wire.Session(fields, coding='fixed')


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
  session = _fixed({'a': messages.Symbols(alphabet, (count,))})
  top = {'a': np.full(count, alphabet - 1, np.int32)}
  data = session.pack(top)
  assert session.sizes(data) == {'header': HEADER, 'a': size}
  assert len(data) == session.length == HEADER + size
  assert drawing.same(top, session.unpack(data))


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
  data = _fixed(fields).pack(message)
  assert data[0] == 0b00100000
  assert data[HEADER:] == want


def test_the_papers_message():
  fields = {
    'assignments': messages.Symbols(8, (256,)),
    'centroids/x': messages.Values('float16', (8, 1152)),
  }
  session = _fixed(fields)
  rng = np.random.default_rng(0)
  sizes = session.sizes(session.pack(drawing.message(rng, session)))
  assert sizes == {'header': 5, 'assignments': 96, 'centroids/x': 18432}


@pytest.mark.parametrize('coding', wire.CODINGS)
@pytest.mark.parametrize(
  ('message', 'match'),
  [
    ({}, r'fields: got \[\], expected \[.a.\]'),
    ({'a': np.zeros(3, int), 'b': np.zeros(1)}, r"got \['a', 'b'\], expected"),
    ({'a': np.zeros(2, int)}, r'got shape \(1, 2\), expected'),
    ({'a': np.zeros(3)}, 'expected integers'),
    ({'a': np.array([0, 1, 5])}, r'expected \[0, 5\)'),
    ({'a': np.array([0, -1, 4])}, r'expected \[0, 5\)'),
  ],
)
def test_pack_refuses(coding, message, match):
  session = wire.Session({'a': messages.Symbols(5, (3,))}, coding=coding)
  with pytest.raises(ValueError, match=match):
    session.pack(message)


@pytest.mark.parametrize('coding', wire.CODINGS)
@pytest.mark.parametrize('dtype', sorted(drawing.DTYPES))
@pytest.mark.parametrize('bad', [np.inf, -np.inf, np.nan])
def test_numbers_are_finite(monkeypatch, bad, dtype, coding):
  fields = {'x': messages.Values(dtype, (2,))}
  session = wire.Session(fields, coding=coding)
  values = np.array([1, bad], drawing.DTYPES[dtype])
  with pytest.raises(ValueError, match='not finite'):
    session.pack({'x': values})
  finfo = ml_dtypes.finfo(drawing.DTYPES[dtype])
  largest = {'x': np.array([1, finfo.max], drawing.DTYPES[dtype])}
  assert drawing.same(largest, session.unpack(session.pack(largest)))
  # One whose sender does not check.
  monkeypatch.setattr(wire.fields, '_infinite', lambda *_: np.zeros(0, int))
  data = session.pack({'x': values})
  monkeypatch.undo()
  with pytest.raises(wire.FormatError, match='not finite'):
    session.unpack(data)


def test_values_have_the_declared_type():
  session = _fixed({'x': messages.Values('float16', (2,))})
  with pytest.raises(ValueError, match='float16'):
    session.pack({'x': np.zeros(2, np.float32)})


def _with_check(session, data):
  """The same with the check that it should have."""
  digest = bytes.fromhex(session.digest)
  crc = checksum.crc32c(digest, data[:1], data[5:])
  return data[:1] + checksum.to_bytes(crc) + data[5:]


def test_unpack_refuses():
  session = _fixed({'a': messages.Symbols(5, (3,))})
  good = session.pack({'a': np.zeros(3, int)})
  for data, match in (
    (b'', 'got 0 bytes of layer 0, expected 7'),
    (good + b'0', 'got 8 bytes, expected 7'),
    (good[:-1], 'got 6 bytes of layer 0, expected 7'),
    (bytes([0x40]) + good[1:], 'version 2, expected 1'),
    (bytes([0x21]) + good[1:], 'check of layer 0'),
    (_with_check(session, bytes([0x21]) + good[1:]), 'spare bit'),
    (_with_check(session, good[:5] + bytes([0b00001010, 0x80])), 'symbol 5'),
    (_with_check(session, good[:5] + bytes([0, 1])), 'padding'),
  ):
    with pytest.raises(wire.FormatError, match=match):
      session.unpack(data)


@pytest.mark.parametrize(
  'field',
  [
    messages.Symbols(0, (2,)),
    messages.Symbols(2**31 + 1, (2,)),
    messages.Symbols(2, (-1,)),
    messages.Values('int8', (2,)),
    messages.Values('float16', (2,), -1),
  ],
)
def test_fields_are_checked(field):
  with pytest.raises(ValueError, match=r"field 'a'.*got .*expected"):
    wire.Session({'a': field})


@pytest.mark.parametrize('coding', wire.CODINGS)
def test_what_comes_back_is_writable(coding):
  session = wire.Session({'x': messages.Values('float32', (2,))}, coding=coding)
  data = session.pack({'x': np.zeros(2, np.float32)})
  session.unpack(data)['x'][0] = 1


@pytest.mark.parametrize('coding', wire.CODINGS)
@pytest.mark.parametrize('dtype', sorted(drawing.DTYPES))
def test_rows_of_larger_arrays_give_the_same_bytes(coding, dtype):
  fields = {
    'a': messages.Symbols(5, (9,)),
    'x': messages.Values(dtype, (3, 4)),
  }
  session = wire.Session(fields, coding=coding)
  rng = np.random.default_rng(0)
  symbols = rng.integers(0, 5, (6, 20), np.int32)
  numbers = rng.normal(size=(6, 8, 4)).astype(drawing.DTYPES[dtype])
  views = {'a': symbols[:, :9], 'x': numbers[:, :3]}
  backwards = {'a': symbols[:, :9], 'x': numbers[:, :3, ::-1][:, :, ::-1]}
  copies = {name: view.copy() for name, view in views.items()}
  packed = session.pack_batch(copies)
  assert session.pack_batch(views) == session.pack_batch(backwards) == packed
  unpacked = session.unpack_batch(packed)
  assert drawing.same(unpacked, copies)
  for array in unpacked.values():
    assert array.flags.writeable
    assert array.flags.aligned
  # Numbers are looked at where they are sent, and nowhere else.
  numbers[:, 3:] = np.inf
  assert session.pack_batch(views) == packed
  numbers[4, 2] = -np.inf
  with pytest.raises(ValueError, match="'x' of image 4: got numbers that"):
    session.pack_batch(views)
