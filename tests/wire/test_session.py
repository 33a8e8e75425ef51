import pathlib
import re
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import jaxtyping
import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
from collab_jax.wire import checksum
from tests.wire import drawing, independent

seeds = st.integers(0, 2**32 - 1)
codings = st.sampled_from(wire.CODINGS)
layers_ = st.integers(1, 3)


def _some(seed, coding, layers=1):
  rng = np.random.default_rng(seed)
  session = drawing.session(rng, coding, layers)
  return rng, session, drawing.message(rng, session)


@settings(max_examples=60, deadline=None)
@given(seeds, codings, layers_)
def test_round_trip(seed, coding, layers):
  _, session, message = _some(seed, coding, layers)
  data = session.pack(message)
  assert isinstance(data, bytes)
  assert drawing.same(message, session.unpack(data))
  sizes = session.sizes(data)
  assert sizes.keys() == {'header', *session.fields}
  assert sum(sizes.values()) == len(data)
  assert min(sizes.values()) >= 0
  assert sizes['header'] <= 16 * layers


@settings(max_examples=60, deadline=None)
@given(seeds, codings, st.integers(0, 3), layers_)
def test_batches_are_rows(seed, coding, rows, layers):
  rng, session, _ = _some(seed, coding, layers)
  batch = drawing.message(rng, session, (rows,))
  data = session.pack_batch(batch)
  assert data == [
    session.pack({n: np.asarray(v[i]) for n, v in batch.items()})
    for i in range(rows)
  ]
  assert drawing.same(batch, session.unpack_batch(data))


@settings(max_examples=40, deadline=None)
@given(seeds, codings, layers_)
def test_whole_layers_are_a_message(seed, coding, layers):
  _, session, message = _some(seed, coding, layers)
  data = session.pack(message)
  parts = session.split(data)
  assert b''.join(parts) == data
  assert len(parts) == layers == session.layers
  whole = {len(b''.join(parts[: i + 1])): i + 1 for i in range(layers)}
  for size in range(len(data)):
    if size not in whole:
      with pytest.raises(wire.FormatError):
        session.unpack(data[:size])
      continue
    found = session.unpack(data[:size])
    assert session.present(found) == tuple(range(whole[size]))
    assert drawing.same(found, {n: message[n] for n in found})
    assert found.keys() == {
      n for n, f in session.fields.items() if f.layer < whole[size]
    }


def test_layers_of_other_messages_do_not_fit():
  fields = {
    'coarse': messages.Symbols(4, (16,)),
    'fine': messages.Symbols(16, (16,), 1),
  }
  for coding in wire.CODINGS:
    session = wire.Session(fields, coding=coding)
    rng = np.random.default_rng(0)
    one, two = (
      session.split(session.pack(drawing.message(rng, session)))
      for _ in range(2)
    )
    with pytest.raises(wire.FormatError, match='check of layer 1'):
      session.unpack(one[0] + two[1])
    with pytest.raises(wire.FormatError, match='same layers'):
      session.unpack_batch([one[0], b''.join(two)])
    assert session.unpack_batch([one[0], two[0]])['coarse'].shape == (2, 16)


@settings(max_examples=60, deadline=None)
@given(seeds, codings, st.binary(max_size=60))
def test_any_bytes(seed, coding, junk):
  _, session, _ = _some(seed, coding)
  with pytest.raises(wire.FormatError):
    session.unpack(junk)


@settings(max_examples=100, deadline=None)
@given(seeds, layers_, st.data())
def test_any_body(seed, layers, data):
  """Bytes that pass the check: a message or an error, nothing else."""
  _, session, message = _some(seed, 'best', layers)
  packed = bytearray(session.pack(message))
  for _ in range(data.draw(st.integers(1, 4))):
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] = data.draw(st.integers(0, 255))
  junk = bytes(packed) + data.draw(st.binary(max_size=9))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checksum, 'to_bytes', lambda _: _Right(checksum.SIZE))
    try:
      found = session.unpack(junk)
    except wire.FormatError:
      return
  assert all(v.shape == session.fields[n].shape for n, v in found.items())
  # It is a message, as any other.
  if len(session.present(found)) == layers:
    assert drawing.same(session.unpack(session.pack(found)), found)


class _Right(bytes):
  """A check that is always right."""

  def __ne__(self, other):
    return False


def test_other_sessions_are_told():
  fields = {'a': messages.Symbols(8, (16,))}
  prior = np.arange(1, 9)[None]
  message = {'a': np.arange(16, dtype=np.int32) % 8}
  sessions = [
    wire.Session(fields, spec=spec, priors=priors)
    for spec in ({}, {'book': '12'}, {'book': '13'})
    for priors in (None, {'a': prior}, {'a': prior[:, ::-1]})
  ]
  sessions.append(wire.Session({'b': messages.Symbols(8, (16,))}))
  sessions.append(wire.Session({'a': messages.Symbols(8, (4, 4))}))
  assert len({session.digest for session in sessions}) == len(sessions)
  for one in sessions:
    for two in sessions:
      same = one is two
      name = next(iter(one.fields))
      data = one.pack({name: message['a'].reshape(one.fields[name].shape)})
      if same:
        two.unpack(data)
        assert one.differences(two) == []
      else:
        assert one.differences(two)
        with pytest.raises(wire.FormatError, match='another session'):
          two.unpack(data)


