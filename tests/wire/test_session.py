import json
import pathlib
import re
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
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
    patch.setattr(
      wire.session.layers, 'checks', lambda rows: [_Right(4) for _ in rows]
    )
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


@settings(max_examples=60, deadline=None)
@given(seeds, codings)
def test_json_builds_the_same_session(seed, coding):
  _, session, message = _some(seed, coding)
  text = session.to_json(priors=True)
  assert wire.Session.from_json(text).digest == session.digest
  bare = session.to_json()
  again = wire.Session.from_json(bare, session.priors)
  assert drawing.same(message, again.unpack(session.pack(message)))
  assert session.differences(bare) == []
  if session.priors:
    with pytest.raises(wire.FormatError, match='priors'):
      wire.Session.from_json(bare)


def test_differences_say_what():
  fields = {'a': messages.Symbols(8, (16,))}
  here = wire.Session(fields, spec={'quantizer': 'kmeans(k=8)', 'n': 16})
  other = {'a': messages.Symbols(4, (16,)), 'b': messages.Symbols(2, ())}
  there = wire.Session(other, spec={'n': 16}, coding='fixed')
  assert here.differences(there.to_json()) == [
    'coding: here "best", there "fixed"',
    'fields.a.alphabet: here 8, there 4',
    'fields.b.alphabet: here nothing, there 2',
    'fields.b.kind: here nothing, there "symbols"',
    'fields.b.layer: here nothing, there 0',
    'fields.b.name: here nothing, there "b"',
    'fields.b.shape: here nothing, there []',
    'fields.order: here ["a"], there ["a", "b"]',
    'spec.quantizer: here "kmeans(k=8)", there nothing',
  ]


@pytest.mark.parametrize(
  'change',
  [
    {'format': 'other'},
    {'version': 2},
    {'coding': 'worst'},
    {'coding': []},
    {'fields': None},
    {'fields': [3]},
    {'fields': []},
    {'fields': [{'name': 'a', 'kind': 'symbols', 'alphabet': '8'}]},
    {'priors': {'b': {}}},
    {'priors': {'a': {'rows': 1, 'sha256': '', 'table': 'eJw='}}},
    {'priors': {'a': {'rows': 10**9, 'sha256': '', 'table': 'eJw='}}},
    {'priors': {'a': {'rows': 16, 'sha256': '', 'table': 'x'}}},
    {'spec': None},
    {'spec': {'x': 1}},
    {'digest': 'abc'},
  ],
)
def test_bad_json_is_told(change):
  session = wire.Session({'a': messages.Symbols(8, (16,))})
  text = json.dumps({**json.loads(session.to_json()), **change})
  with pytest.raises(wire.FormatError):
    wire.Session.from_json(text)


@pytest.mark.parametrize(
  'text', [b'', b'\xff', b'[1]', b'{}', b'[' * 10**5, b'1e999']
)
def test_what_is_no_json_is_told(text):
  with pytest.raises(wire.FormatError):
    wire.Session.from_json(text)


def test_large_sessions_are_refused():
  session = wire.Session({'a': messages.Symbols(8, (10**6, 10**6))})
  with pytest.raises(wire.FormatError, match='4000000000000 bytes'):
    wire.Session.from_json(session.to_json())


@pytest.mark.parametrize(
  ('kw', 'match'),
  [
    ({'coding': 'zip'}, "coding: got 'zip'"),
    ({'fields': {}}, 'at least one field'),
    ({'fields': {'a': messages.Symbols(2, (), 1)}}, r'from 0, got \[1\]'),
    ({'spec': {'x': object()}}, 'spec: expected plain values'),
    ({'spec': {'x': float('nan')}}, 'spec: expected plain values'),
    ({'priors': {'x': [[1]]}}, "priors: got 'x'"),
    ({'priors': {'a': [[1, 2]]}}, r'shape \(1, 3\) or \(4, 3\)'),
    ({'priors': {'a': [[1, 2, 0]]}}, 'at least 1'),
    ({'priors': {'a': [[1, 2, 65534]]}}, 'largest sum of 65537'),
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