@pytest.mark.parametrize('coding', wire.CODINGS)
@pytest.mark.parametrize(
  'shape', [(1,) * 32, (0,) * 32, (0, (1 << 31) - 1, 512), (1,) * 31 + (3,)]
)
def test_any_shape_that_is_accepted_can_be_unpacked(shape, coding):
  fields = {
    'a': messages.Symbols(3, shape),
    'x': messages.Values('float16', ()),
  }
  session = wire.Session.from_json(
    wire.Session(fields, coding=coding).to_json()
  )
  message = {'a': np.zeros(shape, np.int32), 'x': np.float16(1)}
  assert session.unpack(session.pack(message))['a'].shape == shape


@pytest.fixture
def untyped():
  """Runs without checks of types, as for users."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


def test_numbers_are_checked_before_symbols():
  fields = {
    'symbols': messages.Symbols(5, (4,)),
    'numbers': messages.Values('float16', (4,)),
  }
  message = {
    'symbols': np.full(4, 5),
    'numbers': np.full(4, np.nan, np.float16),
  }
  with pytest.raises(ValueError, match=r"'numbers' of image 0: .* not finite"):
    wire.Session(fields).pack(message)


@pytest.mark.usefixtures('untyped')
@pytest.mark.parametrize('coding', wire.CODINGS)
def test_what_is_no_bytes_is_told(coding):
  fields = {'a': messages.Symbols(8, (16,)), 'b': messages.Symbols(2, (), 1)}
  session = wire.Session(fields, coding=coding)
  message = {n: np.zeros(f.shape, np.int32) for n, f in fields.items()}
  data = session.pack(message)
  for kind in (bytearray, memoryview):
    assert drawing.same(session.unpack(kind(data)), message)
    assert session.sizes(kind(data)) == session.sizes(data)
    assert session.split(kind(data)) == session.split(data)
  for read in (session.unpack, session.sizes, session.split):
    for junk in ('abc', None, 5):
      with pytest.raises(TypeError, match=f'got {type(junk).__name__}'):
        read(junk)


@pytest.mark.parametrize(
  ('kw', 'match'),
  [
    ({'coding': 'zip'}, "coding: got 'zip'"),
    ({'fields': {}}, 'fields: got none, expected at least one'),
    (
      {'fields': {'a': messages.Symbols(2, (), 1)}},
      r'layers: got \[1\], expected 0, 1',
    ),
    ({'fields': {'a': messages.Symbols(2, (1,) * 70)}}, 'got 70 axes'),
    ({'fields': {'a': messages.Symbols(2, (0,) * 65)}}, 'got 65 axes'),
    ({'fields': {'a': messages.Symbols(2, (0, 1 << 31))}}, 'got 2 axes'),
    ({'fields': {'a': messages.Symbols(2, (0, 1 << 70))}}, 'got 2 axes'),
    ({'fields': {'a': messages.Symbols(2, (1 << 20,) * 3)}}, 'got 3 axes'),
    ({'fields': {'a': messages.Values('float16', (0, 1 << 62))}}, 'axes'),
    (
      {'fields': {f'{i}': messages.Symbols(2, (), i) for i in range(256)}},
      'got 256 layers, expected at most 255',
    ),
    ({'spec': {'x': object()}}, 'spec: expected plain values'),
    ({'spec': {'x': float('nan')}}, 'spec: expected plain values'),
    ({'priors': {'x': [[1]]}}, "priors: got 'x'"),
    ({'priors': {'a': [[1, 2]]}}, r'shape \(1, 3\) or \(4, 3\)'),
    ({'priors': {'a': [[1, 2, 0]]}}, 'at least 1'),
    ({'priors': {'a': [[1, 2, 65534]]}}, 'sums up to 65537, expected'),
    ({'priors': {'a': [[1.0, 2, 3]]}}, 'expected integers'),
  ],
)
def test_sessions_are_checked(kw, match):
  kw = {'fields': {'a': messages.Symbols(3, (4,))}, **kw}
  if 'priors' in kw:
    kw['priors'] = {n: np.array(t) for n, t in kw['priors'].items()}
  with pytest.raises(ValueError, match=match):
    wire.Session(**kw)


@settings(max_examples=30, deadline=None)
@given(seeds, codings, layers_)
def test_the_independent_decoder_agrees(seed, coding, layers):
  rng = np.random.default_rng(seed)
  session = drawing.session(rng, coding, layers, (1, 2, 3, 8, 37, 256, 70000))
  message = drawing.message(rng, session)
  text, data = session.to_json(priors=True), session.pack(message)
  assert independent.decode(text, data) == drawing.plain(message)
  part = session.split(data)[0]
  found = drawing.plain(session.unpack(part))
  assert independent.decode(text, part) == found
  with pytest.raises(AssertionError):
    independent.decode(text, data[:-1] + bytes([data[-1] ^ 1]))


READER = """
import sys
from tests.wire import drawing
from collab_jax import wire
for path in sys.argv[1:]:
  saved = wire.load(path)
  print([drawing.plain(saved.session.unpack(p)) for p in saved.packets])
"""


def test_another_process_decodes(tmp_path):
  rng = np.random.default_rng(5)
  paths, want = [], ''
  for coding in wire.CODINGS:
    session = drawing.session(rng, coding, 2)
    sent = [drawing.message(rng, session) for _ in range(20)]
    paths.append(tmp_path / f'{coding}.cjw')
    wire.save(paths[-1], session, [session.pack(m) for m in sent])
    want += f'{[drawing.plain(m) for m in sent]}\n'
  command = [sys.executable, '-c', READER, *paths]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert done.stdout == want


def test_the_page_s_example_runs(capsys):
  page = pathlib.Path(__file__).parents[2] / 'docs/wire.md'
  (block,) = re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
  exec(block, {})
  printed = capsys.readouterr().out
  assert re.fullmatch(
    r"\d+ \{'header': 5, 'assignments': \d+, 'centroids/x': \d+\}\n", printed
  )
